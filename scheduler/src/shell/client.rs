// SPDX-License-Identifier: Apache-2.0
//! The queue between the shell and one client.
//!
//! Events are kept until they are read, so that none is ever dropped; there are few of them, and the large ones are
//! bounded by `ballista.client.inline_result_bytes` per task. Progress is a single place that newer progress replaces,
//! read when no event waits. Nothing here waits, so a client that does not read costs the shell nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ballista_proto as proto;
use parking_lot::Mutex;
use proto::job_event::Event;

use super::message::{Connection, Follower};

#[derive(Default)]
struct Shared {
    events: VecDeque<Event>,
    progress: Option<proto::JobProgress>,
    /// The shell has dropped its end: the job is freed.
    over: bool,
    waker: Option<Waker>,
}

/// The shell's end. Dropping it ends the stream once all events are read.
pub(crate) struct ClientQueue(Arc<Mutex<Shared>>);

/// The client's end.
pub(crate) struct ClientEvents(Arc<Mutex<Shared>>);

/// A queue without events.
pub(crate) fn client_queue() -> (ClientQueue, ClientEvents) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    (ClientQueue(Arc::clone(&shared)), ClientEvents(shared))
}

impl ClientQueue {
    /// Adds an event.
    pub(crate) fn send(&self, event: Event) {
        self.change(|shared| {
            if matches!(event, Event::Finished(_) | Event::Failed(_)) {
                // What comes after the end is no progress.
                shared.progress = None;
            }
            shared.events.push_back(event);
        });
    }

    /// Replaces the progress that was not read yet.
    pub(crate) fn set_progress(&self, progress: proto::JobProgress) {
        self.change(|shared| shared.progress = Some(progress));
    }

    fn change(&self, change: impl FnOnce(&mut Shared)) {
        let mut shared = self.0.lock();
        change(&mut shared);
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The clients that follow a job: one, or none, or for a moment the same one twice, because the end of a broken connection
/// is heard of late.
#[derive(Default)]
pub(crate) struct Clients(Vec<Follower>);

impl Clients {
    pub(crate) fn add(&mut self, follower: Follower) {
        self.0.push(follower);
    }

    pub(crate) fn remove(&mut self, connection: Connection) {
        self.0.retain(|follower| follower.connection != connection);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = Connection> {
        self.0.iter().map(|follower| follower.connection)
    }

    pub(crate) fn send(&self, event: Event) {
        if let Some((last, others)) = self.0.split_last() {
            others.iter().for_each(|follower| follower.queue.send(event.clone()));
            last.queue.send(event);
        }
    }

    pub(crate) fn set_progress(&self, progress: proto::JobProgress) {
        self.0.iter().for_each(|follower| follower.queue.set_progress(progress));
    }
}

impl Drop for ClientQueue {
    fn drop(&mut self) {
        self.change(|shared| shared.over = true);
    }
}

impl ClientEvents {
    /// The next event, then the newest progress; `None` when the job is freed and everything was read.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<proto::JobEvent>> {
        let mut shared = self.0.lock();
        let next = match shared.events.pop_front() {
            Some(event) => Some(event),
            None => shared.progress.take().map(Event::Progress),
        };
        match next {
            Some(event) => Poll::Ready(Some(proto::JobEvent { event: Some(event) })),
            None if shared.over => Poll::Ready(None),
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether the job is freed, so that nobody needs to hear of the client's end.
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(events: &ClientEvents) -> Poll<Option<Event>> {
        let mut context = Context::from_waker(Waker::noop());
        events.poll_next(&mut context).map(|next| next.and_then(|event| event.event))
    }

    fn progress(tasks_done: u32) -> proto::JobProgress {
        proto::JobProgress { tasks_done, ..Default::default() }
    }

    #[test]
    fn events_come_first_and_only_the_newest_progress_is_kept() {
        let (queue, events) = client_queue();
        assert!(next(&events).is_pending());
        queue.set_progress(progress(1));
        queue.set_progress(progress(2));
        queue.send(Event::Accepted(proto::JobAccepted { job: "j".into(), ..Default::default() }));
        assert!(matches!(next(&events), Poll::Ready(Some(Event::Accepted(_)))));
        assert_eq!(next(&events), Poll::Ready(Some(Event::Progress(progress(2)))));
        assert!(next(&events).is_pending());
    }

    #[test]
    fn the_end_is_read_before_the_stream_ends_and_nothing_follows_it() {
        let (queue, events) = client_queue();
        queue.set_progress(progress(1));
        queue.send(Event::Finished(proto::JobFinished::default()));
        assert!(!events.is_over());
        drop(queue);
        assert!(events.is_over());
        assert!(matches!(next(&events), Poll::Ready(Some(Event::Finished(_)))));
        assert_eq!(next(&events), Poll::Ready(None));
    }
}
