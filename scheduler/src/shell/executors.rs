// SPDX-License-Identifier: Apache-2.0
//! What the shell keeps of connected executors: addresses, session queues, acknowledgements.
//!
//! *Invariant:* one incarnation has one session at a time. While it has none, it gets no tasks; what is sent to it then is
//! lost, and so may be what was sent last. Both are made good when it is back, because it says all that it has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ballista_core::{ExecutorId, Incarnation};
use ballista_exchange::ExecutorAddress;
use ballista_proto as proto;
use proto::scheduler_message::Message;
use tokio::sync::{mpsc, oneshot};

use super::message::Registration;
use super::outgoing::Outgoing;
use crate::error::{Result, SchedulerError};
use crate::planning::job::ExecutorShape;

/// Messages that may wait for an executor; one that does not take them is lost.
const QUEUE: usize = 4096;

/// One incarnation of an executor.
pub(crate) type Life = (ExecutorId, Incarnation);

/// Number of a session stream; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId(u64);

/// The shell's end of a session stream.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    queue: mpsc::Sender<Outgoing>,
    /// Dropped with the session, which stops the task that reads from the executor.
    _open: oneshot::Sender<()>,
}

/// The service's end of a session stream.
pub(crate) struct SessionEnd {
    /// What shall be sent.
    pub(crate) messages: mpsc::Receiver<Outgoing>,
    /// Resolves when the shell gave the session up.
    pub(crate) given_up: oneshot::Receiver<()>,
}

impl Session {
    pub(crate) fn new() -> (Self, SessionEnd) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (queue, messages) = mpsc::channel(QUEUE);
        let (open, given_up) = oneshot::channel();
        let id = SessionId(NEXT.fetch_add(1, Ordering::Relaxed));
        (Self { id, queue, _open: open }, SessionEnd { messages, given_up })
    }

    /// Queues a message; an error says why the executor counts as lost. That the stream has ended, its reader tells.
    pub(crate) fn send(&self, message: Outgoing) -> Result<(), &'static str> {
        match self.queue.try_send(message) {
            Err(mpsc::error::TrySendError::Full(_)) => Err("it does not take its messages"),
            Err(mpsc::error::TrySendError::Closed(_)) | Ok(()) => Ok(()),
        }
    }
}

/// A connected executor.
pub(crate) struct Executor {
    pub(crate) address: ExecutorAddress,
    /// `None` while its connection is broken: what is sent then is lost, and made good when it is back.
    pub(crate) session: Option<Session>,
    pub(crate) draining: bool,
    /// As it last said.
    pub(crate) usage: proto::Heartbeat,
    slots: u32,
    pub(crate) memory_bytes: u64,
    /// Statuses up to this number were taken in.
    taken: u64,
}

/// All connected executors.
#[derive(Default)]
pub(crate) struct Executors {
    lives: BTreeMap<Life, Executor>,
    /// Of the first executor; all others must have the same. Forgotten with the last executor.
    fingerprint: Option<u64>,
    /// Whose statuses are taken in but not acknowledged.
    ack_due: Vec<Life>,
}

impl Executors {
    /// The connection of an executor is gone; it may come back.
    pub(crate) fn set_away(&mut self, life: &Life) {
        if let Some(executor) = self.lives.get_mut(life) {
            executor.session = None;
        }
    }

    /// Adds an executor, or connects one again; refuses one whose hash functions differ from those already here.
    pub(crate) fn join(&mut self, registration: &Registration, session: Session) -> Result<Life> {
        let Registration { address, fingerprint, slots, memory_bytes, .. } = registration;
        match self.fingerprint {
            Some(ours) if ours != *fingerprint => {
                return Err(SchedulerError::Refused(format!(
                    "the hash fingerprint of {address} is {fingerprint:016x}, that of the cluster {ours:016x}: rows of \
                     one key would go to different tasks; run the same build on the same kind of processor everywhere"
                )));
            }
            _ => self.fingerprint = Some(*fingerprint),
        }
        let life = (address.executor.clone(), address.incarnation);
        // One that is back has told us of some of its statuses.
        let taken = self.lives.get(&life).map_or(0, |executor| executor.taken);
        let (address, slots, memory_bytes) = (address.clone(), *slots, *memory_bytes);
        let (session, usage) = (Some(session), proto::Heartbeat::default());
        let executor = Executor { address, session, draining: false, usage, slots, memory_bytes, taken };
        self.lives.insert(life.clone(), executor);
        Ok(life)
    }

    pub(crate) fn get(&self, life: &Life) -> Option<&Executor> {
        self.lives.get(life)
    }

    pub(crate) fn get_mut(&mut self, life: &Life) -> Option<&mut Executor> {
        self.lives.get_mut(life)
    }

    /// Forgets an executor; its session stream ends.
    pub(crate) fn remove(&mut self, life: &Life) -> Option<Executor> {
        let executor = self.lives.remove(life);
        if self.lives.is_empty() {
            self.fingerprint = None;
        }
        executor
    }

    /// All that are connected.
    pub(crate) fn lives(&self) -> Vec<Life> {
        self.lives.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lives.len()
    }

    /// Whether somebody would take a task.
    pub(crate) fn can_run_tasks(&self) -> bool {
        self.lives.values().any(Executor::runs_tasks)
    }

    /// Those that take tasks, as planning sees them.
    pub(crate) fn shapes(&self) -> Vec<ExecutorShape> {
        let able = self.lives.values().filter(|executor| executor.runs_tasks());
        able.map(|executor| ExecutorShape { slots: executor.slots, memory_bytes: executor.memory_bytes }).collect()
    }

    /// Notes a status. `false`: it was taken in before, or comes from an executor that is gone.
    pub(crate) fn take_status(&mut self, life: &Life, sequence: u64) -> bool {
        let Some(executor) = self.lives.get_mut(life) else { return false };
        if !self.ack_due.contains(life) {
            self.ack_due.push(life.clone());
        }
        let is_new = sequence > executor.taken;
        if is_new && executor.taken > 0 && sequence > executor.taken + 1 {
            tracing::warn!(executor = %life.0, from = executor.taken, to = sequence, "statuses are missing");
        }
        executor.taken = executor.taken.max(sequence);
        is_new
    }

    /// Acknowledges what was taken in since the last call; the executors that did not take it are lost.
    pub(crate) fn acknowledge(&mut self) -> Vec<(Life, &'static str)> {
        let mut lost = Vec::new();
        for life in self.ack_due.drain(..) {
            let Some(executor) = self.lives.get(&life) else { continue };
            let ack = proto::StatusAck { sequence: executor.taken };
            let session = executor.session.as_ref();
            if let Some(Err(reason)) = session.map(|session| session.send(Outgoing::Message(Message::Ack(ack)))) {
                lost.push((life, reason));
            }
        }
        lost
    }
}

impl Executor {
    fn runs_tasks(&self) -> bool {
        self.slots > 0 && !self.draining && self.session.is_some()
    }
}
