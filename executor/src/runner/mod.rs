// SPDX-License-Identifier: Apache-2.0
//! Runs tasks: one per launch, each to exactly one final status.
//!
//! ```text
//!   Launch ─▶ TaskSpec ─▶ supervise ──────────────────────────────────────────────▶ Outbox
//!                           │ session, plan bytes, decode, slice                       ▲
//!                           └▶ one CPU task per partition ─▶ exchange │ result │ scalar ┘
//! ```
//!
//! *Invariant:* a launch whose key is new gives exactly one `finished` or `failed`, whatever happens: an error, a
//! panic, a cancellation, a job that is freed. It is queued after all work of the task has ended and all memory it
//! held is given back, because the scheduler takes it as permission to reuse the slots. If that does not come about in time,
//! the executor drains first.
//!
//! **Failure modes.** Errors keep the class they have in [`ballista_exchange::classify`]. A panic, in an operator or a
//! user's function, ends its task alone, as `Deterministic`. A cancelled task fails as `Infra`.

mod exchange;
mod metrics;
mod partitions;
mod result;
mod sample;
mod scalar;
mod spec;
mod task;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::{ClassifiedError, ErrorClass, Incarnation, JobId, StageId, TaskKey};
use ballista_exchange::wire::{failure_to_proto, task_key_to_proto};
use ballista_exchange::{ExchangeClient, ResultStreams, ShuffleStore};
use ballista_plan::codec::PlanCodec;
use ballista_proto as proto;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::outbox::Outbox;
use crate::plans::PlanCache;
use crate::provider::SessionProvider;
use crate::stores::JobStores;
use crate::writes::Writes;
use partitions::{Work, panic_text};
use spec::TaskSpec;

/// What tasks work with; lives as long as the incarnation.
#[derive(Debug)]
pub(crate) struct TaskEnv {
    pub(crate) cpu: Handle,
    pub(crate) store: Arc<ShuffleStore>,
    pub(crate) results: Arc<ResultStreams>,
    pub(crate) client: ExchangeClient,
    pub(crate) provider: Arc<dyn SessionProvider>,
    pub(crate) codec: PlanCodec,
    pub(crate) plans: PlanCache,
    pub(crate) outbox: Arc<Outbox>,
    /// Handed to the session provider; shared by all incarnations.
    pub(crate) runtime: Arc<RuntimeEnv>,
    /// Spill files of this incarnation.
    pub(crate) disk: Arc<DiskManager>,
    /// Files that were written and not published.
    pub(crate) writes: Arc<Writes>,
    /// Object stores of single jobs.
    pub(crate) stores: JobStores,
    /// Rings when something of the store or the result streams may have gone.
    pub(crate) released: Arc<Notify>,
    /// How long a cancelled task may compute on, and what is told if one does.
    pub(crate) stuck_limit: Option<Duration>,
    pub(crate) stuck: CancellationToken,
}

impl TaskEnv {
    fn free_job(&self, job: &JobId) {
        self.plans.free_job(job);
        self.store.free_job(job);
        self.client.free_job(job);
        self.results.free_job(job);
        self.writes.free_job(job);
        self.stores.free_job(job);
        self.released.notify_one();
    }
}

/// The tasks of one incarnation. Cheap to clone; dropping it does not stop them, [`TaskRunner::cancel_all`] does.
#[derive(Debug, Clone)]
pub(crate) struct TaskRunner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Arc<TaskEnv>,
    /// Every task launched for a job that is not freed, so that a launch that comes twice runs once.
    jobs: Mutex<HashMap<JobId, HashMap<TaskKey, Entry>>>,
    running: watch::Sender<usize>,
}

/// A task that was launched.
#[derive(Debug)]
struct Entry {
    cancel: CancellationToken,
    partitions: Vec<u32>,
    slots: u32,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// With this output, which counts for all that is known here.
    Finished(Box<proto::TaskOutput>),
    /// Without an output, or with one that nobody wants.
    Ended,
}

impl TaskRunner {
    pub(crate) fn new(env: TaskEnv) -> Self {
        let inner = Inner { env: Arc::new(env), jobs: Mutex::default(), running: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Starts a task, unless it was started before.
    pub(crate) fn launch(&self, launch: proto::Launch) {
        let key = match spec::key_of(&launch) {
            Ok(key) => key,
            Err(error) => {
                // Nobody could match a status to it.
                tracing::error!(%error, "the scheduler launched a task without a valid key");
                return;
            }
        };
        let cancel = CancellationToken::new();
        {
            let mut jobs = self.inner.jobs.lock();
            let tasks = jobs.entry(key.job.clone()).or_default();
            if tasks.contains_key(&key) {
                tracing::debug!(task = %key, "ignored a repeated launch");
                return;
            }
            let (partitions, slots) = (launch.partitions.clone(), launch.slots);
            tasks.insert(key.clone(), Entry { cancel: cancel.clone(), partitions, slots, phase: Phase::Running });
            self.inner.running.send_modify(|running| *running += 1);
        }
        let span =
            tracing::info_span!("task", job = %key.job, stage = key.stage.0, task = key.task.0, attempt = key.attempt);
        let inner = Arc::clone(&self.inner);
        let supervised = async move { inner.supervise(key, launch, cancel).await };
        self.inner.env.cpu.spawn(supervised.instrument(span));
    }

    /// Stops a task, or throws away what it has written. One that is not known here is reported as cancelled, so that
    /// nobody waits for it.
    pub(crate) fn cancel(&self, key: &TaskKey) {
        let mut jobs = self.inner.jobs.lock();
        match jobs.get_mut(&key.job).and_then(|tasks| tasks.get_mut(key)) {
            Some(Entry { phase: Phase::Running, cancel, .. }) => cancel.cancel(),
            Some(entry) => {
                entry.phase = Phase::Ended;
                drop(jobs);
                let env = &self.inner.env;
                env.store.free_output(key);
                env.results.free_task(key);
                env.writes.free_task(key);
                env.released.notify_one();
            }
            None => {
                drop(jobs);
                self.inner.env.outbox.push(key, failed(cancelled()));
            }
        }
    }

    /// Publishes what a task wrote, and says so.
    pub(crate) fn commit(&self, key: TaskKey) {
        let env = Arc::clone(&self.inner.env);
        tokio::spawn(async move {
            use proto::task_status::Status;
            let Some(outcome) = env.writes.commit(&key).await else { return };
            let status = match outcome {
                Ok(()) => Status::Committed(proto::TaskCommitted {}),
                Err(error) => {
                    tracing::warn!(task = %key, class = %error.class, error = %error.message, "commit failed");
                    Status::CommitFailed(failure_to_proto(&error))
                }
            };
            env.outbox.push(&key, status);
            env.released.notify_one();
        });
    }

    /// Keeps the output of a stage whose consumers are done for recovery only.
    pub(crate) fn release_stage(&self, job: &JobId, stage: StageId) {
        let env = &self.inner.env;
        env.store.release_stage(job, stage);
        env.client.free_stage(job, stage);
        env.released.notify_one();
    }

    /// Another executor is out of the cluster.
    pub(crate) fn peer_lost(&self, incarnation: Incarnation) {
        self.inner.env.client.peer_lost(incarnation);
    }

    /// Frees the output of a stage that is void.
    pub(crate) fn free_stage(&self, job: &JobId, stage: StageId, last_attempt: u32) {
        if let Some(tasks) = self.inner.jobs.lock().get_mut(job) {
            let is_void = |key: &TaskKey| key.stage == stage && key.stage_attempt <= last_attempt;
            for (_, entry) in tasks.iter_mut().filter(|(key, _)| is_void(key)) {
                if matches!(entry.phase, Phase::Finished(_)) {
                    entry.phase = Phase::Ended;
                }
            }
        }
        let env = &self.inner.env;
        env.store.free_stage(job, stage, last_attempt);
        env.client.free_stage(job, stage);
        env.released.notify_one();
    }

    /// Stops the tasks of a job and frees all that is held for it.
    pub(crate) fn free_job(&self, job: &JobId) {
        let tasks = self.inner.jobs.lock().remove(job).unwrap_or_default();
        tasks.values().for_each(|entry| entry.cancel.cancel());
        self.inner.env.free_job(job);
    }

    /// Stops every task.
    pub(crate) fn cancel_all(&self) {
        self.inner.jobs.lock().values().flat_map(HashMap::values).for_each(|entry| entry.cancel.cancel());
    }

    /// All tasks that run, that have ended without the scheduler knowing, or that have left an output.
    pub(crate) fn held(&self) -> Vec<proto::HeldTask> {
        let outbox = &self.inner.env.outbox;
        let jobs = self.inner.jobs.lock();
        let held = |(key, entry): (&TaskKey, &Entry)| {
            let finished = match &entry.phase {
                Phase::Running => None,
                Phase::Finished(output) => Some(proto::TaskOutput::clone(output)),
                // Its status follows.
                Phase::Ended if outbox.has_unacked_end(key) => None,
                Phase::Ended => return None,
            };
            Some(proto::HeldTask {
                task: Some(task_key_to_proto(key)),
                partitions: entry.partitions.clone(),
                slots: entry.slots,
                streaming: finished.is_none() && outbox.is_streaming(key),
                finished,
            })
        };
        jobs.values().flatten().filter_map(held).collect()
    }

    /// All jobs of which anything may be here.
    pub(crate) fn jobs(&self) -> Vec<String> {
        self.inner.jobs.lock().keys().map(JobId::to_string).collect()
    }

    /// Resolves when no task is running.
    pub(crate) async fn idle(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.inner.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Inner {
    async fn supervise(&self, key: TaskKey, launch: proto::Launch, cancel: CancellationToken) {
        let work = Work::default();
        let run = async {
            let spec = TaskSpec::try_from(launch)?;
            task::run(&self.env, spec, &work).await
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(cancelled()),
            outcome = AssertUnwindSafe(run).catch_unwind() => outcome.unwrap_or_else(|panic| {
                Err(ClassifiedError::new(ErrorClass::Deterministic, panic_text(panic.as_ref())))
            }),
        };
        // Partitions that were aborted may be inside a computation still.
        self.wait_for(&key, &work).await;
        // A task that failed because its job was freed under it was cancelled.
        let outcome = if cancel.is_cancelled() { outcome.map_err(|_| cancelled()) } else { outcome };
        self.env.writes.end(&key, outcome.is_ok());
        let status = match outcome {
            Ok(output) => {
                tracing::debug!(rows = output.rows, bytes = output.bytes, "task finished");
                proto::task_status::Status::Finished(output)
            }
            Err(error) => {
                tracing::info!(class = %error.class, error = %error.message, "task failed");
                failed(error)
            }
        };
        let phase = match &status {
            // Figures of operators are for the status only.
            proto::task_status::Status::Finished(output) => {
                Phase::Finished(Box::new(proto::TaskOutput { metrics: None, ..output.clone() }))
            }
            _ => Phase::Ended,
        };
        let job_is_freed = match self.jobs.lock().get_mut(&key.job).and_then(|tasks| tasks.get_mut(&key)) {
            Some(entry) => {
                entry.phase = phase;
                false
            }
            None => true,
        };
        if job_is_freed {
            // The task may have left something behind after the job was freed and before it noticed.
            self.env.free_job(&key.job);
        }
        self.env.outbox.push(&key, status);
        self.running.send_modify(|running| *running -= 1);
        self.env.released.notify_one();
    }

    /// Waits until all work of a task has ended, or nobody counts on that any more.
    async fn wait_for(&self, key: &TaskKey, work: &Work) {
        let Some(limit) = self.env.stuck_limit else { return work.ended().await };
        if tokio::time::timeout(limit, work.ended()).await.is_err() {
            tracing::error!(
                task = %key,
                seconds = limit.as_secs_f64(),
                "a task that is over computes on and cannot be stopped: this executor takes no more tasks, and ends when \
                 the others are done"
            );
            self.env.stuck.cancel();
        }
    }
}

fn cancelled() -> ClassifiedError {
    ClassifiedError::new(ErrorClass::Infra, "cancelled")
}

fn failed(error: ClassifiedError) -> proto::task_status::Status {
    proto::task_status::Status::Failed(failure_to_proto(&error))
}
