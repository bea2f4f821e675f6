// SPDX-License-Identifier: Apache-2.0
//! What reaches the shell from outside, and the handle to send it with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ballista_core::{ClassifiedError, JobId, TaskKey};
use ballista_exchange::ExecutorAddress;
use ballista_proto as proto;
use ballista_scheduler_core::HeldTask;
use prost::bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::client::ClientQueue;
use super::executors::{Life, Session, SessionId};
use super::planning::Told;
use super::plans::PlanStore;
use crate::error::{Result, SchedulerError};
use crate::journal::Lsn;
use crate::planner::{PlanRequest, Planner};
use crate::planning::explain::ExplainStyle;
use crate::planning::job::PlanStep;

/// Messages that may wait for the shell; whoever sends one more waits.
const QUEUE: usize = 4096;

/// Something from outside.
pub(crate) enum Message {
    /// A client submits a query.
    Submit(Box<Submission>),
    /// A client wants to see how a query would be planned first.
    Explain(Box<Explanation>),
    /// A client wants to follow a job that runs already.
    Attach { job: JobId, follower: Follower, reply: oneshot::Sender<bool> },
    /// A client has dropped its stream, or its connection broke.
    ClientGone(Connection),
    /// A client wants nothing more of a job, named by its id or its key.
    Close { job: Option<JobId>, key: String },
    /// Everything up to here is durable.
    Durable(Lsn),
    /// Somebody wants a job to end. Answered with whether there was anything to end.
    Cancel { job: JobId, reply: oneshot::Sender<bool> },
    /// A client has read a part of its result, or cannot read it, and why.
    ResultPart { task: TaskKey, unread: Option<String> },
    /// An executor opens its session.
    Register { registration: Box<Registration>, session: Session, reply: oneshot::Sender<Result<()>> },
    /// An executor says something.
    Executor { life: Life, message: ExecutorMessage },
    /// An executor's session ended.
    SessionClosed { life: Life, session: SessionId, reason: String },
    /// Whether somebody answers where an executor was, whose session has ended.
    Probed { life: Life, is_there: bool },
    /// A planning thread is done.
    Planned { job: JobId, told: Told, planner: Option<Box<dyn Planner>>, step: Result<PlanStep, ClassifiedError> },
    /// Somebody wants to see the cluster.
    Cluster { reply: oneshot::Sender<proto::GetClusterResponse> },
    /// End everything.
    Shutdown,
    /// Runs with the shell at hand.
    #[cfg(test)]
    Inspect { job: Option<JobId>, look: Box<dyn FnOnce(&super::Shell) + Send> },
}

/// A query and the way to its client.
pub(crate) struct Submission {
    pub(crate) job: JobId,
    pub(crate) request: PlanRequest,
    pub(crate) terms: Terms,
    /// Follow the job of its key, or fail.
    pub(crate) resume_only: bool,
    /// As it came, if it may have to be written down.
    pub(crate) record: Option<proto::ExecuteRequest>,
    pub(crate) follower: Follower,
}

/// What becomes of a job when its client leaves, and how it is found again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Empty: the client never comes back.
    pub(crate) key: String,
    pub(crate) key_is_users: bool,
    pub(crate) detached: bool,
    /// Of the result, for whoever attaches to a detached job.
    pub(crate) schema: Bytes,
}

/// Number of a client's stream of events; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Connection(pub(crate) u64);

/// A client that follows a job.
pub(crate) struct Follower {
    pub(crate) connection: Connection,
    pub(crate) queue: ClientQueue,
}

/// A query to explain, and the way back.
pub(crate) struct Explanation {
    pub(crate) request: PlanRequest,
    pub(crate) style: ExplainStyle,
    pub(crate) reply: oneshot::Sender<Result<String, ClassifiedError>>,
}

/// What an executor says of itself when it joins.
pub(crate) struct Registration {
    pub(crate) address: ExecutorAddress,
    pub(crate) fingerprint: u64,
    pub(crate) slots: u32,
    pub(crate) memory_bytes: u64,
    /// What it runs and holds already; the outputs of finished tasks beside it.
    pub(crate) held: Vec<HeldTask>,
    pub(crate) outputs: HashMap<TaskKey, proto::TaskOutput>,
    /// Of which it has anything.
    pub(crate) jobs: Vec<JobId>,
}

/// What a registered executor says.
pub(crate) enum ExecutorMessage {
    Heartbeat(proto::Heartbeat),
    Draining,
    Status { sequence: u64, task: TaskKey, status: TaskStatus },
}

/// What became of a task.
pub(crate) enum TaskStatus {
    Streaming,
    Finished(Box<proto::TaskOutput>),
    Failed(ClassifiedError),
    Committed,
    CommitFailed(ClassifiedError),
}

/// Reaches the shell from anywhere.
#[derive(Clone)]
pub(crate) struct ShellHandle {
    queue: mpsc::Sender<Message>,
    plans: Arc<PlanStore>,
    runtime: Handle,
    connections: Arc<AtomicU64>,
}

/// Reaches the shell, but does not keep it alive.
#[derive(Clone)]
pub(crate) struct WeakShellHandle(mpsc::WeakSender<Message>);

impl ShellHandle {
    /// A handle and the queue that the shell reads.
    pub(crate) fn new(plans: Arc<PlanStore>, runtime: Handle) -> (Self, mpsc::Receiver<Message>) {
        let (queue, messages) = mpsc::channel(QUEUE);
        (Self { queue, plans, runtime, connections: Arc::default() }, messages)
    }

    /// A number for a client's stream.
    pub(crate) fn connection(&self) -> Connection {
        Connection(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a message; waits while the queue is full.
    pub(crate) async fn send(&self, message: Message) -> Result<()> {
        self.queue.send(message).await.map_err(|_| SchedulerError::Stopped)
    }

    /// Sends a message without waiting, from a place that cannot. A shell that is gone need not hear it.
    pub(crate) fn notify(&self, message: Message) {
        if let Err(TrySendError::Full(message)) = self.queue.try_send(message) {
            let queue = self.queue.clone();
            self.runtime.spawn(async move { queue.send(message).await.ok() });
        }
    }

    /// Sends a message that carries the way back, and waits for the answer.
    pub(crate) async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply)).await?;
        answer.await.map_err(|_| SchedulerError::Stopped)
    }

    /// Resolves when the shell is gone.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }

    /// The encoded plan of a stage.
    pub(crate) fn stage_plan(&self, job: &JobId, stage: ballista_core::StageId) -> Result<Bytes> {
        self.plans.get(job, stage).ok_or_else(|| SchedulerError::Gone(format!("stage {stage} of job {job}")))
    }

    pub(crate) fn downgrade(&self) -> WeakShellHandle {
        WeakShellHandle(self.queue.downgrade())
    }
}

impl WeakShellHandle {
    /// The queue, unless the scheduler is gone.
    pub(crate) fn queue(&self) -> Option<mpsc::Sender<Message>> {
        self.0.upgrade()
    }
}
