// SPDX-License-Identifier: Apache-2.0
//! The planning threads: a few, with large stacks, because plans are trees and are walked recursively.
//!
//! Not tokio's blocking pool: that one would start hundreds of threads for hundreds of queries that arrive together.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{Result, SchedulerError};

/// Address space for one thread; memory is used only as deep as the stack gets.
const STACK_BYTES: usize = 256 << 20;

/// At least this many, so that one hard query does not keep all others waiting on a small machine.
const MIN_THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// Runs planning work in the order it came, on as many threads as there are cores. The threads end when the pool is
/// dropped and their work is done.
pub(crate) struct PlanningPool {
    queue: Sender<Work>,
}

impl PlanningPool {
    /// Starts the threads; work on them finds `runtime` as the current one.
    pub(crate) fn start(runtime: &Handle) -> Result<Self> {
        let (queue, work) = channel::<Work>();
        let work = Arc::new(Mutex::new(work));
        let cores = thread::available_parallelism().map_or(MIN_THREADS, usize::from);
        for index in 0..cores.max(MIN_THREADS) {
            let (work, runtime) = (Arc::clone(&work), runtime.clone());
            thread::Builder::new()
                .name(format!("ballista-plan-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || run(&work, &runtime))
                .map_err(|source| SchedulerError::Io { action: "start a planning thread", source })?;
        }
        Ok(Self { queue })
    }

    /// Queues work; what it panics with is its own affair, see [`catch`].
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        // The threads live as long as this sender.
        let _ = self.queue.send(Box::new(work));
    }
}

fn run(queue: &Mutex<Receiver<Work>>, runtime: &Handle) {
    let _runtime = runtime.enter();
    loop {
        // The lock is held while waiting: the next thread waits for the lock instead.
        let next = queue.lock().recv();
        let Ok(work) = next else { return };
        if let Err(panic) = catch(work) {
            tracing::error!(%panic, "planning work panicked outside of its job");
        }
    }
}

/// Runs `work`; a panic becomes its text.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(panic.as_ref()))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_owned())
}
