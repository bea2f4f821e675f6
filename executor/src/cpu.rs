// SPDX-License-Identifier: Apache-2.0
//! The runtime on which plans run, apart from the one that talks to the network: an operator that computes for a long
//! time delays other operators, but no heartbeat and no other executor's fetch.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{ExecutorError, Result};

/// Decoding and executing a deeply nested plan recurses; untouched stack costs address space only.
const STACK_BYTES: usize = 256 << 20;

/// The scheduler may give a small query one task beside those on the slots. It must not wait for a thread: an operator
/// that never waits itself, such as a join with many matches, keeps one for minutes.
const RESERVED_THREADS: usize = 1;

/// Owns the runtime; dropping it leaves running work behind without waiting for it, which is allowed anywhere.
#[derive(Debug)]
pub(crate) struct CpuRuntime {
    runtime: Option<Runtime>,
}

impl CpuRuntime {
    pub(crate) fn start(slots: usize) -> Result<Self> {
        let threads = slots + RESERVED_THREADS;
        let number = AtomicUsize::new(0);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name_fn(move || format!("ballista-cpu-{}", number.fetch_add(1, Ordering::Relaxed)))
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(ExecutorError::io("start the CPU runtime"))?;
        Ok(Self { runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> Handle {
        // Only `drop` takes the runtime out.
        self.runtime.as_ref().expect("the runtime is there until it is dropped").handle().clone()
    }
}

impl Drop for CpuRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
