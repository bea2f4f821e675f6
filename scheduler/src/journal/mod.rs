// SPDX-License-Identifier: Apache-2.0
//! What survives the scheduler's death.
//!
//! The shell appends batches of records, each of which is written whole or not at all, and goes on. A thread of its own
//! writes what has come together, and says up to which batch everything is durable:
//!
//! ```text
//!   shell ─append(batch)─▶ [ 7 │ 8 │ 9 ] ─▶ thread: one write, one sync ─▶ Durable(9) ─▶ shell
//! ```
//!
//! What must not happen before a record is durable waits for that message; everything else does not. Unless somebody
//! waits, the thread lets batches come together for a moment: of a job that is over by then, nothing is written.
//!
//! | key | record | written |
//! |---|---|---|
//! | `cluster` | epoch, ticket key | at every start |
//! | `executor/E` | incarnation | when an executor joins or is lost |
//! | `job/J/request` | the query | when it is submitted |
//! | `job/J/starts` | schedulers that began to plan it and died | when it is planned again after a restart; goes when that is done |
//! | `job/J/step/N` | a step of planning: what it was told, digest of what came of it | when the planner has answered |
//! | `job/J/stage/S` | attempt and outputs of a stage | when it is finished, and when it starts over |
//! | `job/J/commit/T` | an attempt that may publish what it wrote | before it is told to |
//! | `job/J/end` | the job's last events | at its end, if somebody may come back for them |
//!
//! A job's records go when the job is freed. What tasks have done is not written down: the executors know it.
//!
//! **Failure modes.** A disk that is full or broken ends writing for good, loudly: the scheduler goes on in memory, takes
//! no new jobs that would have to be durable, and publishes nothing more. A directory that another scheduler uses, that
//! is not ours, or that is damaged is refused at the start.

pub(crate) mod keys;
pub(crate) mod recovered;
#[cfg(feature = "journal")]
pub(crate) mod store;
#[cfg(all(test, feature = "journal"))]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::error;

use crate::error::{Result, SchedulerError};
use crate::shell::message::{Message, WeakShellHandle};

/// How long batches come together. Long enough that a short query is over, short against one whose loss would hurt.
const LINGER: Duration = Duration::from_millis(50);

/// Number of a batch; batches become durable in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub(crate) u64);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Put(String, Vec<u8>),
    Delete(String),
    /// Everything under a prefix.
    DeleteAll(String),
}

impl Op {
    pub(crate) fn put(key: String, record: &impl prost::Message) -> Self {
        Self::Put(key, record.encode_to_vec())
    }
}

/// A batch on its way to the thread.
struct Append {
    lsn: Lsn,
    batch: Vec<Op>,
    /// Somebody waits for it.
    is_urgent: bool,
}

/// Where batches are written.
pub(crate) trait Store: Send {
    /// Writes the batches in order, and returns when all of them are durable.
    fn write(&mut self, batches: &[Vec<Op>]) -> Result<(), String>;
}

/// A store that may stop to answer, as sled does when its disk is full: then it has failed.
pub(crate) struct Bounded {
    requests: Option<Sender<Vec<Vec<Op>>>>,
    answers: Receiver<Result<(), String>>,
    limit: Duration,
}

impl Bounded {
    /// Writes on a thread of its own, which is given up if a write takes longer than `limit`.
    pub(crate) fn new(mut store: impl Store + 'static, limit: Duration) -> Result<Self> {
        let (requests, batches) = channel::<Vec<Vec<Op>>>();
        let (answer, answers) = channel();
        thread::Builder::new()
            .name("ballista-journal-store".to_owned())
            .spawn(move || {
                while let Ok(batches) = batches.recv() {
                    let written = store.write(&batches);
                    // Dropped before the channel is closed, which tells that it is free.
                    if answer.send(written).is_err() {
                        break;
                    }
                }
                drop(store);
                drop(answer);
            })
            .map_err(|source| SchedulerError::Io { action: "start the journal's thread", source })?;
        Ok(Self { requests: Some(requests), answers, limit })
    }
}

impl Store for Bounded {
    fn write(&mut self, batches: &[Vec<Op>]) -> Result<(), String> {
        let gone = || "the store has ended".to_owned();
        self.requests.as_ref().ok_or_else(gone)?.send(batches.to_vec()).map_err(|_| gone())?;
        match self.answers.recv_timeout(self.limit) {
            Ok(written) => written,
            Err(RecvTimeoutError::Timeout) => {
                // Whatever it says later is too late.
                self.requests = None;
                Err(format!("the disk did not take a write within {} s", self.limit.as_secs_f64()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Drop for Bounded {
    /// Waits until the store is free for somebody else, unless it hangs.
    fn drop(&mut self) {
        if self.requests.take().is_some() {
            let _ = self.answers.recv_timeout(self.limit);
        }
    }
}

/// The shell's end of a journal.
pub(crate) struct Journal {
    queue: Option<Sender<Append>>,
    thread: Option<JoinHandle<()>>,
    last: Lsn,
    durable: Lsn,
    failed: Arc<AtomicBool>,
}

impl Journal {
    /// Nothing is written; all is lost with the process.
    pub(crate) fn none() -> Self {
        Self { queue: None, thread: None, last: Lsn(0), durable: Lsn(0), failed: Arc::default() }
    }

    /// Writes to `store` on a thread of its own, and tells the shell what is durable.
    pub(crate) fn start(store: Box<dyn Store>, shell: WeakShellHandle) -> Result<Self> {
        let (queue, batches) = channel::<Append>();
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        let thread = thread::Builder::new()
            .name("ballista-journal".to_owned())
            .spawn(move || write(store, &batches, &shell, &has_failed))
            .map_err(|source| SchedulerError::Io { action: "start the journal's thread", source })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), last: Lsn(0), durable: Lsn(0), failed })
    }

    /// Whether what is appended survives.
    pub(crate) fn is_durable(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether writing has ended because of an error.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Appends a batch. Its number, once durable, comes with [`Message::Durable`].
    pub(crate) fn append(&mut self, batch: Vec<Op>) -> Lsn {
        self.send(batch, false)
    }

    /// Appends a batch that somebody waits for.
    pub(crate) fn append_now(&mut self, batch: Vec<Op>) -> Lsn {
        self.send(batch, true)
    }

    fn send(&mut self, batch: Vec<Op>, is_urgent: bool) -> Lsn {
        let Some(queue) = &self.queue else { return self.last };
        self.last.0 += 1;
        let lsn = self.last;
        if queue.send(Append { lsn, batch, is_urgent }).is_err() {
            self.durable = lsn;
        }
        lsn
    }

    /// Everything up to here is durable, or never will be.
    pub(crate) fn set_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// Whether everything up to here is durable, or never will be.
    pub(crate) fn has_passed(&self, lsn: Lsn) -> bool {
        lsn <= self.durable
    }
}

impl Drop for Journal {
    /// What was appended is written, and the state is free for the next scheduler.
    fn drop(&mut self) {
        self.queue = None;
        // A panic of it was reported when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread: takes what has come together, writes it, says so. After an error it writes nothing more.
fn write(mut store: Box<dyn Store>, batches: &Receiver<Append>, shell: &WeakShellHandle, failed: &AtomicBool) {
    while let Ok(first) = batches.recv() {
        let until = Instant::now() + LINGER;
        let (mut last, mut is_urgent, mut group) = (first.lsn, first.is_urgent, vec![first.batch]);
        loop {
            let wait = if is_urgent { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            let Ok(next) = batches.recv_timeout(wait) else { break };
            last = next.lsn;
            is_urgent |= next.is_urgent;
            group.push(next.batch);
        }
        if !failed.load(Ordering::Relaxed)
            && let Err(problem) = store.write(&group)
        {
            failed.store(true, Ordering::Relaxed);
            error!(
                problem,
                "the journal cannot be written: nothing more is durable, no job that should be is taken, and nothing is \
                 published; make room or repair the disk, then restart this scheduler"
            );
        }
        // A shell that has ended need not know, and what it has appended is written all the same.
        if let Some(queue) = shell.queue() {
            let _ = queue.blocking_send(Message::Durable(last));
        }
    }
}

/// A record, unless it is damaged.
pub(crate) fn decode<M: prost::Message + Default>(key: &str, record: &[u8]) -> Result<M, String> {
    M::decode(record).map_err(|error| format!("record {key} makes no sense: {error}"))
}
