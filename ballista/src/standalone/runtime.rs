// SPDX-License-Identifier: Apache-2.0
//! The threads of an in-process cluster, and how they end.

use std::future::Future;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use tokio::runtime::{Builder, Handle, Runtime};

use super::Daemons;

/// Threads for everything but the executor's CPU work: scheduler, connections, result streams.
const THREADS: usize = 2;

/// How long tasks that were just cancelled may take to notice.
const DRAIN_WAIT: Duration = Duration::from_millis(500);

/// How long the end of the cluster holds up the application. Nothing is lost if it takes longer.
const END_WAIT: Duration = Duration::from_secs(2);

/// Owns the cluster's threads and daemons; dropping it stops both and waits a moment, so that temporary files are
/// gone when the application ends.
pub(super) struct ClusterRuntime {
    /// `None` only while being dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    daemons: Option<Daemons>,
}

impl ClusterRuntime {
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ballista-standalone")
            .enable_all()
            .build()
            .map_err(DataFusionError::IoError)?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime), daemons: None })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs `future` on the cluster's threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.handle.spawn(future);
        task.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
    }

    pub(super) fn with_daemons(mut self, daemons: Daemons) -> Self {
        self.daemons = Some(daemons);
        self
    }
}

impl Drop for ClusterRuntime {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let daemons = self.daemons.take();
        let (done, ended) = mpsc::channel::<()>();
        // A thread of its own: a runtime cannot be waited for inside of another.
        let end = move || {
            // Sent by being dropped.
            let _done = done;
            if let Some(Daemons { scheduler, mut executor }) = daemons {
                runtime.block_on(async {
                    // Nobody is left who could use a result, so there is little to drain.
                    executor.drain();
                    if tokio::time::timeout(DRAIN_WAIT, executor.wait()).await.is_err() {
                        executor.kill();
                        // Whatever it says of its end, it is gone.
                        let _ = executor.wait().await;
                    }
                    scheduler.scheduler().shutdown().await;
                    drop(scheduler);
                });
            }
            runtime.shutdown_timeout(END_WAIT);
        };
        if thread::Builder::new().name("ballista-standalone-end".into()).spawn(end).is_ok() {
            // Either outcome is fine.
            let _ = ended.recv_timeout(END_WAIT);
        }
    }
}
