// SPDX-License-Identifier: Apache-2.0
//! What the effects promise, followed from outside: a model that knows only the events and the effects.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{ExecutorId, Incarnation, JobId, StageId, TaskKey};
use ballista_scheduler_core::{Event, OutputStats, StageSpec};

/// One life of an executor as itself knows it.
pub struct Process {
    pub executor: ExecutorId,
    pub incarnation: Incarnation,
    pub slots: u32,
    /// The scheduler said that it is out, or it is dead.
    pub fenced: bool,
    /// Its connection is broken: it hears nothing.
    pub away: bool,
    /// The scheduler knows that it takes no new tasks.
    pub draining: bool,
    /// It takes none, whether or not the scheduler knows.
    pub leaving: bool,
    /// When the scheduler that lives heard of it last; `None` if it has never joined there, and so may.
    pub heard: Option<u64>,
    pub running: BTreeMap<TaskKey, u32>,
    /// Launched here and not reported to the scheduler as ended.
    pub unconfirmed: BTreeMap<TaskKey, (u32, bool)>,
    /// Outputs it keeps, whether or not they came with a status.
    pub holds: BTreeMap<TaskKey, (OutputStats, bool)>,
}

impl Process {
    pub fn new(executor: ExecutorId, incarnation: Incarnation, slots: u32) -> Self {
        Self {
            executor,
            incarnation,
            slots,
            fenced: false,
            away: false,
            draining: false,
            leaving: false,
            heard: None,
            running: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            holds: BTreeMap::new(),
        }
    }

    pub fn was_launched(&self, task: &TaskKey, tasks: &BTreeMap<TaskKey, Task>) -> bool {
        let here = |task: &Task| task.executor == self.executor && task.incarnation == self.incarnation;
        tasks.get(task).is_some_and(here)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Live,
    Finished,
    Over,
}

pub struct JobModel {
    pub status: Status,
    pub small: bool,
    pub specs: BTreeMap<StageId, StageSpec>,
    /// Stages that the planner was told of.
    pub finished: BTreeSet<StageId>,
    /// Stages whose outputs are all there, as far as was told.
    pub there: BTreeSet<StageId>,
    pub is_freed: bool,
}

pub struct Task {
    pub executor: ExecutorId,
    pub incarnation: Incarnation,
    pub partitions: Vec<u32>,
    pub cancelled: bool,
    /// Its output, or what was to become one, does not count any more.
    pub void: bool,
    /// Its rows came with its status, or are at the client.
    pub delivered: bool,
    pub read: bool,
    /// The outputs that it was told to read.
    pub reads: BTreeSet<TaskKey>,
    /// Its first end that counted: a success with these numbers, or a failure.
    pub ended: Option<Option<OutputStats>>,
    pub streamed: bool,
    /// It was told to publish what it wrote, and whether it has.
    pub commit: Option<bool>,
}

impl Task {
    /// One of the outputs that it was told to read.
    pub fn some_input(&self, pick: u64) -> Option<TaskKey> {
        self.reads.iter().nth(pick as usize % self.reads.len().max(1)).cloned()
    }

    /// Where it ran.
    pub fn place(&self) -> (ExecutorId, Incarnation) {
        (self.executor.clone(), self.incarnation)
    }
}

#[derive(Default)]
pub struct Model {
    pub processes: Vec<Process>,
    pub jobs: BTreeMap<JobId, JobModel>,
    pub tasks: BTreeMap<TaskKey, Task>,
    pub has_crashed: bool,
    /// The latest time that the scheduler was told since it started, and whether it was told right now.
    pub clock: u64,
    pub time_passes: bool,
    /// What tasks were ever told to publish; nothing takes it back.
    pub published: BTreeMap<JobId, BTreeMap<TaskKey, Vec<u32>>>,
}

impl Model {
    pub fn connected(&self, executor: &ExecutorId) -> Option<&Process> {
        self.processes.iter().find(|process| !process.fenced && process.executor == *executor)
    }

    pub fn process(&mut self, executor: &ExecutorId, incarnation: Incarnation) -> Option<&mut Process> {
        let is_it = |process: &&mut Process| process.executor == *executor && process.incarnation == incarnation;
        self.processes.iter_mut().find(is_it)
    }

    /// Every task that runs anywhere, on fenced processes too.
    pub fn running(&self) -> Vec<(usize, TaskKey)> {
        let tasks = |(at, process): (usize, &Process)| -> Vec<_> {
            process.running.keys().map(|task| (at, task.clone())).collect()
        };
        self.processes.iter().enumerate().flat_map(tasks).collect()
    }

    /// Attempts that a client was told to read.
    pub fn streamed(&self) -> Vec<TaskKey> {
        self.tasks.iter().filter(|(_, task)| task.streamed).map(|(key, _)| key.clone()).collect()
    }

    pub fn planned(&mut self, job: &JobId, stages: &[StageSpec], small: bool) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.small = small;
            job.specs.extend(stages.iter().map(|spec| (spec.stage, spec.clone())));
        }
    }

    /// Notes an event that counts.
    pub fn receive(&mut self, event: &Event) -> Result<(), String> {
        let (key, executor, incarnation, stats) = match event {
            Event::JobSubmitted { job, .. } => {
                self.jobs.entry(job.clone()).or_insert(JobModel {
                    status: Status::Live,
                    small: false,
                    specs: BTreeMap::new(),
                    finished: BTreeSet::new(),
                    there: BTreeSet::new(),
                    is_freed: false,
                });
                return Ok(());
            }
            Event::ExecutorDraining { executor, incarnation } => {
                if let Some(process) = self.process(executor, *incarnation) {
                    (process.draining, process.leaving) = (process.heard.is_some(), true);
                }
                return Ok(());
            }
            Event::ExecutorJoined { executor, incarnation, .. }
            | Event::ExecutorHeartbeat { executor, incarnation } => {
                let (clock, joins) = (self.clock, matches!(event, Event::ExecutorJoined { .. }));
                if let Some(process) = self.process(executor, *incarnation).filter(|process| !process.fenced) {
                    process.heard = process.heard.or(joins.then_some(clock)).map(|_| clock);
                }
                return Ok(());
            }
            Event::TaskFinished { task, executor, incarnation, output, .. } => {
                (task, executor, incarnation, Some(*output))
            }
            Event::CommitFailed { task, executor, incarnation, .. } => {
                let is_out = self.process(executor, *incarnation).is_none_or(|process| process.fenced);
                let known = self.tasks.get_mut(task).filter(|task| !is_out && task.commit == Some(false));
                if let Some(task) = known {
                    task.void = true;
                }
                return Ok(());
            }
            Event::ResultRead { task } => {
                let is_result = |job: &JobModel| {
                    job.specs.get(&task.stage).is_some_and(|spec| spec.is_final && !spec.commits && !spec.is_kept)
                };
                let counts = self.jobs.get(&task.job).is_some_and(|job| job.status != Status::Over && is_result(job));
                if let Some(task) = self.tasks.get_mut(task).filter(|task| counts && !task.cancelled && !task.void) {
                    task.read = true;
                    task.delivered |= matches!(task.ended, Some(Some(_)));
                }
                return Ok(());
            }
            Event::ResultUnread { task, .. } => {
                // Its output is void if it has one and it must be read at its executor.
                let is_kept = |job: &JobModel| {
                    job.specs.get(&task.stage).is_some_and(|spec| spec.is_kept || spec.commits || !spec.is_final)
                };
                let counts = self.jobs.get(&task.job).is_some_and(|job| job.status != Status::Over && !is_kept(job));
                if let Some(task) = self.tasks.get_mut(task).filter(|task| counts && !task.delivered) {
                    task.void |= matches!(task.ended, Some(Some(_)));
                }
                return Ok(());
            }
            Event::TaskFailed { task, executor, incarnation, .. } => (task, executor, incarnation, None),
            Event::TaskCommitted { task, executor, incarnation } => {
                if self.process(executor, *incarnation).is_some_and(|process| !process.fenced) {
                    let task = self.tasks.get_mut(task).ok_or("an unknown task has committed")?;
                    task.commit = task.commit.map(|_| true);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(process) = self.process(executor, *incarnation).filter(|process| !process.fenced) else {
            return Ok(());
        };
        if process.unconfirmed.remove(key).is_some() {
            let task = self.tasks.get_mut(key).ok_or("an unconfirmed task was never launched")?;
            if !task.cancelled {
                task.ended = Some(stats);
                let spec = self.jobs.get(&key.job).and_then(|job| job.specs.get(&key.stage));
                let is_result = spec.is_some_and(|spec| spec.is_final && !spec.commits && !spec.is_kept);
                task.delivered =
                    is_result && (task.read || matches!(event, Event::TaskFinished { delivered: true, .. }));
            }
        }
        Ok(())
    }
}
