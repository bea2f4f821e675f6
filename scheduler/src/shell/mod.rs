// SPDX-License-Identifier: Apache-2.0
//! The shell: one task that owns [`State`] and does the I/O that it asks for.
//!
//! * `message`: what reaches it, and the handle to reach it with.
//! * `effects`: what it does about each [`Effect`](ballista_scheduler_core::Effect).
//! * `planning`, `pool`: planning on threads of its own, one planner per job.
//! * `job`, `outputs`, `executors`, `plans`: what it keeps beside the core. `presence`: who is there.
//! * `outgoing`: messages to executors, encoded as far as they can be shared.
//! * `durable`: what is written to the journal, and what waits for that. `restore`: going on from it.
//! * `requests`: what clients ask for. `ends`: jobs without clients, and ends of jobs for clients that come back.
//! * `analysis`: how a job ran, for `EXPLAIN ANALYZE`.
//! * `client`: queues to clients. `report`: progress, and the cluster as people see it.
//!
//! *Invariants:*
//! * The task never waits but for its queue. Events that follow from effects go to a queue of its own.
//! * A panic while an event or effect is handled fails the job that it belongs to, and nothing else.
//! * A job's record exists until the core frees the job, and nothing of the job exists afterwards.

mod analysis;
pub(crate) mod client;
mod durable;
mod effects;
mod ends;
pub(crate) mod executors;
mod job;
pub(crate) mod message;
pub(crate) mod outgoing;
mod outputs;
mod planning;
pub(crate) mod plans;
pub(crate) mod pool;
mod presence;
mod report;
mod requests;
mod restore;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, JobId, TaskKey};
use ballista_exchange::TicketKey;
use ballista_proto as proto;
use ballista_scheduler_core::{Effect, Event, Instant64, Limits, OutputStats, State};
use proto::scheduler_message::Message as ToExecutor;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use self::ends::KeptEnd;
use self::executors::{Executors, Life, Session};
use self::job::Job;
use self::message::{Connection, ExecutorMessage, Message, Registration, TaskStatus, WeakShellHandle};
use self::outgoing::Outgoing;
use self::plans::PlanStore;
use self::pool::{PlanningPool, catch};
use crate::error::Result;
use crate::journal::recovered::Recovered;
use crate::journal::{Journal, Lsn};
use crate::planner::PlannerFactory;

/// How often leases, waiting jobs and late progress are looked at. Nothing in the path of a query waits for it.
const TICK: Duration = Duration::from_millis(100);

/// Messages taken from the queue in one go.
const BATCH: usize = 128;

/// What the shell is told at its start.
pub(crate) struct ShellConfig {
    pub(crate) limits: Limits,
    pub(crate) welcome: proto::Welcome,
    pub(crate) ticket_key: TicketKey,
    /// How long a job waits for a first executor.
    pub(crate) no_executor_wait: Duration,
    /// More jobs than this are refused.
    pub(crate) max_jobs: usize,
    /// How long a job that somebody may come back for waits for that.
    pub(crate) client_grace: Duration,
    /// How long the end of a job is kept for whoever comes back for it.
    pub(crate) result_ttl: Duration,
    /// How often a scheduler was started on this state.
    pub(crate) starts: u32,
}

impl ShellConfig {
    /// Of stages that are planned: larger than any of the starts before.
    fn first_attempt(&self) -> u32 {
        (self.starts.saturating_sub(1) % 4096) * 1_000
    }
}

/// The shell's state; see the module's documentation.
pub(crate) struct Shell {
    config: ShellConfig,
    state: State,
    start: Instant,
    /// Events that follow from what was done, in order.
    events: VecDeque<Event>,
    jobs: HashMap<JobId, Job>,
    executors: Executors,
    plans: Arc<PlanStore>,
    planners: Arc<dyn PlannerFactory>,
    pool: PlanningPool,
    handle: WeakShellHandle,
    /// Since when nobody would take a task.
    idle_since: Option<Instant64>,
    /// Jobs whose progress changed since it was last sent.
    progress_due: HashSet<JobId>,
    /// Jobs that are freed, oldest first.
    ended: VecDeque<proto::JobInfo>,
    /// Ends of jobs, for clients that come back for them.
    kept_ends: HashMap<JobId, KeptEnd>,
    /// Jobs and ends by the keys of their clients.
    by_key: HashMap<String, JobId>,
    /// Which job each client follows.
    followed: HashMap<Connection, JobId>,
    journal: Journal,
    /// Jobs of which clients shall hear that they are accepted, once that is durable.
    accepting: VecDeque<(Lsn, JobId)>,
    /// What must not be done before everything up to there is durable, and all that comes after it.
    barrier: Lsn,
    waiting: VecDeque<Effect>,
    aside: VecDeque<Message>,
    /// Outputs that an executor which is joining brings along.
    brought: HashMap<TaskKey, proto::TaskOutput>,
    /// Executors of before a restart, until that is over.
    expected: Vec<ExecutorId>,
    stopping: bool,
}

impl Shell {
    pub(crate) fn new(
        config: ShellConfig,
        plans: Arc<PlanStore>,
        planners: Arc<dyn PlannerFactory>,
        pool: PlanningPool,
        handle: WeakShellHandle,
    ) -> Self {
        Self {
            state: State::new(config.limits.clone()),
            config,
            start: Instant::now(),
            events: VecDeque::new(),
            jobs: HashMap::new(),
            executors: Executors::default(),
            plans,
            planners,
            pool,
            handle,
            idle_since: Some(Instant64::default()),
            progress_due: HashSet::new(),
            ended: VecDeque::new(),
            kept_ends: HashMap::new(),
            by_key: HashMap::new(),
            followed: HashMap::new(),
            journal: Journal::none(),
            accepting: VecDeque::new(),
            barrier: Lsn::default(),
            waiting: VecDeque::new(),
            aside: VecDeque::new(),
            brought: HashMap::new(),
            expected: Vec::new(),
            stopping: false,
        }
    }

    /// Runs until it is told to stop, or nobody is left who could reach it. Goes on from what `recovered` says.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>, recovered: Option<(Journal, Recovered)>) {
        if let Some((journal, recovered)) = recovered {
            self.journal = journal;
            self.restore(recovered).await;
        }
        let period =
            TICK.min(Duration::from_millis(self.config.limits.lease_millis / 4)).max(Duration::from_millis(10));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        while !self.stopping {
            tokio::select! {
                biased;
                _ = ticks.tick(), if !self.is_waiting() => self.guarded(None, Self::tick),
                count = messages.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|message| self.take(message));
                }
            }
            // Also while effects wait: a status that was taken in and is forgotten is with what its executor holds.
            for (life, reason) in self.executors.acknowledge() {
                self.lose(life, reason);
            }
            self.drain();
        }
        // Nobody waits for room in it any more, while the journal is written to its end.
        drop(messages);
        self.stop();
    }

    /// Milliseconds since the start.
    fn now(&self) -> Instant64 {
        Instant64(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Does something, and all that follows from it. A panic fails `job`.
    fn guarded(&mut self, job: Option<JobId>, work: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch(|| work(self)) {
            self.panicked(job, &panic);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while !self.is_waiting()
            && let Some(event) = self.events.pop_front()
        {
            let (job, now) = (job_of_event(&event).cloned(), self.now());
            match catch(|| self.state.step(event, now)) {
                Ok(effects) => {
                    self.write_commits(&effects);
                    effects.into_iter().for_each(|effect| self.carry_out_in_turn(effect));
                }
                Err(panic) => self.panicked(job, &panic),
            }
        }
    }

    fn panicked(&mut self, job: Option<JobId>, panic: &str) {
        error!(job = job.as_ref().map(tracing::field::display), %panic, "the scheduler panicked");
        if let Some(job) = job {
            let message = format!("the scheduler panicked: {panic}");
            self.fail(&job, &ClassifiedError::new(ErrorClass::Deterministic, message));
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => self.submit(*submission),
            Message::Explain(explanation) => self.explain(*explanation),
            Message::Attach { job, follower, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.attach(&job, follower));
            }
            Message::ClientGone(connection) => self.client_gone(connection),
            Message::Close { job, key } => self.close(job, &key),
            // Taken before it comes here.
            Message::Durable(_) => {}
            Message::Cancel { job, reply } => {
                let found = self.cancel(&job, "asked for by a user");
                // Whoever asked may have gone.
                let _ = reply.send(found);
            }
            Message::ResultPart { task, unread: None } => self.events.push_back(Event::ResultRead { task }),
            Message::ResultPart { task, unread: Some(reason) } => {
                debug!(%task, reason, "the client cannot read a part of its result");
                self.events.push_back(Event::ResultUnread { task, reason });
            }
            Message::Register { registration, session, reply } => {
                let _ = reply.send(self.register(*registration, session));
            }
            Message::Executor { life, message } => self.executor_message(life, message),
            Message::SessionClosed { life, session, reason } => self.session_closed(life, session, &reason),
            Message::Probed { life, is_there } => self.probed(life, is_there),
            Message::Planned { job, told, planner, step } => self.planned(&job, told, planner, step),
            Message::Cluster { reply } => {
                let _ = reply.send(self.cluster());
            }
            Message::Shutdown => self.stopping = true,
            #[cfg(test)]
            Message::Inspect { look, .. } => look(self),
        }
    }

    fn register(&mut self, mut registration: Registration, session: Session) -> Result<()> {
        let life = (registration.address.executor.clone(), registration.address.incarnation);
        let (executor, incarnation) = life.clone();
        let (slots, held) = (registration.slots, std::mem::take(&mut registration.held));
        let address = registration.address.to_string();
        let is_back = self.executors.get(&life).is_some();
        self.executors.join(&registration, session)?;
        self.brought = registration.outputs;
        // Not by way of the queue of events: the welcome comes before the first launch, and only if there is one.
        let effects = self.state.step(Event::ExecutorJoined { executor, incarnation, slots, held }, self.now());
        let is_over = |effect: &Effect| match effect {
            Effect::FenceExecutor { executor, incarnation } => (executor, incarnation) == (&life.0, &life.1),
            _ => false,
        };
        if !effects.iter().any(is_over) {
            info!(executor = %address, slots, is_back, "executor joined");
            self.write_executor(&life);
            self.send(&life, ToExecutor::Welcome(self.config.welcome.clone()));
            // It was away when they were freed.
            let gone = registration.jobs.iter().filter(|job| !self.jobs.contains_key(*job));
            let gone: Vec<_> = gone.map(|job| proto::FreeJob { job: job.to_string() }).collect();
            gone.into_iter().for_each(|free| self.send(&life, ToExecutor::FreeJob(free)));
        }
        self.write_commits(&effects);
        effects.into_iter().for_each(|effect| self.carry_out_in_turn(effect));
        self.end_restoring();
        self.submit_waiting();
        Ok(())
    }

    /// Hands the jobs that waited for an executor to the core, in the order they came.
    fn submit_waiting(&mut self) {
        if !self.executors.can_run_tasks() || self.state.is_restoring() {
            return;
        }
        self.idle_since = None;
        let waits = |job: &Job| !job.in_core && job.end.is_none() && job.may_start();
        let mut waiting: Vec<_> = self.jobs.iter_mut().filter(|(_, job)| waits(job)).collect();
        waiting.sort_by(|(a, job_a), (b, job_b)| (job_a.submitted, *a).cmp(&(job_b.submitted, *b)));
        for (id, job) in waiting {
            job.in_core = true;
            self.events.push_back(Event::JobSubmitted { job: id.clone(), weight: job.weight });
        }
    }

    fn executor_message(&mut self, life: Life, message: ExecutorMessage) {
        let (executor, incarnation) = life.clone();
        match message {
            ExecutorMessage::Heartbeat(heartbeat) => {
                if let Some(executor) = self.executors.get_mut(&life) {
                    executor.usage = heartbeat;
                }
                self.events.push_back(Event::ExecutorHeartbeat { executor, incarnation });
            }
            ExecutorMessage::Draining => {
                info!(%executor, "executor drains");
                if let Some(executor) = self.executors.get_mut(&life) {
                    executor.draining = true;
                }
                self.events.push_back(Event::ExecutorDraining { executor, incarnation });
            }
            ExecutorMessage::Status { sequence, task, status } => {
                if self.executors.take_status(&life, sequence) {
                    self.report_later(&task.job);
                    let event = self.status_event(life, task, status);
                    self.events.push_back(event);
                }
            }
        }
    }

    /// Keeps what the core does not want to know of a status, and gives the rest to it.
    fn status_event(&mut self, life: Life, task: ballista_core::TaskKey, status: TaskStatus) -> Event {
        let (executor, incarnation) = life.clone();
        match status {
            TaskStatus::Streaming => Event::TaskStreaming { task, executor, incarnation },
            TaskStatus::Committed => Event::TaskCommitted { task, executor, incarnation },
            TaskStatus::CommitFailed(error) => Event::CommitFailed { task, executor, incarnation, error },
            TaskStatus::Failed(error) => {
                debug!(%task, %executor, class = %error.class, message = %error.message, "task failed");
                Event::TaskFailed { task, executor, incarnation, error }
            }
            TaskStatus::Finished(output) => {
                debug!(%task, %executor, rows = output.rows, bytes = output.bytes, "task finished");
                let stats = OutputStats { rows: output.rows, bytes: output.bytes };
                let delivered = output.is_inline;
                let taken = self.jobs.get_mut(&task.job).map(|job| job.take_output(&task, &life, *output));
                match taken {
                    Some(Err(problem)) => {
                        let message = format!("task {task} on executor {executor} cannot be counted: {problem}");
                        let error = ClassifiedError::new(ErrorClass::Deterministic, message);
                        Event::TaskFailed { task, executor, incarnation, error }
                    }
                    Some(Ok(())) | None => {
                        Event::TaskFinished { task, executor, incarnation, output: stats, delivered }
                    }
                }
            }
        }
    }

    /// An executor is gone: the core says what that means.
    fn lose(&mut self, life: Life, reason: &str) {
        if let Some(executor) = self.executors.get(&life) {
            match executor.draining {
                true => info!(executor = %life.0, reason, "executor left"),
                false => warn!(executor = %life.0, reason, "executor lost"),
            }
            let (executor, incarnation) = life;
            self.events.push_back(Event::ExecutorLost { executor, incarnation, reason: reason.to_owned() });
        }
    }

    /// Sends to an executor; one that does not take it is lost, one that is gone is left alone.
    fn send(&mut self, life: &Life, message: ToExecutor) {
        self.send_outgoing(life, Outgoing::Message(message));
    }

    fn send_outgoing(&mut self, life: &Life, message: Outgoing) {
        let Some(session) = self.executors.get(life).and_then(|executor| executor.session.as_ref()) else { return };
        if let Err(reason) = session.send(message) {
            self.lose(life.clone(), reason);
        }
    }

    fn tick(&mut self) {
        self.events.push_back(Event::Tick);
        let now = self.now();
        if self.executors.can_run_tasks() {
            self.idle_since = None;
        } else {
            let since = *self.idle_since.get_or_insert(now);
            self.fail_waiting(now, since);
        }
        self.report_due();
        self.end_restoring();
        self.submit_waiting();
        self.end_waits();
    }

    /// Without an executor that takes tasks since `since`: fails the jobs that waited long enough. Those of which tasks run
    /// may yet end.
    fn fail_waiting(&mut self, now: Instant64, since: Instant64) {
        let wait = u64::try_from(self.config.no_executor_wait.as_millis()).unwrap_or(u64::MAX);
        let too_long = |job: &Job| {
            job.end.is_none() && !job.runs_tasks() && now.0.saturating_sub(job.submitted.max(since).0) >= wait
        };
        let failing: Vec<_> = self.jobs.iter().filter(|(_, job)| too_long(job)).map(|(id, _)| id.clone()).collect();
        for id in failing {
            let message = format!(
                "no executor took the query within {} s: {} are connected, none of them takes tasks; start one with \
                 ballista-executor --scheduler-host HOST --scheduler-port PORT, then run the query again",
                self.config.no_executor_wait.as_secs_f64(),
                self.executors.len(),
            );
            self.fail(&id, &ClassifiedError::new(ErrorClass::Infra, message));
        }
    }

    /// Ends every job with an error that says so; sessions and streams end with their queues.
    fn stop(mut self) {
        let error = ClassifiedError::new(ErrorClass::Infra, "the scheduler was stopped while the query ran");
        // Those in the journal go on with the next scheduler, and their clients come back.
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.end.is_none() && !job.is_journalled) {
            job.fail(id, &error);
        }
        info!(jobs = self.jobs.len(), executors = self.executors.len(), "scheduler stopped");
    }
}

fn job_of(message: &Message) -> Option<JobId> {
    match message {
        Message::Submit(submission) => Some(submission.job.clone()),
        Message::Attach { job, .. } | Message::Cancel { job, .. } | Message::Planned { job, .. } => Some(job.clone()),
        Message::Executor { message: ExecutorMessage::Status { task, .. }, .. } | Message::ResultPart { task, .. } => {
            Some(task.job.clone())
        }
        #[cfg(test)]
        Message::Inspect { job, .. } => job.clone(),
        _ => None,
    }
}

fn job_of_event(event: &Event) -> Option<&JobId> {
    match event {
        Event::JobSubmitted { job, .. }
        | Event::Planned { job, .. }
        | Event::PlanFailed { job, .. }
        | Event::JobCancelled { job, .. }
        | Event::ClientDone { job } => Some(job),
        Event::TaskFinished { task, .. }
        | Event::TaskFailed { task, .. }
        | Event::TaskStreaming { task, .. }
        | Event::ResultUnread { task, .. }
        | Event::ResultRead { task }
        | Event::TaskCommitted { task, .. }
        | Event::CommitFailed { task, .. } => Some(&task.job),
        Event::Restored { .. }
        | Event::ExecutorJoined { .. }
        | Event::ExecutorAway { .. }
        | Event::ExecutorHeartbeat { .. }
        | Event::ExecutorLost { .. }
        | Event::ExecutorDraining { .. }
        | Event::Tick => None,
    }
}

/// Time as people measure it, for what is kept beyond the life of this process.
fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
