// SPDX-License-Identifier: Apache-2.0
//! Compiles the `.proto` files with a pure-Rust protobuf compiler, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/ballista.proto");
    let descriptors = protox::compile(["proto/ballista.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
