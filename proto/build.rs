// SPDX-License-Identifier: Apache-2.0
//! Compiles the `.proto` files with a pure-Rust protobuf compiler, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/ballista.proto", "proto/journal.proto"], ["proto"])?;
    // Its options may be secrets; `src/lib.rs` has a `Debug` without them.
    tonic_prost_build::configure().bytes(".").skip_debug([".ballista.v1.ObjectStore"]).compile_fds(descriptors)?;
    Ok(())
}
