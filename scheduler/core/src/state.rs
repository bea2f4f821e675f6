// SPDX-License-Identifier: Apache-2.0
//! [`State`]: the records, the dispatch of events, and the coming and going of executors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ballista_core::{ExecutorId, Incarnation, JobId, StageId, TaskId};

use crate::effect::Effect;
use crate::event::{Event, HeldTask, Instant64};
use crate::executors::{Executors, Life};
use crate::fair::{FairQueue, Waiting};
use crate::job::{Job, JobSeq};
use crate::restore::Restoring;
use crate::stage::Stage;
use crate::view::JobView;

/// More slots than any machine has cores; keeps sums far from overflow whatever an executor says of itself.
const MAX_SLOTS: u32 = 1 << 16;

/// What bounds the state.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Extra slots per executor that only jobs marked small may use, and only while no regular slot is free.
    pub reserve_slots: u32,
    /// An executor not heard of for this many milliseconds is lost at the next tick.
    pub lease_millis: u64,
    /// A stage with more partitions fails its job, so that no plan can exhaust the scheduler's memory.
    pub max_stage_partitions: u32,
    /// How long after a restart nothing is launched, while executors of before are missing.
    pub restore_millis: u64,
    /// How many summaries of ended jobs are kept.
    pub ended_jobs: usize,
    /// How many lost incarnations are remembered, to refuse them when they come back.
    pub fenced_incarnations: usize,
    /// A task that failed this often through no fault of the query fails its job.
    pub max_task_failures: u32,
    /// A task whose inputs could not be read this often fails its job.
    pub max_unread_inputs: u32,
    /// A task whose result the client could not read this often fails its job.
    pub max_unread_results: u32,
    /// A query whose same task ran on this many executors when they were lost fails, before it takes more along.
    pub max_deaths: u32,
    /// Executors lost within so many milliseconds count as one loss.
    pub same_moment_millis: u64,
    /// How long a failed task waits before it runs again; doubled with every failure.
    pub retry_millis: u64,
    /// The most that it waits.
    pub max_retry_millis: u64,
    /// How often an executor must be out of a consumer's reach for its outputs to count as lost.
    pub max_unreachable: u32,
    /// This many failures on an executor within the window put it on probation.
    pub max_strikes: usize,
    /// That window.
    pub strike_window_millis: u64,
    /// How long an executor on probation gets no tasks.
    pub probation_millis: u64,
    /// When a late task gets a second attempt; `None` = never.
    pub speculation: Option<Speculation>,
}

/// When a task counts as late.
#[derive(Debug, Clone, PartialEq)]
pub struct Speculation {
    /// This part of its stage's partitions must be done.
    pub quantile: f64,
    /// It must run for this many times the median of its stage's tasks,
    pub multiplier: f64,
    /// and for this many milliseconds.
    pub min_millis: u64,
}

impl Default for Speculation {
    fn default() -> Self {
        Self { quantile: 0.75, multiplier: 2.0, min_millis: 1_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reserve_slots: 1,
            lease_millis: 10_000,
            max_stage_partitions: 1_000_000,
            restore_millis: 3_000,
            ended_jobs: 1_000,
            fenced_incarnations: 10_000,
            max_task_failures: 4,
            max_unread_inputs: 16,
            max_unread_results: 8,
            max_deaths: 3,
            same_moment_millis: 1_000,
            retry_millis: 100,
            max_retry_millis: 10_000,
            max_unreachable: 3,
            max_strikes: 5,
            strike_window_millis: 600_000,
            probation_millis: 60_000,
            speculation: Some(Speculation::default()),
        }
    }
}

/// All jobs, stages, tasks, attempts, executors and slots of a cluster. Changed by [`State::step`] alone.
#[derive(Debug)]
pub struct State {
    pub(crate) limits: Limits,
    pub(crate) now: Instant64,
    pub(crate) executors: Executors,
    pub(crate) jobs: BTreeMap<JobSeq, Job>,
    pub(crate) by_id: BTreeMap<JobId, JobSeq>,
    pub(crate) next_job: u64,
    pub(crate) queue: FairQueue,
    /// Tasks that wait for their time.
    pub(crate) delayed: BTreeSet<(Instant64, JobSeq, StageId, TaskId)>,
    pub(crate) ended: VecDeque<JobView>,
    /// After a restart, until the executors of before are back.
    pub(crate) restoring: Option<Restoring>,
    /// Of stages that are planned.
    pub(crate) first_attempt: u32,
}

impl State {
    /// A cluster without executors and jobs.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Instant64::default(),
            executors: Executors::default(),
            jobs: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_job: 0,
            queue: FairQueue::default(),
            delayed: BTreeSet::new(),
            ended: VecDeque::new(),
            restoring: None,
            first_attempt: 0,
        }
    }

    /// Takes in what happened and returns what shall be done, in order. Total: any event in any state is answered, and
    /// what does not fit changes nothing. Time that runs backwards counts as standing still.
    pub fn step(&mut self, event: Event, now: Instant64) -> Vec<Effect> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        match event {
            Event::Restored { executors, jobs, first_attempt } => {
                self.restored(executors, jobs, first_attempt, &mut out);
            }
            Event::ExecutorJoined { executor, incarnation, slots, held } => {
                self.executor_joined(executor, incarnation, slots, held, &mut out);
            }
            Event::ExecutorAway { executor, incarnation } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.executors.set_away(life, true);
                }
            }
            Event::ExecutorHeartbeat { executor, incarnation } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.executors.renew(life, self.now);
                }
            }
            Event::ExecutorLost { executor, incarnation, reason } => {
                if let Some(life) = self.executors.find(&executor, incarnation) {
                    self.lose(life, &reason, &mut out);
                }
            }
            Event::ExecutorDraining { executor, incarnation } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.executors.drain(life);
                }
            }
            Event::JobSubmitted { job, weight } => self.job_submitted(job, weight, &mut out),
            Event::Planned { job, stages, small, complete } => {
                self.planned(&job, &stages, small, complete, &mut out);
            }
            Event::PlanFailed { job, error } => self.plan_failed(&job, error, &mut out),
            Event::TaskFinished { task, executor, incarnation, output, delivered } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.task_finished(life, &task, output, delivered, &mut out);
                }
            }
            Event::TaskFailed { task, executor, incarnation, error } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.task_failed(life, &task, error, &mut out);
                }
            }
            Event::TaskStreaming { task, executor, incarnation } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.task_streaming(life, &task, &mut out);
                }
            }
            Event::ResultRead { task } => self.result_read(&task),
            Event::ResultUnread { task, reason } => self.result_unread(&task, &reason, &mut out),
            Event::TaskCommitted { task, executor, incarnation } => {
                if self.known(&executor, incarnation, &mut out).is_some() {
                    self.task_committed(&task, &mut out);
                }
            }
            Event::CommitFailed { task, executor, incarnation, error } => {
                if self.known(&executor, incarnation, &mut out).is_some() {
                    self.commit_failed(&task, error, &mut out);
                }
            }
            Event::JobCancelled { job, reason } => self.job_cancelled(&job, reason, &mut out),
            Event::ClientDone { job } => self.client_done(&job, &mut out),
            Event::Tick => self.tick(&mut out),
        }
        self.executors.end_probations(self.now);
        self.end_restoring(&mut out);
        self.schedule(&mut out);
        out
    }

    /// The life of a sender; one that is not connected is fenced, and what it says does not count.
    fn known(&mut self, executor: &ExecutorId, incarnation: Incarnation, out: &mut Vec<Effect>) -> Option<Life> {
        let life = self.executors.find(executor, incarnation);
        if life.is_none() {
            out.push(Effect::FenceExecutor { executor: executor.clone(), incarnation });
        }
        life
    }

    fn executor_joined(
        &mut self,
        id: ExecutorId,
        incarnation: Incarnation,
        slots: u32,
        held: Vec<HeldTask>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(life) = self.executors.find(&id, incarnation) {
            self.executors.renew(life, self.now);
            self.executors.set_away(life, false);
            self.reconcile(life, &held, false, out);
            return;
        }
        if self.executors.is_fenced(&id, incarnation) {
            out.push(Effect::FenceExecutor { executor: id, incarnation });
            return;
        }
        if let Some(former) = self.executors.current(&id) {
            self.lose(former, "a new process took its place", out);
        }
        let slots = slots.min(MAX_SLOTS);
        let reserve = if slots == 0 { 0 } else { self.limits.reserve_slots.min(MAX_SLOTS) };
        let address = (id.clone(), incarnation);
        let is_expected = self.restoring.as_mut().is_some_and(|restoring| restoring.expected.remove(&address));
        let life = self.executors.join(id, incarnation, [slots, reserve], self.now);
        self.reconcile(life, &held, is_expected, out);
    }

    fn tick(&mut self, out: &mut Vec<Effect>) {
        if let Some(deadline) = self.now.0.checked_sub(self.limits.lease_millis) {
            for life in self.executors.silent_since(Instant64(deadline)) {
                let reason = format!("no heartbeat for {} ms", self.limits.lease_millis);
                self.lose(life, &reason, out);
            }
        }
        self.start_delayed(out);
        self.end_restoring(out);
        self.speculate(out);
    }

    /// A stage of a job that is not over.
    pub(crate) fn stage_mut(&mut self, seq: JobSeq, id: StageId) -> Option<&mut Stage> {
        self.jobs.get_mut(&seq)?.stages.get_mut(&id)
    }

    /// Brings the queue up to date with one job.
    pub(crate) fn requeue(&mut self, seq: JobSeq) {
        let waits = |job: &&Job| !job.ready.is_empty();
        let waiting = |job: &Job| Waiting { slots: job.slots, weight: job.weight, small: job.small };
        self.queue.set(seq, self.jobs.get(&seq).filter(waits).map(waiting));
    }
}
