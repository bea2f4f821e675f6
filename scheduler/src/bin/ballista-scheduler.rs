// SPDX-License-Identifier: Apache-2.0
//! The program `ballista-scheduler`; see [`ballista_scheduler::daemon`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ballista_scheduler::daemon::main()
}
