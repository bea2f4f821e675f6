// SPDX-License-Identifier: Apache-2.0
//! What effects promise: each is checked against the model, and carried out in it.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskKey};
use ballista_scheduler_core::{Effect, Event, OutputStats, PlanReason, StageFinished};

use super::oracle::{Model, Process, Status, Task};
use super::{LEASE, RESERVE};

impl Model {
    /// Checks the effects of an event and carries them out.
    pub fn apply(&mut self, event: &Event, effects: &[Effect]) -> Result<(), String> {
        if let Event::TaskFinished { executor, incarnation, .. }
        | Event::TaskFailed { executor, incarnation, .. }
        | Event::TaskStreaming { executor, incarnation, .. }
        | Event::TaskCommitted { executor, incarnation, .. }
        | Event::CommitFailed { executor, incarnation, .. } = event
        {
            let is_out = self.process(executor, *incarnation).is_none_or(|process| process.fenced);
            let is_fence = |effect: &Effect| matches!(effect, Effect::FenceExecutor { .. });
            let changes = !self.time_passes && !effects.iter().all(is_fence);
            ensure!(!is_out || !changes, "a fenced process changed something");
        }
        self.check_leases(event, effects)?;
        for effect in effects {
            if let Effect::JobFailed { error, .. } = effect {
                let by_itself = error.class == ErrorClass::Infra || error.message.contains("quarantined");
                let counts = match event {
                    // The wait after a restart is over.
                    _ if self.time_passes && by_itself => true,
                    Event::TaskFailed { task, .. } => {
                        self.tasks.get(task).is_some_and(|task| !task.cancelled && task.ended == Some(None))
                    }
                    Event::PlanFailed { .. } => true,
                    Event::CommitFailed { task, .. } => {
                        self.tasks.get(task).is_some_and(|task| task.commit == Some(false))
                    }
                    _ => by_itself,
                };
                ensure!(counts, "a job failed for no reason: {error}");
            }
            self.apply_one(event, effect)?;
        }
        self.check_losses(effects)
    }

    /// Whoever is silent for the time of a lease is lost at the next tick, and nobody else is who is not said to be gone.
    fn check_leases(&self, event: &Event, effects: &[Effect]) -> Result<(), String> {
        for process in self.processes.iter().filter(|process| !process.fenced) {
            let Some(heard) = process.heard else { continue };
            let (name, silent) = (&process.executor, self.clock - heard);
            let address = (name, process.incarnation);
            let is_it = |effect: &Effect| match effect {
                Effect::FenceExecutor { executor, incarnation } => (executor, *incarnation) == address,
                _ => false,
            };
            let is_lost = effects.iter().any(is_it);
            let is_silent = matches!(event, Event::Tick) && silent >= LEASE;
            let is_gone = match event {
                Event::ExecutorLost { executor, incarnation, .. } => (executor, *incarnation) == address,
                Event::ExecutorJoined { executor, incarnation, .. } => {
                    executor == name && *incarnation != process.incarnation
                }
                _ => false,
            };
            ensure!(is_lost || !is_silent, "{name} is silent for {silent} ms and not lost");
            ensure!(!is_lost || is_silent || is_gone, "{name} is lost within its lease");
        }
        Ok(())
    }

    /// Nothing that a lost process held counts any more.
    fn check_losses(&self, effects: &[Effect]) -> Result<(), String> {
        for effect in effects {
            let Effect::FenceExecutor { executor, incarnation } = effect else { continue };
            for (key, task) in &self.tasks {
                let here = task.executor == *executor && task.incarnation == *incarnation && !task.delivered;
                let job = &self.jobs[&key.job];
                let counts = matches!(task.ended, Some(Some(_))) && !task.void && task.commit != Some(true);
                ensure!(!here || !counts || job.status != Status::Live, "{key} counts, and its process is lost");
            }
        }
        Ok(())
    }

    /// The attempts of a stage whose outputs count.
    pub fn winners(&self, job: &JobId, stage: StageId) -> BTreeMap<TaskKey, OutputStats> {
        let of_stage = |(key, task): (&TaskKey, &Task)| {
            let counts = key.job == *job && key.stage == stage && !task.void;
            counts.then_some((key.clone(), task.ended??))
        };
        self.tasks.iter().filter_map(of_stage).collect()
    }

    /// Exactly the outputs that count are named, they make up the stage, and their processes live.
    fn check_outputs(&self, job: &JobId, finished: &StageFinished) -> Result<(), String> {
        let winners = self.winners(job, finished.stage);
        let mut partitions = 0;
        for output in &finished.outputs {
            ensure!(winners.get(&output.task) == Some(&output.stats), "{} did not win", output.task);
            let task = &self.tasks[&output.task];
            ensure!(task.partitions == output.partitions, "other partitions ran");
            let process = self.processes.iter().find(|process| process.was_launched(&output.task, &self.tasks));
            ensure!(task.delivered || process.is_some_and(|process| !process.fenced), "{} is lost", output.task);
            partitions += output.partitions.len();
        }
        let named: BTreeSet<_> = finished.outputs.iter().map(|output| &output.task).collect();
        let missing: Vec<_> = winners.keys().filter(|winner| !named.contains(winner)).collect();
        ensure!(missing.is_empty(), "winners are missing: {missing:?}");
        let spec = &self.jobs[job].specs[&finished.stage];
        let rows: u64 = finished.outputs.iter().map(|output| output.stats.rows).sum();
        let is_complete = partitions == spec.partitions as usize;
        ensure!(is_complete || spec.row_limit.is_some_and(|limit| rows >= limit), "partitions are missing");
        Ok(())
    }

    /// Whoever read a stage that does not give the same rows again has read the same outputs of it.
    fn check_not_mixed(&self, job: &JobId) -> Result<(), String> {
        let specs = &self.jobs[job].specs;
        for spec in specs.values().filter(|spec| !spec.deterministic) {
            let of_stage = |key: &&TaskKey| key.stage == spec.stage;
            let readers = self.tasks.iter().filter(|(key, task)| {
                let reads = specs.get(&key.stage).is_some_and(|reader| reader.inputs.contains(&spec.stage));
                key.job == *job && reads && !task.void && matches!(task.ended, Some(Some(_)))
            });
            let mut sets = readers.map(|(_, task)| task.reads.iter().filter(of_stage).collect::<BTreeSet<_>>());
            let first = sets.next().unwrap_or_default();
            ensure!(sets.all(|set| set == first), "readers of stage {} of {job} have read different rows", spec.stage);
        }
        Ok(())
    }

    fn apply_one(&mut self, event: &Event, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::Launch { task, executor, incarnation, partitions, slots } => {
                self.launch(task, executor, *incarnation, partitions, *slots)?;
            }
            Effect::Adopted { task, executor, incarnation, partitions } => {
                self.adopt(task, executor, *incarnation, partitions)?;
            }
            Effect::CancelTask { task, executor, incarnation } => {
                let status = self.jobs.get(&task.job).map(|job| job.status);
                if let Some(known) = self.tasks.get_mut(task).filter(|known| known.executor == *executor) {
                    let won = matches!(known.ended, Some(Some(_))) && !known.void;
                    ensure!(!won || status == Some(Status::Over), "the winner {task} is cancelled");
                    known.cancelled = known.ended.is_none();
                }
                let process = self.process(executor, *incarnation).ok_or("a cancel for nobody")?;
                ensure!(!process.fenced, "a cancel for a fenced process");
                if process.away {
                    return Ok(());
                }
                process.holds.remove(task);
                if let Some((_, cancelled)) = process.unconfirmed.get_mut(task) {
                    *cancelled = true;
                }
            }
            Effect::StreamReady { task, .. } => {
                let known = self.tasks.get_mut(task).ok_or("an unknown task streams")?;
                ensure!(!std::mem::replace(&mut known.streamed, true), "{task} is announced twice");
                ensure!(!known.cancelled, "the cancelled {task} is announced");
                let spec = self.jobs[&task.job].specs.get(&task.stage);
                ensure!(spec.is_some_and(|spec| spec.is_final), "{task} is not of the final stage");
            }
            Effect::Plan { job, reason: PlanReason::Finished(finished) } => {
                self.check_outputs(job, finished)?;
                let known = self.jobs.get_mut(job).ok_or("a plan for nobody")?;
                ensure!(known.status == Status::Live, "a plan for {job}, which is over");
                ensure!(known.finished.insert(finished.stage), "stage {} finished twice", finished.stage);
                known.there.insert(finished.stage);
            }
            Effect::OutputsMoved { job, finished } => {
                self.check_outputs(job, finished)?;
                let known = self.jobs.get_mut(job).ok_or("outputs of nobody")?;
                ensure!(known.status != Status::Over, "outputs of {job}, which is over");
                ensure!(known.finished.contains(&finished.stage), "a stage moved before it finished");
                ensure!(known.there.insert(finished.stage), "stage {} moved and was there", finished.stage);
            }
            Effect::OutputsLost { job, stage, executor, incarnation } => {
                let mut lost = 0;
                for (key, task) in &mut self.tasks {
                    let here = task.executor == *executor && task.incarnation == *incarnation && !task.delivered;
                    let counts = matches!(task.ended, Some(Some(_))) && !task.void && task.commit != Some(true);
                    if here && counts && key.job == *job && key.stage == *stage {
                        task.void = true;
                        lost += 1;
                    }
                }
                ensure!(lost > 0, "nothing of stage {stage} was lost");
                let known = self.jobs.get_mut(job).ok_or("outputs of nobody")?;
                known.there.remove(stage);
            }
            Effect::Commit { task: key, .. } => {
                let task = self.tasks.get_mut(key).ok_or("an unknown task commits")?;
                // A process that is back is told again, because it may not have heard it.
                let again = matches!(event, Event::ExecutorJoined { .. });
                ensure!(task.commit.is_none() || again, "{key} is told to commit twice");
                task.commit.get_or_insert(false);
                ensure!(
                    matches!(task.ended, Some(Some(_))) && !task.cancelled && !task.void,
                    "{key} commits and did not win"
                );
                let job = &self.jobs[&key.job];
                ensure!(job.status == Status::Live, "{key} commits for a job that is over");
                let spec = job.specs.get(&key.stage);
                ensure!(spec.is_some_and(|spec| spec.is_final && spec.commits), "{key} has nothing to commit");
                self.publish(key)?;
            }
            // A hint: what is released may be wanted again.
            Effect::ReleaseStage { .. } => {}
            Effect::ResetStage { job, stage, .. } => {
                for (key, task) in &mut self.tasks {
                    if key.job == *job && key.stage == *stage {
                        let streams = task.streamed && !task.void && !task.cancelled && task.ended != Some(None);
                        let lives = self.processes.iter().any(|process| {
                            !process.fenced
                                && process.executor == task.executor
                                && process.incarnation == task.incarnation
                        });
                        let spec = &self.jobs[job].specs[stage];
                        ensure!(!streams || !lives || spec.commits, "{key} is at the client and taken back");
                        task.void = true;
                    }
                }
                self.jobs.get_mut(job).ok_or("resets a stage of nobody")?.there.remove(stage);
                self.free(effect);
            }
            Effect::FreeJob { job, .. } => {
                self.jobs.get_mut(job).ok_or("frees nobody")?.is_freed = true;
                self.free(effect);
            }
            Effect::JobFinished { job } => {
                let known = self.jobs.get_mut(job).ok_or("finished nobody")?;
                ensure!(known.status == Status::Live, "{job} ended twice");
                known.status = Status::Finished;
                let spec = known.specs.values().find(|spec| spec.is_final).ok_or("finished without a final stage")?;
                let (stage, partitions, commits) = (spec.stage, spec.partitions as usize, spec.commits);
                let limit = spec.row_limit;
                known.finished.insert(stage);
                let (mut done, mut rows) = (0, 0);
                for (key, stats) in self.winners(job, stage) {
                    ensure!(self.tasks[&key].streamed, "the client was not told of {key}");
                    let is_published = !commits || self.tasks[&key].commit == Some(true);
                    ensure!(is_published, "{job} finished before {key} was published");
                    done += self.tasks[&key].partitions.len();
                    rows += stats.rows;
                }
                let streams = |task: &Task| task.streamed && !task.void && task.ended.is_none() && !task.cancelled;
                let streaming =
                    self.tasks.iter().filter(|(key, task)| key.job == *job && key.stage == stage && streams(task));
                done += streaming.map(|(_, task)| task.partitions.len()).sum::<usize>();
                ensure!(
                    done >= partitions || limit.is_some_and(|limit| rows >= limit),
                    "{job} finished without {} rows",
                    partitions - done
                );
                self.check_published(job)?;
                self.check_not_mixed(job)?;
            }
            Effect::JobResumed { job } => {
                let known = self.jobs.get_mut(job).ok_or("resumed nobody")?;
                ensure!(known.status == Status::Finished, "{job} is resumed and was not finished");
                known.status = Status::Live;
            }
            Effect::JobFailed { job, .. } | Effect::JobCancelled { job } => {
                let known = self.jobs.get_mut(job).ok_or("ended nobody")?;
                ensure!(known.status != Status::Over, "{job} ended twice");
                known.status = Status::Over;
            }
            Effect::FenceExecutor { executor, incarnation } => {
                if let Some(process) = self.process(executor, *incarnation) {
                    process.fenced = true;
                    process.holds.clear();
                }
            }
            Effect::Plan { reason: PlanReason::Submitted, .. } => {}
            Effect::Plan { job, reason: PlanReason::OutOfMemory } => {
                let known = self.jobs.get_mut(job).ok_or("a second plan for nobody")?;
                ensure!(known.status == Status::Live, "a second plan for {job}, which is over");
                ensure!(known.specs.len() == 1, "a second plan for {job}, which had several stages");
                let announced = |(key, task): (&TaskKey, &Task)| key.job == *job && task.streamed;
                ensure!(!self.tasks.iter().any(announced), "a second plan for {job}, whose rows the client reads");
                known.specs.clear();
            }
        }
        if let Effect::FreeJob { job, .. } = effect {
            self.jobs.get_mut(job).ok_or("frees nobody")?.status = Status::Over;
        }
        Ok(())
    }

    fn launch(
        &mut self,
        key: &TaskKey,
        executor: &ExecutorId,
        incarnation: Incarnation,
        partitions: &[u32],
        slots: u32,
    ) -> Result<(), String> {
        let job = self.jobs.get_mut(&key.job).ok_or("a launch for nobody")?;
        ensure!(job.status == Status::Live, "{key} is launched for a job that is over");
        let spec = job.specs.get(&key.stage).ok_or("a launch of an unplanned stage")?;
        for partition in partitions {
            ensure!(*partition < spec.partitions, "{key} runs partition {partition} of {}", spec.partitions);
        }
        ensure!(partitions.is_sorted() && !partitions.is_empty(), "{key} runs {partitions:?}");
        for input in &spec.inputs {
            ensure!(job.there.contains(input), "{key} reads stage {input}, which is not there");
        }
        let inputs = spec.inputs.clone();
        let mut rivals = 0;
        for (other, task) in self.tasks.iter().filter(|(other, _)| other.job == key.job && other.stage == key.stage) {
            if other.stage_attempt != key.stage_attempt {
                ensure!(task.void, "{key} is launched beside {other}");
            } else if other.task == key.task {
                ensure!(task.partitions == partitions, "{key} runs other partitions than {other}");
                let won = matches!(task.ended, Some(Some(_))) && !task.void;
                ensure!(!won, "{key} is launched, and {other} has won");
                let process = self.processes.iter().find(|process| process.was_launched(other, &self.tasks));
                let runs = task.ended.is_none()
                    && !task.cancelled
                    && !task.void
                    && process.is_some_and(|process| !process.fenced);
                rivals += usize::from(runs);
            } else {
                let shared = task.partitions.iter().any(|partition| partitions.contains(partition));
                ensure!(!shared || task.void, "{key} and {other} run the same partition");
            }
        }
        ensure!(rivals < 2, "{key} runs a third time");
        let reads = inputs.iter().flat_map(|input| self.winners(&key.job, *input).into_keys()).collect();
        let job = &self.jobs[&key.job];
        let small = job.small;
        let (executor, jobs) = (executor.clone(), &self.jobs);
        let task = Task {
            executor: executor.clone(),
            incarnation,
            partitions: partitions.to_vec(),
            cancelled: false,
            void: false,
            delivered: false,
            read: false,
            reads,
            ended: None,
            streamed: false,
            commit: None,
        };
        ensure!(self.tasks.insert(key.clone(), task).is_none(), "{key} is launched twice");
        let is_it = |process: &&mut Process| process.executor == executor && process.incarnation == incarnation;
        let process = self.processes.iter_mut().find(is_it).ok_or("a launch on nobody")?;
        ensure!(
            !process.fenced && !process.draining && !process.away,
            "{key} is launched on a process that is leaving"
        );
        process.running.insert(key.clone(), slots);
        process.unconfirmed.insert(key.clone(), (slots, false));
        let used: u32 = process.unconfirmed.values().map(|(slots, _)| slots).sum();
        ensure!(used <= process.slots + RESERVE, "{executor} is over-committed: {used} of {} slots", process.slots);
        let big = process.unconfirmed.iter().filter(|(key, _)| jobs.get(&key.job).is_some_and(|job| !job.small));
        let big: u32 = big.map(|(_, (slots, _))| slots).sum();
        // Whose slots a task of before a restart held, nobody knows.
        ensure!(small || big <= process.slots || self.has_crashed, "big jobs use the reserve of {executor}");
        Ok(())
    }

    fn free(&mut self, effect: &Effect) {
        let (job, stage, executors) = match effect {
            Effect::ResetStage { job, stage, executors, .. } => (job, Some(*stage), executors),
            Effect::FreeJob { job, executors } => (job, None, executors),
            _ => return,
        };
        for (executor, incarnation) in executors {
            if let Some(process) = self.process(executor, *incarnation).filter(|process| !process.away) {
                process.holds.retain(|key, _| key.job != *job || stage.is_some_and(|stage| stage != key.stage));
            }
        }
    }

    /// Nothing may be left when all is over.
    pub fn check_end(&self) -> Result<(), String> {
        for process in self.processes.iter().filter(|process| !process.fenced && !process.away) {
            ensure!(process.holds.is_empty(), "{} still holds {:?}", process.executor, process.holds);
        }
        for (id, job) in &self.jobs {
            ensure!(job.is_freed, "{id} was not freed");
        }
        Ok(())
    }
}
