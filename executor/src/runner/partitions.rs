// SPDX-License-Identifier: Apache-2.0
//! The partitions of a plan instance, each polled to its end in a tokio task of its own.
//!
//! All of them must run at the same time: operators such as a collected hash join wait for every partition that their
//! plan declares.

use std::any::Any;
use std::time::{Duration, Instant};

use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::classify;
use datafusion::error::Result;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, yield_now};
use tracing::Instrument;

/// Knows whether any work of a Ballista task is still under way, aborted work included: each holds a receiver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Work(watch::Sender<()>);

impl Work {
    /// Resolves when no work is under way. Work that was aborted inside a computation ends after it.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }
}

/// Lets a loop over batches yield now and then: operators give way by number of batches, which is too seldom for a
/// cancellation if one batch takes long.
#[derive(Debug)]
pub(crate) struct Turn(Instant);

impl Turn {
    const LENGTH: Duration = Duration::from_millis(10);

    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    /// Yields if the turn is over.
    pub(crate) async fn give_way(&mut self) {
        if self.0.elapsed() >= Self::LENGTH {
            yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// Work of one Ballista task; dropping it aborts what has not ended.
pub(crate) struct Partitions<T> {
    set: JoinSet<Result<T>>,
    work: Work,
}

impl<T: Send + 'static> Partitions<T> {
    /// `work` tells when what was aborted has really ended.
    pub(crate) fn new(work: &Work) -> Self {
        Self { set: JoinSet::new(), work: work.clone() }
    }

    /// Starts work on the current runtime.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = Result<T>> + Send + 'static) {
        let under_way = self.work.0.subscribe();
        let tracked = async move {
            let outcome = work.await;
            drop(under_way);
            outcome
        };
        self.set.spawn(tracked.in_current_span());
    }

    /// What the next work to end gave; `None` when all have ended.
    pub(crate) async fn next(&mut self) -> Option<Result<T, ClassifiedError>> {
        let ended = self.set.join_next().await?;
        Some(match ended {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(classify(&error)),
            Err(error) => Err(join_error(error)),
        })
    }

    /// What all work gave, in the order in which it ended; or the first error, and then the rest is aborted.
    pub(crate) async fn join_all(mut self) -> Result<Vec<T>, ClassifiedError> {
        let mut values = Vec::with_capacity(self.set.len());
        while let Some(value) = self.next().await {
            values.push(value?);
        }
        Ok(values)
    }
}

fn join_error(error: JoinError) -> ClassifiedError {
    match error.try_into_panic() {
        Ok(panic) => ClassifiedError::new(ErrorClass::Deterministic, panic_text(panic.as_ref())),
        // Work is aborted only when nobody waits for it any longer, or when the process ends.
        Err(_) => ClassifiedError::new(ErrorClass::Infra, "cancelled"),
    }
}

/// What a caught panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("panic: {text}")
}
