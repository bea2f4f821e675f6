// SPDX-License-Identifier: Apache-2.0
//! The record of one stage: its partitions, tasks, attempts and outputs.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{JobId, StageId, TaskId, TaskKey};

use crate::event::{OutputStats, Slicing, StageSpec};
use crate::executors::Life;
use crate::pending::Pending;

/// Where a stage is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for inputs or slots, or runs.
    Open,
    /// All outputs are there.
    Finished,
    /// Nobody reads its outputs any more.
    Freed,
}

/// A task attempt that counts: launched, not ended, not cancelled.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) attempt: u32,
    pub(crate) life: Life,
    pub(crate) partitions: Vec<u32>,
    /// The client was told to read from it.
    pub(crate) streaming: bool,
}

/// The output of the successful attempt of a task.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) attempt: u32,
    pub(crate) life: Life,
    pub(crate) partitions: Vec<u32>,
    pub(crate) stats: OutputStats,
}

/// One stage of a running job. **Invariant**: while it is open, each partition is in exactly one of `pending`,
/// `running` and `outputs`, unless the row limit was reached and dropped it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) id: StageId,
    pub(crate) partitions: u32,
    pub(crate) slicing: Slicing,
    pub(crate) inputs: BTreeSet<StageId>,
    pub(crate) row_limit: Option<u64>,
    pub(crate) is_final: bool,
    pub(crate) commits: bool,
    /// How often the whole stage was started before.
    pub(crate) attempt: u32,
    pub(crate) phase: Phase,
    /// Inputs that are not finished.
    pub(crate) blocked_by: usize,
    /// Stages that read this one, and how many of them are not finished.
    pub(crate) consumers: Vec<StageId>,
    pub(crate) open_consumers: usize,
    pub(crate) pending: Pending,
    pub(crate) next_task: u32,
    pub(crate) running: BTreeMap<TaskId, Running>,
    pub(crate) outputs: BTreeMap<TaskId, Output>,
    /// Every executor that ever got a task of it, and so may hold something of it.
    pub(crate) touched: BTreeSet<Life>,
    /// Successful tasks, the partitions they ran and what they produced.
    pub(crate) tasks_done: u32,
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
            row_limit: spec.row_limit,
            is_final: spec.is_final,
            commits: spec.commits,
            attempt: 0,
            phase: Phase::Open,
            blocked_by: 0,
            consumers: Vec::new(),
            open_consumers: 0,
            pending: Pending::new(spec.partitions, preferred),
            next_task: 0,
            running: BTreeMap::new(),
            outputs: BTreeMap::new(),
            touched: BTreeSet::new(),
            tasks_done: 0,
            partitions_done: 0,
            stats: OutputStats::default(),
        }
    }

    /// Whether its tasks may start now.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Open && self.blocked_by == 0 && !self.pending.is_empty()
    }

    /// Whether the rows asked for are there.
    pub(crate) fn has_enough_rows(&self) -> bool {
        self.row_limit.is_some_and(|limit| self.stats.rows >= limit)
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.blocked_by == 0 && self.pending.is_empty() && self.running.is_empty()
    }

    /// Whether the client can read, or has been able to read, every partition.
    pub(crate) fn is_streaming_all(&self) -> bool {
        let all_run = self.blocked_by == 0 && self.pending.is_empty() && !self.commits;
        all_run && self.running.values().all(|task| task.streaming)
    }

    /// The key of an attempt of one of its tasks.
    pub(crate) fn key(&self, job: &JobId, task: TaskId, attempt: u32) -> TaskKey {
        TaskKey { job: job.clone(), stage: self.id, stage_attempt: self.attempt, task, attempt }
    }

    /// The attempts that count as running, with where they run.
    pub(crate) fn running_keys(&self, job: &JobId) -> Vec<(TaskKey, Life)> {
        self.running.iter().map(|(task, running)| (self.key(job, *task, running.attempt), running.life)).collect()
    }

    /// Turns a running task into an output. `None` if this attempt does not run.
    pub(crate) fn succeed(&mut self, key: &TaskKey, stats: OutputStats) -> Option<Running> {
        let running = self.take_running(key)?;
        self.tasks_done += 1;
        self.partitions_done += u32::try_from(running.partitions.len()).unwrap_or(u32::MAX);
        self.stats.rows = self.stats.rows.saturating_add(stats.rows);
        self.stats.bytes = self.stats.bytes.saturating_add(stats.bytes);
        let output = Output { attempt: key.attempt, life: running.life, partitions: running.partitions.clone(), stats };
        self.outputs.insert(key.task, output);
        Some(running)
    }

    /// Removes a running task. `None` if this attempt does not run.
    pub(crate) fn take_running(&mut self, key: &TaskKey) -> Option<Running> {
        self.running(key)?;
        self.running.remove(&key.task)
    }

    /// The running task of exactly this attempt.
    pub(crate) fn running(&mut self, key: &TaskKey) -> Option<&mut Running> {
        let current = self.attempt == key.stage_attempt;
        self.running.get_mut(&key.task).filter(|running| current && running.attempt == key.attempt)
    }

    /// Whether this attempt's output is part of the stage.
    pub(crate) fn has_output(&self, key: &TaskKey) -> bool {
        let of_attempt = |output: &Output| self.attempt == key.stage_attempt && output.attempt == key.attempt;
        self.outputs.get(&key.task).is_some_and(of_attempt)
    }
}
