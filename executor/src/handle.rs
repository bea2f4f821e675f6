// SPDX-License-Identifier: Apache-2.0
//! A running executor, as seen by whoever started it.

use ballista_core::Incarnation;
use ballista_exchange::ExecutorAddress;
use tokio::task::JoinHandle;

use crate::error::{ExecutorError, Result};
use crate::session::Signals;

/// Stops the executor when dropped, without waiting; see [`ExecutorHandle::shutdown`] for the polite way.
#[derive(Debug)]
pub struct ExecutorHandle {
    signals: Signals,
    slots: u32,
    memory_bytes: u64,
    main: Option<JoinHandle<Result<()>>>,
}

impl ExecutorHandle {
    pub(crate) fn new(signals: Signals, slots: u32, memory_bytes: u64, main: JoinHandle<Result<()>>) -> Self {
        Self { signals, slots, memory_bytes, main: Some(main) }
    }

    /// The executor's name, its present incarnation and where its data service is reached.
    pub fn address(&self) -> ExecutorAddress {
        self.signals.status.borrow().address.clone()
    }

    /// The present incarnation; another one after the scheduler fenced it.
    pub fn incarnation(&self) -> Incarnation {
        self.signals.status.borrow().address.incarnation
    }

    /// How many partitions it runs at once.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Size of its memory pool.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Waits until the scheduler has welcomed the present incarnation. Fails if the executor ended before; then
    /// [`ExecutorHandle::wait`] tells why.
    pub async fn registered(&self) -> Result<()> {
        let mut status = self.signals.status.subscribe();
        tokio::select! {
            // The sender lives in `self`, so waiting cannot fail.
            _ = status.wait_for(|status| status.registered) => Ok(()),
            () = self.signals.kill.cancelled() => Err(ExecutorError::Stopped),
        }
    }

    /// Begins to drain: the scheduler is told to launch nothing more, running tasks end, outputs are served until
    /// nobody needs them or the grace period is over; then the executor leaves.
    pub fn drain(&self) {
        self.signals.drain.cancel();
    }

    /// Stops at once: tasks are aborted, streams break, outputs are gone.
    pub fn kill(&self) {
        self.signals.kill.cancel();
    }

    /// Waits until the executor has ended, for whatever reason. Returns at once if that was reported before.
    pub async fn wait(&mut self) -> Result<()> {
        let Some(main) = &mut self.main else { return Ok(()) };
        let ended = main.await;
        self.main = None;
        ended.map_err(|error| ExecutorError::Died(error.to_string()))?
    }

    /// Drains, and waits until the executor has left.
    pub async fn shutdown(mut self) -> Result<()> {
        self.drain();
        self.wait().await
    }
}

impl Drop for ExecutorHandle {
    fn drop(&mut self) {
        self.kill();
    }
}
