// SPDX-License-Identifier: Apache-2.0
//! What executors bring along when they join: after a broken connection, and after a scheduler's death.
//!
//! An executor that joins says what it runs and what it holds. Of a connection that broke, both sides remember the same
//! tasks but for messages that were lost: what only one of them knows ends. A scheduler that died remembers what was
//! **planned** (stages, and which of them are finished) and not what was **done**; so it takes over what executors
//! bring, as long as it fits:
//!
//! ```text
//!   of the stage's current attempt, its partitions in no other task  ──▶ counts (`Adopted`)
//!   anything else                                                    ──▶ thrown away (`CancelTask`, `FreeJob`)
//! ```
//!
//! Until all executors of before are back, or their time is up, nothing is launched; then stages that lack outputs open
//! again as far as somebody wants them. Only executors that were connected when the scheduler died are taken over from:
//! what a lost one held may have been computed again, and read, since.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskKey};

use crate::effect::{Effect, StageFinished};
use crate::event::{HeldState, HeldTask, Instant64, RestoredJob, RestoredStage, RestoredTask};
use crate::executors::{Held, Life, Pool};
use crate::job::{Job, JobSeq};
use crate::stage::{Output, Phase, Running, Stage, Task};
use crate::state::State;
use crate::view::JobState;

/// Whose tasks belong to no job that is known.
const NOBODY: JobSeq = JobSeq(u64::MAX);

/// A restart that is not over.
#[derive(Debug)]
pub(crate) struct Restoring {
    /// Executors that were connected and are not back.
    pub(crate) expected: BTreeSet<(ExecutorId, Incarnation)>,
    pub(crate) until: Instant64,
}

impl State {
    /// Whether executors of before a restart are awaited, so that nothing is launched.
    pub fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    pub(crate) fn restored(
        &mut self,
        executors: Vec<(ExecutorId, Incarnation)>,
        jobs: Vec<RestoredJob>,
        first_attempt: u32,
        out: &mut Vec<Effect>,
    ) {
        if self.next_job > 0 || self.restoring.is_some() || self.executors.iter().next().is_some() {
            return;
        }
        self.first_attempt = first_attempt;
        let until = Instant64(self.now.0.saturating_add(self.limits.restore_millis));
        self.restoring = Some(Restoring { expected: executors.into_iter().collect(), until });
        for restored in jobs.into_iter().filter(|job| !job.stages.is_empty()) {
            if self.by_id.contains_key(&restored.job) {
                continue;
            }
            let seq = JobSeq(self.next_job);
            self.next_job += 1;
            self.by_id.insert(restored.job.clone(), seq);
            self.jobs.insert(seq, job_of(restored, self.now));
            let open = self.jobs.get(&seq).map(open_stages).unwrap_or_default();
            self.advance(seq, open, out);
        }
    }

    /// Ends the wait after a restart when everybody is back or the time is up: what nobody brought is lost.
    pub(crate) fn end_restoring(&mut self, out: &mut Vec<Effect>) {
        let is_over = |restoring: &Restoring| restoring.expected.is_empty() || self.now >= restoring.until;
        if !self.restoring.as_ref().is_some_and(is_over) {
            return;
        }
        self.restoring = None;
        for seq in self.jobs.keys().copied().collect::<Vec<_>>() {
            let Some(job) = self.jobs.get_mut(&seq) else { continue };
            let mut whole = Vec::new();
            for (id, stage) in &mut job.stages {
                let is_whole = stage.lost.is_empty() && stage.wants_nothing_back();
                if stage.phase == Phase::Finished && stage.shrunk && is_whole {
                    stage.shrunk = false;
                    whole.push(*id);
                }
            }
            for id in whole {
                if let Some(finished) = self.finished(seq, id) {
                    let Some(job) = self.jobs.get(&seq) else { continue };
                    out.push(Effect::OutputsMoved { job: job.id.clone(), finished });
                }
            }
            if self.jobs.get(&seq).is_some_and(cannot_publish) {
                let message = "the scheduler died while it was publishing what the query had written, and so did an executor; \
                               the query would not write the same again: some of it may be there, some may not";
                self.end_job(seq, JobState::Failed(ClassifiedError::new(ErrorClass::Infra, message)), out);
                continue;
            }
            self.recover(seq, out);
            self.release_unread_stages(seq, out);
        }
    }

    /// Where the outputs of a stage are.
    pub(crate) fn finished(&self, seq: JobSeq, id: StageId) -> Option<StageFinished> {
        let job = self.jobs.get(&seq)?;
        let stage = job.stages.get(&id)?;
        let outputs = stage.outputs.iter().filter_map(|(task, output)| {
            let (executor, incarnation) = self.executors.get(output.life)?.address();
            let partitions = stage.partitions_of(*task).to_vec();
            let task = stage.key(&job.id, *task, output.attempt);
            Some(crate::effect::TaskOutput { task, executor, incarnation, partitions, stats: output.stats })
        });
        Some(StageFinished { stage: id, outputs: outputs.collect() })
    }

    /// Brings what an executor has in line with what is known of it; with `adopt`, takes over what fits.
    pub(crate) fn reconcile(&mut self, life: Life, held: &[HeldTask], adopt: bool, out: &mut Vec<Effect>) {
        let there: BTreeMap<&TaskKey, HeldState> = held.iter().map(|held| (&held.task, held.state)).collect();
        self.drop_missing_tasks(life, &there, out);
        self.drop_missing_outputs(life, &there, out);
        self.commit_again(life, out);
        let mut freed: BTreeSet<&JobId> = BTreeSet::new();
        // The largest first, so that all that fitted before fits again, whoever held the reserve.
        let mut held: Vec<&HeldTask> = held.iter().collect();
        held.sort_by_key(|held| std::cmp::Reverse(held.slots));
        for task in held {
            if self.counts(life, &task.task) || (adopt && self.adopt(life, task, out)) {
                continue;
            }
            if matches!(task.state, HeldState::Running { .. }) {
                self.hold_until_ended(life, task);
            }
            let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) else {
                return;
            };
            if self.by_id.contains_key(&task.task.job) {
                out.push(Effect::CancelTask { task: task.task.clone(), executor, incarnation });
            } else if freed.insert(&task.task.job) {
                out.push(Effect::FreeJob { job: task.task.job.clone(), executors: vec![(executor, incarnation)] });
            }
        }
    }

    /// Whatever was to be published there may not have been heard.
    fn commit_again(&self, life: Life, out: &mut Vec<Effect>) {
        let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) else { return };
        let tasks = self.jobs.values().flat_map(|job| &job.committing).filter(|(_, holder)| **holder == life);
        out.extend(tasks.map(|(task, _)| Effect::Commit {
            task: task.clone(),
            executor: executor.clone(),
            incarnation,
        }));
    }

    /// Tasks that were launched, and the executor never heard of or has forgotten, run again.
    fn drop_missing_tasks(&mut self, life: Life, there: &BTreeMap<&TaskKey, HeldState>, out: &mut Vec<Effect>) {
        let Some(executor) = self.executors.get(life) else { return };
        let missing: Vec<TaskKey> = executor.running.keys().filter(|task| !there.contains_key(task)).cloned().collect();
        for key in missing {
            let Some(held) = self.release(life, &key).filter(|held| !held.cancelled) else { continue };
            self.executors.unneed(life, held.job);
            if self.stage_mut(held.job, key.stage).and_then(|stage| stage.take_running(&key)).is_some() {
                self.run_again(held.job, key.stage, key.task, out);
                self.advance(held.job, vec![key.stage], out);
            }
        }
    }

    /// Outputs that the executor does not hold are lost.
    fn drop_missing_outputs(&mut self, life: Life, there: &BTreeMap<&TaskKey, HeldState>, out: &mut Vec<Effect>) {
        let mut missing = Vec::new();
        for (seq, job) in self.jobs.iter().filter(|(_, job)| job.touched.contains(&life)) {
            for (id, stage) in &job.stages {
                let is_missing = |(task, output): (&_, &Output)| {
                    let key = stage.key(&job.id, *task, output.attempt);
                    let is_there = matches!(there.get(&key), Some(HeldState::Finished { .. }));
                    output.life == life && !output.delivered && !is_there
                };
                if stage.outputs.iter().any(is_missing) {
                    missing.push((*seq, *id));
                }
            }
        }
        for (seq, id) in missing {
            self.invalidate(seq, id, life, out);
        }
    }

    /// Whether an attempt runs on `life` or has its output there, for all that is known.
    fn counts(&self, life: Life, key: &TaskKey) -> bool {
        let runs = self.executors.get(life).and_then(|executor| executor.running.get(key));
        let stage = self.by_id.get(&key.job).and_then(|seq| self.jobs.get(seq)?.stages.get(&key.stage));
        let is_output = |stage: &Stage| {
            let output = stage.outputs.get(&key.task);
            stage.has_output(key) && output.is_some_and(|output| output.life == life)
        };
        // A cancelled one is told again: the message may have been lost.
        runs.is_some_and(|held| !held.cancelled) || stage.is_some_and(is_output)
    }

    /// Takes over a task of before the restart, unless it does not fit.
    fn adopt(&mut self, life: Life, held: &HeldTask, out: &mut Vec<Effect>) -> bool {
        let key = &held.task;
        let Some(seq) = self.by_id.get(&key.job).copied() else { return false };
        let Some(executor) = self.executors.get(life) else { return false };
        let has_room = |pool: &Pool| executor.total[*pool as usize] - executor.used[*pool as usize] >= held.slots;
        let pool = Pool::ALL.into_iter().find(has_room);
        let (executor, incarnation) = executor.address();
        let Some(job) = self.jobs.get_mut(&seq).filter(|job| job.finished.is_none()) else { return false };
        let Some(stage) = job.stages.get_mut(&key.stage).filter(|stage| stage.attempt == key.stage_attempt) else {
            return false;
        };
        let may_run = stage.phase == Phase::Open && pool.is_some() && held.slots > 0;
        let is_running = matches!(held.state, HeldState::Running { .. });
        let is_wanted = stage.phase == Phase::Open || stage.shrunk;
        if !is_wanted || (is_running && !may_run) || !stage.claim(held) {
            return false;
        }
        if is_running && stage.attempts(key.task).next().is_some() {
            return false;
        }
        stage.take_over(held);
        stage.touched.insert(life);
        job.touched.insert(life);
        out.push(Effect::Adopted {
            task: key.clone(),
            executor: executor.clone(),
            incarnation,
            partitions: held.partitions.clone(),
        });
        let mut streams = false;
        match held.state {
            HeldState::Running { streaming } => {
                streams = streaming && stage.is_final;
                let running = Running { life, since: self.now, streaming: streams, read: false };
                stage.running.insert((key.task, key.attempt), running);
                job.slots += u64::from(held.slots);
                let pool = pool.unwrap_or(Pool::Regular);
                self.executors.take(life, pool, held.slots);
                self.executors.hold(life, key.clone(), Held { job: seq, pool, slots: held.slots, cancelled: false });
            }
            HeldState::Finished { output: stats, delivered } => {
                streams |= stage.is_final;
                let delivered = delivered && stage.is_final && !stage.commits && !stage.is_kept;
                stage.partitions_done += u32::try_from(held.partitions.len()).unwrap_or(u32::MAX);
                stage.stats.rows = stage.stats.rows.saturating_add(stats.rows);
                stage.stats.bytes = stage.stats.bytes.saturating_add(stats.bytes);
                let output = Output { attempt: key.attempt, life, stats, delivered, publishing: false };
                stage.outputs.insert(key.task, output);
                if !delivered && !stage.released {
                    self.executors.need(life, seq);
                }
                self.cancel_attempts(seq, key, out);
            }
        }
        if streams {
            if let Some(stage) = self.stage_mut(seq, key.stage) {
                stage.streamed = true;
            }
            out.push(Effect::StreamReady { task: key.clone(), executor, incarnation });
        }
        self.requeue(seq);
        self.advance(seq, vec![key.stage], out);
        true
    }

    /// The slots of a task that does not count stay taken until it has ended.
    fn hold_until_ended(&mut self, life: Life, held: &HeldTask) {
        let Some(executor) = self.executors.get(life) else { return };
        if executor.running.contains_key(&held.task) {
            return;
        }
        let free = |pool: Pool| executor.total[pool as usize] - executor.used[pool as usize];
        let Some(pool) = Pool::ALL.into_iter().max_by_key(|pool| (free(*pool), *pool == Pool::Regular)) else { return };
        let slots = held.slots.min(free(pool));
        if slots > 0 {
            self.executors.take(life, pool, slots);
            self.executors.hold(life, held.task.clone(), Held { job: NOBODY, pool, slots, cancelled: false });
            self.executors.cancel(life, &held.task);
        }
    }
}

/// Whether tasks of a job that was publishing are gone and would not write the same again.
fn cannot_publish(job: &Job) -> bool {
    let last = job.final_stage.and_then(|stage| job.stages.get(&stage));
    job.publishing && last.is_some_and(|stage| stage.phase == Phase::Open && !stage.writes_the_same())
}

fn open_stages(job: &Job) -> Vec<StageId> {
    job.stages.values().filter(|stage| stage.phase == Phase::Open).map(|stage| stage.id).collect()
}

/// A job with all of its stages planned and nothing done.
fn job_of(restored: RestoredJob, now: Instant64) -> Job {
    let mut job = Job::new(restored.job, restored.weight, now);
    (job.small, job.complete, job.planned_again) = (restored.small, restored.complete, restored.planned_again);
    (job.publishing, job.plans_due) = (!restored.publishing.is_empty(), 0);
    for RestoredStage { spec, attempt, announced, first_new } in restored.stages {
        let mut stage = Stage::new(&spec, &[]);
        (stage.attempt, stage.next_task, stage.first_attempt) = (attempt, first_new, first_new);
        stage.starts_at = attempt;
        if let Some(outputs) = announced {
            (stage.phase, stage.announced, stage.shrunk) = (Phase::Finished, true, true);
            stage.expect(&outputs);
        }
        if spec.is_final {
            job.final_stage = Some(spec.stage);
            if job.publishing {
                stage.expect(&restored.publishing);
            }
        }
        job.stages.insert(spec.stage, stage);
    }
    let open: BTreeSet<StageId> = open_stages(&job).into_iter().collect();
    job.open_stages = open.len();
    let edges: Vec<(StageId, StageId)> =
        job.stages.values().flat_map(|stage| stage.inputs.iter().map(|input| (*input, stage.id))).collect();
    for (input, consumer) in edges {
        if let Some(input) = job.stages.get_mut(&input) {
            input.consumers.push(consumer);
            input.open_consumers += usize::from(open.contains(&consumer));
        }
        if let Some(consumer) = job.stages.get_mut(&consumer) {
            consumer.blocked_by += usize::from(open.contains(&input));
        }
    }
    job
}

impl Stage {
    /// The outputs of these tasks, and nothing else, made up the stage.
    fn expect(&mut self, outputs: &[RestoredTask]) {
        for RestoredTask { task, attempt, partitions } in outputs {
            if self.pending.take_exactly(partitions) {
                let next_attempt = self.first_attempt.max(attempt.saturating_add(1));
                let record =
                    Task { partitions: partitions.clone(), next_attempt, counted: Some(*attempt), trouble: None };
                self.tasks.insert(*task, record);
                if self.phase == Phase::Open { &mut self.retries } else { &mut self.lost }.insert(*task);
            }
        }
        self.skipped = std::mem::take(&mut self.pending);
    }

    /// Whether tasks that run again write what they wrote before.
    fn writes_the_same(&self) -> bool {
        self.deterministic && self.skipped.is_empty()
    }

    /// Makes the partitions of a task its own, unless they belong to another one. A task that is known must have the
    /// same, and no output; where an output counted before, no other attempt's will do.
    fn claim(&mut self, held: &HeldTask) -> bool {
        let id = held.task.task;
        if let Some(task) = self.tasks.get(&id) {
            let has_counted = task.counted.is_none_or(|attempt| attempt == held.task.attempt);
            return has_counted && task.partitions == held.partitions && !self.outputs.contains_key(&id);
        }
        let is_open = self.phase == Phase::Open && !held.partitions.is_empty() && held.partitions.is_sorted();
        if !is_open || !self.pending.take_exactly(&held.partitions) {
            return false;
        }
        self.tasks.insert(id, Task { partitions: held.partitions.clone(), ..Task::default() });
        true
    }

    /// A task that is taken over waits for nothing, and later ones have other numbers.
    fn take_over(&mut self, held: &HeldTask) {
        let id = held.task.task;
        for set in [&mut self.retries, &mut self.delayed, &mut self.lost] {
            set.remove(&id);
        }
        self.next_task = self.next_task.max(id.0.saturating_add(1));
        if let Some(task) = self.tasks.get_mut(&id) {
            let next = self.first_attempt.max(held.task.attempt.saturating_add(1));
            task.next_attempt = task.next_attempt.max(next);
        }
    }
}
