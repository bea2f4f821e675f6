// SPDX-License-Identifier: Apache-2.0
//! Task statuses on their way to the scheduler.
//!
//! ```text
//!   tasks ──push──▶ [ 4 │ 5 │ 6 │ 7 ] ◀── after(5): what this connection has not sent
//!                     ▲
//!                     └── ack(4): everything up to here is gone
//! ```
//!
//! A status stays here until the scheduler acknowledged it, so a connection that breaks loses none: the next one sends
//! all of them again, under the same numbers, and the scheduler drops what it has seen.
//!
//! *Invariant:* sequence numbers start at 1 in each incarnation and have no gaps.

use std::collections::{HashSet, VecDeque};

use ballista_core::TaskKey;
use ballista_exchange::wire::task_key_to_proto;
use ballista_proto as proto;
use parking_lot::Mutex;
use tokio::sync::watch;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// (last number given out, number of unacknowledged statuses)
    changed: watch::Sender<(u64, usize)>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    unacked: VecDeque<proto::TaskStatus>,
    /// Tasks that run and have rows for their clients.
    streaming: HashSet<TaskKey>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new((0, 0)) }
    }

    /// Queues a status of `task`.
    pub(crate) fn push(&self, task: &TaskKey, status: proto::task_status::Status) {
        use proto::task_status::Status;
        let mut state = self.state.lock();
        state.last += 1;
        let sequence = state.last;
        match status {
            Status::Streaming(_) => drop(state.streaming.insert(task.clone())),
            Status::Finished(_) | Status::Failed(_) => drop(state.streaming.remove(task)),
            Status::Committed(_) | Status::CommitFailed(_) => {}
        }
        let task = Some(task_key_to_proto(task));
        state.unacked.push_back(proto::TaskStatus { sequence, task, status: Some(status) });
        self.changed.send_replace((state.last, state.unacked.len()));
    }

    /// Forgets what the scheduler has, up to and including `sequence`.
    pub(crate) fn ack(&self, sequence: u64) {
        let mut state = self.state.lock();
        while state.unacked.front().is_some_and(|status| status.sequence <= sequence) {
            state.unacked.pop_front();
        }
        self.changed.send_replace((state.last, state.unacked.len()));
    }

    /// Unacknowledged statuses above `sequence`, ascending.
    pub(crate) fn after(&self, sequence: u64) -> Vec<proto::TaskStatus> {
        let state = self.state.lock();
        let start = state.unacked.partition_point(|status| status.sequence <= sequence);
        state.unacked.range(start..).cloned().collect()
    }

    /// Whether a task that runs has said that it has rows.
    pub(crate) fn is_streaming(&self, task: &TaskKey) -> bool {
        self.state.lock().streaming.contains(task)
    }

    /// Whether the scheduler may not know how a task has ended.
    pub(crate) fn has_unacked_end(&self, task: &TaskKey) -> bool {
        use proto::task_status::Status;
        let task = task_key_to_proto(task);
        let is_end = |status: &proto::TaskStatus| {
            status.task.as_ref() == Some(&task)
                && matches!(status.status, Some(Status::Finished(_) | Status::Failed(_)))
        };
        self.state.lock().unacked.iter().any(is_end)
    }

    /// Wakes whoever sends when there is something new.
    pub(crate) fn subscribe(&self) -> watch::Receiver<(u64, usize)> {
        self.changed.subscribe()
    }

    /// Resolves when the scheduler has everything.
    pub(crate) async fn all_acked(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.changed.subscribe().wait_for(|(_, unacked)| *unacked == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::{JobId, StageId, TaskId};
    use proto::task_status::Status;

    use super::*;

    fn push(outbox: &Outbox, count: u32) {
        for task in 0..count {
            let key = TaskKey {
                job: JobId::new("job").unwrap(),
                stage: StageId(0),
                stage_attempt: 0,
                task: TaskId(task),
                attempt: 0,
            };
            outbox.push(&key, Status::Streaming(proto::TaskStreaming {}));
        }
    }

    fn numbers(statuses: Vec<proto::TaskStatus>) -> Vec<u64> {
        statuses.into_iter().map(|status| status.sequence).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_under_the_same_number() {
        let outbox = Outbox::new();
        push(&outbox, 4);
        assert_eq!(numbers(outbox.after(0)), [1, 2, 3, 4]);
        assert_eq!(numbers(outbox.after(3)), [4]);
        outbox.ack(2);
        assert_eq!(numbers(outbox.after(0)), [3, 4]);
        outbox.ack(1);
        push(&outbox, 1);
        assert_eq!(numbers(outbox.after(0)), [3, 4, 5]);
        outbox.ack(99);
        assert!(outbox.after(0).is_empty());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_acknowledgement() {
        let outbox = Outbox::new();
        outbox.all_acked().await;
        push(&outbox, 2);
        let waiting = outbox.all_acked();
        tokio::pin!(waiting);
        outbox.ack(1);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        outbox.ack(2);
        waiting.await;
    }
}
