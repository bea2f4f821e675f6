// SPDX-License-Identifier: Apache-2.0
//! Broken connections and the death of the scheduler: who comes back and what it brings, what a journal knows, and what
//! may be taken over.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{ExecutorId, Incarnation, JobId, StageId, TaskKey};
use ballista_scheduler_core::{
    Event, ExecutorView, HeldState, HeldTask, RestoredJob, RestoredStage, RestoredTask, StageSpec, State,
};

use super::oracle::{Model, Process, Status, Task};
use super::{World, limits, scramble};

impl World {
    pub(super) fn is_away(&self, executor: &ExecutorId, incarnation: Incarnation) -> bool {
        let is_it = |process: &&Process| process.executor == *executor && process.incarnation == incarnation;
        self.model.processes.iter().find(is_it).is_some_and(|process| process.away)
    }

    /// A connection breaks; or a process whose connection is broken, or which the scheduler has forgotten, is back.
    pub(super) fn away_or_back(&mut self, pick: u64) -> Result<(), String> {
        let at = pick as usize % self.model.processes.len();
        let process = &mut self.model.processes[at];
        let (executor, incarnation) = (process.executor.clone(), process.incarnation);
        let is_it = |known: &ExecutorView| known.executor == executor && known.incarnation == incarnation;
        if process.fenced {
            return Ok(());
        }
        if !process.away && self.state.executors().any(|known| is_it(&known)) {
            // Of a launch that was lost, nothing was ever heard.
            let spoke = |task: &TaskKey| {
                let is_of = |event: &Event| matches!(event, Event::TaskStreaming { task: other, .. } if other == task);
                self.wire.iter().chain(&self.delivered).any(is_of)
            };
            let may_lose = process.running.keys().next_back().is_some_and(|task| !spoke(task));
            let lost = process.go_away(may_lose && scramble(pick, 7).is_multiple_of(4));
            if let Some(task) = lost {
                self.model.never_heard(&task);
            }
            if scramble(pick, 8).is_multiple_of(8) {
                self.model.processes[at].holds.pop_first();
            }
            return self.step(Event::ExecutorAway { executor, incarnation }).map(drop);
        }
        self.back(at)
    }

    pub(super) fn back(&mut self, at: usize) -> Result<(), String> {
        let process = &mut self.model.processes[at];
        if std::mem::replace(&mut process.fenced, false) {
            // What it said meanwhile counted for nobody.
            process.unconfirmed.retain(|task, _| process.running.contains_key(task));
        }
        process.away = false;
        let (executor, incarnation, slots) = (process.executor.clone(), process.incarnation, process.slots);
        let is_it = |known: &ExecutorView| known.executor == executor && known.incarnation == incarnation;
        let held = process.held(&self.model.tasks, !self.state.executors().any(|known| is_it(&known)));
        let leaving = process.leaving;
        self.step(Event::ExecutorJoined { executor: executor.clone(), incarnation, slots, held })?;
        if leaving {
            self.step(Event::ExecutorDraining { executor, incarnation })?;
        }
        Ok(())
    }

    /// The scheduler dies and starts anew from what a journal would know. Most executors come back at once.
    pub(super) fn crash(&mut self, pick: u64) -> Result<(), String> {
        self.crashes += 1;
        let (mut jobs, mut unplanned) = (vec![], vec![]);
        for (id, dag) in &mut self.dags {
            if !self.state.is_live(id) {
                continue;
            }
            dag.forget_unanswered();
            // That it left was not journalled; nobody comes back for it.
            self.left.remove(id);
            let (specs, is_finished) = self.model.journalled(id);
            let publishing = self.manifests.get(id).cloned().unwrap_or_default();
            if is_finished && !publishing.is_empty() {
                // What was published is kept with its job's end, and nothing has to run for it.
                self.model.close(id);
                continue;
            }
            let finished = dag.finished.iter().copied().filter(|stage| dag.planned().0.contains(stage)).collect();
            self.model.set_finished(id, &finished);
            let (planned, complete) = dag.planned();
            if planned.is_empty() {
                unplanned.push(id.clone());
                continue;
            }
            let stages = specs.into_iter().map(|spec| RestoredStage {
                attempt: self.attempts.get(&(id.clone(), spec.stage)).copied().unwrap_or(0),
                announced: finished
                    .contains(&spec.stage)
                    .then(|| self.winners.get(&(id.clone(), spec.stage)).cloned().unwrap_or_default()),
                first_new: self.crashes as u32 * 1_000,
                spec,
            });
            jobs.push(RestoredJob {
                job: id.clone(),
                weight: 1,
                small: dag.small,
                complete,
                planned_again: dag.is_second(),
                publishing: publishing.into_values().collect(),
                stages: stages.collect(),
            });
        }
        self.model.crash();
        (self.state, self.twin) = (State::new(limits()), State::new(limits()));
        let alive = |process: &&mut Process| !process.fenced;
        for process in self.model.processes.iter_mut().filter(alive) {
            process.away = true;
        }
        let lives = self.model.processes.iter().filter(|process| !process.fenced);
        let executors: Vec<_> = lives.map(|process| (process.executor.clone(), process.incarnation)).collect();
        let first_attempt = self.crashes as u32 * 1_000;
        self.step(Event::Restored { executors, jobs, first_attempt })?;
        for job in unplanned {
            self.step(Event::JobSubmitted { job, weight: 1 })?;
        }
        for at in 0..self.model.processes.len() {
            if self.model.processes[at].fenced {
                continue;
            }
            match scramble(pick, at as u64) % 8 {
                0 => {
                    // It died with the scheduler, or comes back later and has forgotten all.
                    let process = &mut self.model.processes[at];
                    process.fenced = true;
                    process.holds.clear();
                    process.running.clear();
                }
                // Later, or never.
                1 => {}
                _ => self.back(at)?,
            }
        }
        Ok(())
    }
}

impl Process {
    /// All that it tells when it joins. `forgotten`: to a scheduler that knows nothing of it.
    pub fn held(&mut self, tasks: &BTreeMap<TaskKey, Task>, forgotten: bool) -> Vec<HeldTask> {
        let holds = &self.holds;
        if forgotten {
            self.unconfirmed.retain(|task, _| !holds.contains_key(task));
        }
        let partitions = |task: &TaskKey| tasks[task].partitions.clone();
        // Those that failed and nobody has heard of it are not off the books.
        let running =
            self.unconfirmed.iter().filter(|(task, _)| !holds.contains_key(task)).map(|(task, (slots, _))| {
                let state = HeldState::Running { streaming: tasks[task].streamed };
                HeldTask { task: task.clone(), partitions: partitions(task), slots: *slots, state }
            });
        let finished = holds.iter().map(|(task, (output, delivered))| {
            let state = HeldState::Finished { output: *output, delivered: *delivered };
            HeldTask { task: task.clone(), partitions: partitions(task), slots: 1, state }
        });
        running.chain(finished).collect()
    }

    /// The connection broke. With `lost`, the last launch was on its way then.
    pub fn go_away(&mut self, lost: bool) -> Option<TaskKey> {
        self.away = true;
        let last = self.running.keys().next_back().filter(|_| lost).cloned()?;
        self.running.remove(&last);
        self.unconfirmed.remove(&last);
        Some(last)
    }
}

impl Model {
    /// The scheduler died, and remembers nothing of tasks.
    pub fn crash(&mut self) {
        (self.has_crashed, self.clock) = (true, 0);
        for process in &mut self.processes {
            (process.draining, process.heard) = (false, None);
        }
        for task in self.tasks.values_mut() {
            (task.void, task.cancelled, task.delivered, task.streamed, task.read) = (true, false, false, false, false);
            task.commit = None;
        }
        for job in self.jobs.values_mut() {
            job.there.clear();
            if job.status == Status::Finished {
                job.status = Status::Live;
            }
        }
    }

    /// What a journal would know of a job that is not over.
    pub fn journalled(&self, job: &JobId) -> (Vec<StageSpec>, bool) {
        let known = &self.jobs[job];
        (known.specs.values().cloned().collect(), known.status == Status::Finished)
    }

    /// A task as a journal knows it.
    pub fn restored(&self, key: &TaskKey) -> RestoredTask {
        RestoredTask { task: key.task, attempt: key.attempt, partitions: self.tasks[key].partitions.clone() }
    }

    /// Only these stages are finished, as far as the planner knows.
    pub fn set_finished(&mut self, job: &JobId, finished: &BTreeSet<StageId>) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.finished.clone_from(finished);
        }
    }

    /// A job whose end was journalled is over for the scheduler.
    pub fn close(&mut self, job: &JobId) {
        if let Some(job) = self.jobs.get_mut(job) {
            (job.status, job.is_freed) = (Status::Over, true);
        }
    }

    /// What a task is told to publish may be out there for good, whoever dies: others do not write beside it, and another
    /// attempt does not write over it unless it gives the same rows.
    pub fn publish(&mut self, key: &TaskKey) -> Result<(), String> {
        let partitions = self.tasks[key].partitions.clone();
        let deterministic = self.jobs[&key.job].specs[&key.stage].deterministic;
        let told = self.published.entry(key.job.clone()).or_default();
        for (other, others) in told.iter().filter(|(other, _)| *other != key) {
            let is_same = other.stage == key.stage && other.task == key.task && *others == partitions;
            let shared = others.iter().any(|partition| partitions.contains(partition));
            ensure!(is_same || !shared, "{key} publishes what {other} has published otherwise");
            ensure!(!is_same || deterministic, "{key} publishes other rows than {other} has");
        }
        told.insert(key.clone(), partitions);
        Ok(())
    }

    /// All that was ever published for a job is part of its result.
    pub fn check_published(&self, job: &JobId) -> Result<(), String> {
        let Some(told) = self.published.get(job) else { return Ok(()) };
        for key in told.keys() {
            let winners = self.winners(job, key.stage);
            let is_there = winners.keys().any(|winner| winner.task == key.task);
            ensure!(is_there, "{key} has published what is not part of the result");
        }
        Ok(())
    }

    /// A launch was lost on its way.
    pub fn never_heard(&mut self, task: &TaskKey) {
        if let Some(task) = self.tasks.get_mut(task) {
            task.ended = Some(None);
        }
    }

    /// A task of before is taken over from the process that ran it, beside no other one of its partitions.
    pub fn adopt(
        &mut self,
        key: &TaskKey,
        executor: &ExecutorId,
        incarnation: Incarnation,
        partitions: &[u32],
    ) -> Result<(), String> {
        let task = self.tasks.get(key).ok_or("adopted a task that was never launched")?;
        ensure!(task.partitions == partitions, "{key} is adopted with other partitions");
        ensure!(task.place() == (executor.clone(), incarnation), "{key} is adopted from another process");
        for (other, task) in self.tasks.iter().filter(|(other, _)| other.job == key.job && other.stage == key.stage) {
            let shared = task.partitions.iter().any(|partition| partitions.contains(partition));
            let wins = !task.void && matches!(task.ended, Some(Some(_)));
            ensure!(!shared || task.void || other.task == key.task, "{key} is adopted beside {other}");
            ensure!(other.task != key.task || !wins, "{key} is adopted, and {other} has won");
        }
        let process = self.process(executor, incarnation).ok_or("adopted from nobody")?;
        ensure!(!process.fenced && !process.away, "{key} is adopted from a process that is out");
        let output = process.holds.get(key).copied();
        let is_result = self.jobs[&key.job].specs.get(&key.stage);
        let is_result = is_result.is_some_and(|spec| spec.is_final && !spec.commits && !spec.is_kept);
        let task = self.tasks.get_mut(key).ok_or("gone")?;
        task.void = false;
        task.ended = output.map(|(stats, _)| Some(stats));
        task.delivered = output.is_some_and(|(_, delivered)| delivered && is_result);
        Ok(())
    }
}
