// SPDX-License-Identifier: Apache-2.0
//! The executor's one stream to the scheduler, kept up for as long as the executor lives.
//!
//! ```text
//!   begin a life ─▶ connect ─▶ Register ─▶ Welcome ─▶ heartbeats, statuses ▲ ▼ launches, cancels, frees
//!        ▲             ▲                                   │ broken            │ Fenced
//!        │             └──────── 100 ms … 1 s ─────────────┘                   │
//!        └─────────────── a new incarnation ───────────────────────────────────┘
//! ```
//!
//! This side survives a stream that breaks: the incarnation, its tasks and its outputs stay, statuses wait in the outbox,
//! and the next stream registers the same incarnation again. Whether it is still wanted is the scheduler's decision: only the scheduler decides that an incarnation is
//! over, by [`proto::Fenced`]; a scheduler with another ticket key is another cluster and counts as one that does.
//!
//! An executor that is alone goes on with its tasks and keeps what it holds for the scheduler's next start; nothing of what
//! they write is visible before the scheduler says so. After a long time it gives up.
//!
//! *Invariant:* nothing here polls. Work is triggered by messages, by the outbox and by the heartbeat's timer.
//!
//! **Failure modes.** An unreachable scheduler is tried again for ever. One that refuses this executor (another version,
//! another hash function, no permission) ends it with [`ExecutorError::Refused`]: trying again would change nothing.

mod backoff;
mod connection;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::Incarnation;
use ballista_exchange::ExecutorAddress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{ExecutorError, Result};
use crate::life::{Life, Shared};
use backoff::Backoff;
use connection::{Ended, connect};

/// How long streams that are being read may go on after an executor has nothing else left to do.
const LAST_READS: Duration = Duration::from_secs(5);

/// How long the scheduler may take to hear that the executor leaves.
const GOODBYE: Duration = Duration::from_secs(2);

/// Without a scheduler for so long, an executor drops what it runs and holds: nobody will come for it.
const ALONE: Duration = Duration::from_secs(15 * 60);

/// A life that lasted so long did not end because the last one did.
const SETTLED: Duration = Duration::from_secs(30);

/// What the executor's handle and its main loop tell each other.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Finish what runs, then leave.
    pub(crate) drain: CancellationToken,
    /// All is finished: say so, then leave.
    pub(crate) leave: CancellationToken,
    /// Leave now.
    pub(crate) kill: CancellationToken,
    pub(crate) status: watch::Sender<ExecutorStatus>,
}

/// Where the executor is, and whether the scheduler knows.
#[derive(Debug, Clone)]
pub(crate) struct ExecutorStatus {
    pub(crate) address: ExecutorAddress,
    pub(crate) registered: bool,
}

/// Runs the executor until it is told to stop, or is refused.
pub(crate) async fn run(shared: Arc<Shared>, first: Life, signals: Signals) -> Result<()> {
    let mut life = first;
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        let ended = {
            let mut connected = std::pin::pin!(keep_connected(&shared, &life, &signals));
            tokio::select! {
                ended = &mut connected => ended,
                () = drained(&shared, &life, &signals) => {
                    signals.leave.cancel();
                    tokio::time::timeout(GOODBYE, connected).await.unwrap_or(Ok(Ended::Stopped))
                }
            }
        };
        match ended {
            Ok(Ended::Fenced(reason)) => {
                tracing::warn!(%reason, incarnation = life.address.incarnation.0, "fenced by the scheduler, starting over");
                life.kill().await;
            }
            Ok(Ended::Stopped | Ended::Broken(_)) => {
                let patience = if signals.kill.is_cancelled() { Duration::ZERO } else { LAST_READS };
                life.end(patience).await;
                return left(&shared);
            }
            Err(error) => {
                life.kill().await;
                return Err(error);
            }
        }
        if begun.elapsed() > SETTLED {
            backoff.reset();
        }
        tokio::select! {
            () = signals.kill.cancelled() => return left(&shared),
            () = signals.drain.cancelled() => return left(&shared),
            () = tokio::time::sleep(backoff.next()) => {}
        }
        life = Life::begin(&shared, Incarnation::random())?;
        signals.status.send_replace(ExecutorStatus { address: life.address.clone(), registered: false });
    }
}

/// What it means that the executor has ended without an error of the session.
fn left(shared: &Shared) -> Result<()> {
    if shared.stuck.is_cancelled() { Err(ExecutorError::Stuck) } else { Ok(()) }
}

/// Connects again and again; ends only with the life.
async fn keep_connected(shared: &Shared, life: &Life, signals: &Signals) -> Result<Ended> {
    let mut backoff = Backoff::new();
    let mut last_welcome = Instant::now();
    loop {
        let mut welcome = false;
        match connect(shared, life, signals, &mut welcome).await? {
            Ended::Broken(reason) => {
                if welcome {
                    backoff.reset();
                    last_welcome = Instant::now();
                }
                if last_welcome.elapsed() > ALONE {
                    return Ok(Ended::Fenced(format!("no scheduler was there for {} s", ALONE.as_secs())));
                }
                let pause = backoff.next();
                tracing::warn!(%reason, pause_ms = pause.as_millis() as u64, "no connection to the scheduler");
                tokio::select! {
                    () = signals.kill.cancelled() => return Ok(Ended::Stopped),
                    () = signals.leave.cancelled() => return Ok(Ended::Stopped),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            ended => return Ok(ended),
        }
    }
}

/// Resolves when the executor was told to drain and is done, or out of time.
async fn drained(shared: &Shared, life: &Life, signals: &Signals) {
    tokio::select! {
        () = signals.drain.cancelled() => {}
        () = shared.stuck.cancelled() => signals.drain.cancel(),
    }
    if tokio::time::timeout(shared.grace, life.done()).await.is_err() {
        let grace = shared.grace.as_secs();
        tracing::warn!(grace_seconds = grace, "leaving with tasks or outputs that are still needed");
    }
}
