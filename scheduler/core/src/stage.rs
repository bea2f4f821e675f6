// SPDX-License-Identifier: Apache-2.0
//! The record of one stage: its partitions, tasks, attempts and outputs.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{JobId, StageId, TaskId, TaskKey};

use crate::event::{Instant64, OutputStats, Slicing, StageSpec};
use crate::executors::Life;
use crate::pending::Pending;

/// Where a stage is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for inputs or slots, or runs.
    Open,
    /// All outputs were there. Some may have been lost since; the stage opens again when somebody wants them.
    Finished,
}

/// Partitions that run together on one executor, in every attempt the same ones.
#[derive(Debug, Default)]
pub(crate) struct Task {
    pub(crate) partitions: Vec<u32>,
    /// Of the next launch.
    pub(crate) next_attempt: u32,
    /// The attempt whose output counted before a restart.
    pub(crate) counted: Option<u32>,
    /// What went wrong so far, if anything did.
    pub(crate) trouble: Option<Box<Trouble>>,
}

/// What attempts of a task met.
#[derive(Debug, Default, Clone)]
pub(crate) struct Trouble {
    /// Failures that count against the task.
    pub(crate) failures: u32,
    /// Inputs that could not be read.
    pub(crate) fetches: u32,
    /// Executors that were lost while they ran it; those lost at one moment count once.
    pub(crate) deaths: u32,
    pub(crate) last_death: Instant64,
    /// Memory ran out: the next attempt gets all free slots of its executor.
    pub(crate) alone: bool,
    /// How often it waited for an executor on which it has not failed.
    pub(crate) waits: u32,
    /// Where it failed: other executors come first.
    pub(crate) avoid: BTreeSet<Life>,
}

impl Trouble {
    /// The worst of both.
    pub(crate) fn add(&mut self, other: &Self) {
        self.failures = self.failures.max(other.failures);
        self.fetches = self.fetches.max(other.fetches);
        self.deaths = self.deaths.max(other.deaths);
        self.last_death = self.last_death.max(other.last_death);
        self.alone |= other.alone;
        self.avoid.extend(&other.avoid);
    }
}

/// A task attempt that counts: launched, not ended, not cancelled.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) life: Life,
    pub(crate) since: Instant64,
    /// The client was told to read from it.
    pub(crate) streaming: bool,
    /// The client has read it to its end.
    pub(crate) read: bool,
}

/// The output of the successful attempt of a task.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) attempt: u32,
    pub(crate) life: Life,
    pub(crate) stats: OutputStats,
    /// It came with the status, or is published, so that the executor is not needed for it.
    pub(crate) delivered: bool,
    /// Its executor was told to publish what it wrote.
    pub(crate) publishing: bool,
}

/// One stage of a running job. **Invariants**: each partition is in exactly one of `pending`, `skipped` and the tasks;
/// each task is in exactly one of `running` (once, or twice while it is speculated on), `outputs`, `retries`, `delayed`
/// and `lost`; an open stage has nothing skipped or lost unless it has enough rows.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) id: StageId,
    pub(crate) partitions: u32,
    pub(crate) slicing: Slicing,
    pub(crate) inputs: BTreeSet<StageId>,
    pub(crate) row_limit: Option<u64>,
    pub(crate) is_final: bool,
    pub(crate) commits: bool,
    pub(crate) is_kept: bool,
    pub(crate) deterministic: bool,
    /// How often the whole stage was started before.
    pub(crate) attempt: u32,
    /// Its first one in this life of the scheduler.
    pub(crate) starts_at: u32,
    /// Attempts of tasks of before a restart have smaller numbers.
    pub(crate) first_attempt: u32,
    pub(crate) phase: Phase,
    /// The planner was told that it is finished.
    pub(crate) announced: bool,
    /// The client was told to read from some attempt.
    pub(crate) streamed: bool,
    /// Outputs were lost since it finished last.
    pub(crate) shrunk: bool,
    /// Inputs that are open.
    pub(crate) blocked_by: usize,
    /// Stages that read this one, and how many of them are open.
    pub(crate) consumers: Vec<StageId>,
    pub(crate) open_consumers: usize,
    /// Finished, and so is everybody who reads it: its outputs are kept for recovery only.
    pub(crate) released: bool,
    pub(crate) pending: Pending,
    /// Pending when the stage had enough rows.
    pub(crate) skipped: Pending,
    pub(crate) next_task: u32,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) running: BTreeMap<(TaskId, u32), Running>,
    pub(crate) outputs: BTreeMap<TaskId, Output>,
    /// Wait for slots again.
    pub(crate) retries: BTreeSet<TaskId>,
    /// Wait for their time.
    pub(crate) delayed: BTreeSet<TaskId>,
    /// Have no output any more, or never will unless it is wanted.
    pub(crate) lost: BTreeSet<TaskId>,
    /// What tasks of earlier attempts of the whole stage met. Its tasks are divided anew, so it counts for each.
    pub(crate) past: Trouble,
    /// Every executor that ever got a task of it, and so may hold something of it.
    pub(crate) touched: BTreeSet<Life>,
    /// How often consumers could not reach an executor that holds outputs.
    pub(crate) unreachable: BTreeMap<Life, u32>,
    /// Milliseconds that successful tasks took, for telling which ones are late.
    pub(crate) durations: Vec<u32>,
    /// Partitions that are done, and what they produced.
    pub(crate) partitions_done: u32,
    pub(crate) stats: OutputStats,
}

impl Stage {
    /// A new stage whose holders of input are resolved to lives.
    pub(crate) fn new(spec: &StageSpec, preferred: &[Vec<(Life, u64)>]) -> Self {
        Self {
            id: spec.stage,
            partitions: spec.partitions,
            slicing: spec.slicing,
            inputs: spec.inputs.iter().copied().collect(),
            // Some of what a cut stage was told to publish might be out and not be asked for again after a restart.
            row_limit: spec.row_limit.filter(|_| !spec.commits),
            is_final: spec.is_final,
            commits: spec.commits,
            is_kept: spec.is_kept,
            deterministic: spec.deterministic,
            attempt: 0,
            starts_at: 0,
            first_attempt: 0,
            phase: Phase::Open,
            announced: false,
            streamed: false,
            shrunk: false,
            blocked_by: 0,
            consumers: Vec::new(),
            open_consumers: 0,
            released: false,
            pending: Pending::new(spec.partitions, preferred),
            skipped: Pending::default(),
            next_task: 0,
            tasks: BTreeMap::new(),
            running: BTreeMap::new(),
            outputs: BTreeMap::new(),
            retries: BTreeSet::new(),
            delayed: BTreeSet::new(),
            lost: BTreeSet::new(),
            past: Trouble::default(),
            touched: BTreeSet::new(),
            unreachable: BTreeMap::new(),
            durations: Vec::new(),
            partitions_done: 0,
            stats: OutputStats::default(),
        }
    }

    /// Whether something waits for slots.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.retries.is_empty()
    }

    /// Whether its tasks may start now.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Open && self.blocked_by == 0 && self.has_waiting()
    }

    /// Whether the rows asked for are there.
    pub(crate) fn has_enough_rows(&self) -> bool {
        self.row_limit.is_some_and(|limit| self.stats.rows >= limit)
    }

    /// Whether nothing is left to do. Inputs that are open again do not matter to tasks that have read them.
    pub(crate) fn is_done(&self) -> bool {
        let none_left = !self.has_waiting() && self.delayed.is_empty() && self.running.is_empty();
        none_left && (self.blocked_by == 0 || self.has_started())
    }

    /// Whether nothing is lost or skipped, or there are as many rows as are wanted.
    pub(crate) fn wants_nothing_back(&self) -> bool {
        (self.lost.is_empty() && self.skipped.is_empty()) || self.has_enough_rows()
    }

    /// Finished, and exactly the outputs are there that were there then.
    pub(crate) fn is_complete(&self) -> bool {
        self.phase == Phase::Finished && !self.shrunk && self.wants_nothing_back()
    }

    /// Whether a task of it may have read something.
    pub(crate) fn has_started(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Whether the client can read, or has been able to read, every partition.
    pub(crate) fn is_streaming_all(&self) -> bool {
        let all_run = !self.has_waiting() && self.delayed.is_empty() && self.lost.is_empty() && self.skipped.is_empty();
        all_run && self.blocked_by == 0 && !self.commits && self.running.values().all(|task| task.streaming)
    }

    /// The key of an attempt of one of its tasks.
    pub(crate) fn key(&self, job: &JobId, task: TaskId, attempt: u32) -> TaskKey {
        TaskKey { job: job.clone(), stage: self.id, stage_attempt: self.attempt, task, attempt }
    }

    /// The attempts that count as running, with where they run.
    pub(crate) fn running_keys(&self, job: &JobId) -> Vec<(TaskKey, Life)> {
        let key =
            |((task, attempt), running): (&(TaskId, u32), &Running)| (self.key(job, *task, *attempt), running.life);
        self.running.iter().map(key).collect()
    }

    /// The attempts of one task that count as running.
    pub(crate) fn attempts(&self, task: TaskId) -> impl Iterator<Item = (u32, &Running)> {
        self.running.range((task, 0)..=(task, u32::MAX)).map(|((_, attempt), running)| (*attempt, running))
    }

    /// The partitions of a task.
    pub(crate) fn partitions_of(&self, task: TaskId) -> &[u32] {
        self.tasks.get(&task).map_or(&[], |task| task.partitions.as_slice())
    }

    /// Whether another attempt of a task runs, so that one that failed on `life` does not matter. Remembers not to try
    /// it there again.
    pub(crate) fn is_tried_elsewhere(&mut self, task: TaskId, life: Life) -> bool {
        let runs = self.attempts(task).next().is_some();
        if runs {
            self.trouble(task).avoid.insert(life);
        }
        runs
    }

    /// A new task.
    pub(crate) fn add_task(&mut self, partitions: Vec<u32>) -> TaskId {
        let task = TaskId(self.next_task);
        self.next_task += 1;
        self.tasks.insert(task, Task { partitions, ..Task::default() });
        task
    }

    /// What a task met so far, to add to it.
    pub(crate) fn trouble(&mut self, task: TaskId) -> &mut Trouble {
        let past = &self.past;
        self.tasks.entry(task).or_default().trouble.get_or_insert_with(|| Box::new(past.clone()))
    }

    /// Turns a running attempt into an output. `None` if this attempt does not run.
    pub(crate) fn succeed(
        &mut self,
        key: &TaskKey,
        stats: OutputStats,
        delivered: bool,
        now: Instant64,
    ) -> Option<Running> {
        let running = self.take_running(key)?;
        self.partitions_done += count(self.partitions_of(key.task));
        self.stats.rows = self.stats.rows.saturating_add(stats.rows);
        self.stats.bytes = self.stats.bytes.saturating_add(stats.bytes);
        self.durations.push(u32::try_from(now.0.saturating_sub(running.since.0)).unwrap_or(u32::MAX));
        let delivered = delivered || running.read;
        let output = Output { attempt: key.attempt, life: running.life, stats, delivered, publishing: false };
        self.outputs.insert(key.task, output);
        Some(running)
    }

    /// Takes the outputs away that `life` holds: their tasks are lost. Whether there were any.
    pub(crate) fn lose_outputs(&mut self, life: Life) -> bool {
        let held = |(task, output): (&TaskId, &Output)| (output.life == life && !output.delivered).then_some(*task);
        let tasks: Vec<TaskId> = self.outputs.iter().filter_map(held).collect();
        for task in &tasks {
            self.drop_output(*task);
        }
        !tasks.is_empty()
    }

    /// Takes the output of one attempt away, unless its rows came with its status.
    pub(crate) fn lose_output(&mut self, key: &TaskKey) -> Option<Output> {
        let is_it = |output: &Output| output.attempt == key.attempt && !output.delivered;
        self.outputs.get(&key.task).is_some_and(is_it).then(|| self.drop_output(key.task))?
    }

    fn drop_output(&mut self, task: TaskId) -> Option<Output> {
        let output = self.outputs.remove(&task)?;
        self.stats.rows = self.stats.rows.saturating_sub(output.stats.rows);
        self.stats.bytes = self.stats.bytes.saturating_sub(output.stats.bytes);
        self.partitions_done -= count(self.partitions_of(task));
        self.lost.insert(task);
        self.shrunk = true;
        Some(output)
    }

    /// What is lost or skipped is wanted after all.
    pub(crate) fn want_all(&mut self) {
        if !self.has_enough_rows() {
            self.retries.append(&mut self.lost);
            if self.pending.is_empty() {
                self.pending = std::mem::take(&mut self.skipped);
            }
        }
    }

    /// What waits is not wanted for now.
    pub(crate) fn skip_waiting(&mut self) {
        self.lost.append(&mut self.retries);
        self.lost.append(&mut self.delayed);
        if self.skipped.is_empty() {
            self.skipped = std::mem::take(&mut self.pending);
        }
    }

    /// Removes a running attempt. `None` if it does not run.
    pub(crate) fn take_running(&mut self, key: &TaskKey) -> Option<Running> {
        self.running(key)?;
        self.running.remove(&(key.task, key.attempt))
    }

    /// The running task of exactly this attempt.
    pub(crate) fn running(&mut self, key: &TaskKey) -> Option<&mut Running> {
        let current = self.attempt == key.stage_attempt;
        self.running.get_mut(&(key.task, key.attempt)).filter(|_| current)
    }

    /// Whether this attempt's output is part of the stage.
    pub(crate) fn has_output(&self, key: &TaskKey) -> bool {
        let of_attempt = |output: &Output| self.attempt == key.stage_attempt && output.attempt == key.attempt;
        self.outputs.get(&key.task).is_some_and(of_attempt)
    }
}

fn count(partitions: &[u32]) -> u32 {
    u32::try_from(partitions.len()).unwrap_or(u32::MAX)
}
