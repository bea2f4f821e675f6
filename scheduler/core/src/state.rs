// SPDX-License-Identifier: Apache-2.0
//! [`State`]: the records, the dispatch of events, and the coming and going of executors.

use std::collections::{BTreeMap, VecDeque};

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId};

use crate::effect::Effect;
use crate::event::{Event, Instant64};
use crate::executors::{Executors, Life};
use crate::fair::{FairQueue, Waiting};
use crate::job::{Job, JobSeq};
use crate::view::{JobState, JobView};

/// More slots than any machine has cores; keeps sums far from overflow whatever an executor says of itself.
const MAX_SLOTS: u32 = 1 << 16;

/// What bounds the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Extra slots per executor that only jobs marked small may use, and only while no regular slot is free.
    pub reserve_slots: u32,
    /// An executor not heard of for this many milliseconds is lost at the next tick.
    pub lease_millis: u64,
    /// A stage with more partitions fails its job, so that no plan can exhaust the scheduler's memory.
    pub max_stage_partitions: u32,
    /// How many summaries of ended jobs are kept.
    pub ended_jobs: usize,
    /// How many lost incarnations are remembered, to refuse them when they come back.
    pub fenced_incarnations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reserve_slots: 1,
            lease_millis: 60_000,
            max_stage_partitions: 1_000_000,
            ended_jobs: 1_000,
            fenced_incarnations: 10_000,
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
    pub(crate) ended: VecDeque<JobView>,
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
            ended: VecDeque::new(),
        }
    }

    /// Takes in what happened and returns what shall be done, in order. Total: any event in any state is answered, and
    /// what does not fit changes nothing. Time that runs backwards counts as standing still.
    pub fn step(&mut self, event: Event, now: Instant64) -> Vec<Effect> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        match event {
            Event::ExecutorJoined { executor, incarnation, slots } => {
                self.executor_joined(executor, incarnation, slots, &mut out);
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
            Event::TaskFinished { task, executor, incarnation, output } => {
                if let Some(life) = self.known(&executor, incarnation, &mut out) {
                    self.task_finished(life, &task, output, &mut out);
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

    fn executor_joined(&mut self, id: ExecutorId, incarnation: Incarnation, slots: u32, out: &mut Vec<Effect>) {
        if let Some(life) = self.executors.find(&id, incarnation) {
            self.executors.renew(life, self.now);
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
        self.executors.join(id, incarnation, [slots, reserve], self.now);
    }

    fn tick(&mut self, out: &mut Vec<Effect>) {
        let Some(deadline) = self.now.0.checked_sub(self.limits.lease_millis) else { return };
        for life in self.executors.silent_since(Instant64(deadline)) {
            let reason = format!("no heartbeat for {} ms", self.limits.lease_millis);
            self.lose(life, &reason, out);
        }
    }

    /// Disconnects an executor for good. Every job that ran a task there, or still needs an output from there, fails;
    /// the slots of all others' cancelled tasks go with it.
    fn lose(&mut self, life: Life, reason: &str, out: &mut Vec<Effect>) {
        let Some(executor) = self.executors.remove(life, self.limits.fenced_incarnations) else { return };
        out.push(Effect::FenceExecutor { executor: executor.id.clone(), incarnation: executor.incarnation });
        for held in executor.running.values() {
            if let Some(job) = self.jobs.get_mut(&held.job) {
                job.slots -= u64::from(held.slots);
            }
            self.requeue(held.job);
        }
        for (job, count) in &executor.needed {
            let message = format!(
                "executor {} was lost ({reason}) with {count} running tasks or unread outputs of the job; \
                 submit the job again",
                executor.id
            );
            self.end_job(*job, JobState::Failed(ClassifiedError::new(ErrorClass::Infra, message)), out);
        }
    }

    /// Brings the queue up to date with one job.
    pub(crate) fn requeue(&mut self, seq: JobSeq) {
        let waits = |job: &&Job| !job.ready.is_empty();
        let waiting = |job: &Job| Waiting { slots: job.slots, weight: job.weight, small: job.small };
        self.queue.set(seq, self.jobs.get(&seq).filter(waits).map(waiting));
    }
}
