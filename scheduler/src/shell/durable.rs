// SPDX-License-Identifier: Apache-2.0
//! What is written to the journal, and what waits until that is durable.
//!
//! Clients hear that their job is accepted when that is durable; and so are tasks launched that write, and the effects of a
//! step carried out that commits a write or gives an executor up. While effects wait, **nothing else happens**: messages are put aside,
//! so that everything comes in the order it would have come in anyway.

use std::collections::BTreeMap;

use ballista_core::{ClassifiedError, ErrorClass, JobId, StageId};
use ballista_proto as proto;
use ballista_proto::journal as record;
use ballista_scheduler_core::{Effect, StageFinished};

use super::executors::Life;
use super::job::Job;
use super::message::Message;
use super::{Shell, unix_millis};
use crate::journal::{Lsn, Op, keys};
use crate::planning::job::PlannedStage;

impl Shell {
    /// Writes down a job that its client may come back for.
    pub(super) fn write_job(&mut self, id: &JobId, job: &mut Job, request: Option<proto::ExecuteRequest>) {
        let comes_back = !job.terms.key.is_empty() || job.terms.detached;
        // Rows that are kept for a client are made again by it, and may be as large as the request.
        let request = request.filter(|request| comes_back && self.journal.is_durable() && !request.keep);
        let Some(mut request) = request else {
            job.accept(id);
            return;
        };
        for store in &mut request.stores {
            store.options.clear();
        }
        job.is_journalled = true;
        let record = record::Job { request: Some(request), submitted: unix_millis() };
        let batch = vec![Op::put(keys::request(id), &record)];
        // The client of a detached query waits for nothing else.
        let lsn = if job.terms.detached { self.journal.append_now(batch) } else { self.journal.append(batch) };
        self.accepting.push_back((lsn, id.clone()));
    }

    /// Writes down what a planner was told and what came of it.
    pub(super) fn write_step(&mut self, id: &JobId, reason: record::step::Reason, stages: &[PlannedStage]) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.is_journalled) else { return };
        let step = record::Step { reason: Some(reason), digest: digest(stages), attempt: self.config.first_attempt() };
        let batch = vec![Op::put(keys::step(id, job.planning.steps), &step)];
        job.planning.steps += 1;
        if stages.iter().any(|stage| stage.commits) {
            // A client has counts of a write before it is accepted otherwise, and the write would be another one then.
            self.barrier = self.journal.append_now(batch);
        } else {
            self.journal.append(batch);
        }
    }

    /// Writes down which outputs make up a finished stage.
    pub(super) fn write_outputs(&mut self, id: &JobId, finished: &StageFinished) {
        let Some(job) = self.jobs.get(id).filter(|job| job.is_journalled) else { return };
        let attempt = job.stages.get(&finished.stage).map_or(0, |stage| stage.attempt);
        let output = |output: &ballista_scheduler_core::TaskOutput| record::Task {
            task: output.task.task.0,
            attempt: output.task.attempt,
            partitions: output.partitions.clone(),
        };
        let stage = record::Stage { attempt, outputs: finished.outputs.iter().map(output).collect() };
        self.journal.append(vec![Op::put(keys::stage(id, finished.stage), &stage)]);
    }

    /// Writes down that a stage starts over.
    pub(super) fn write_reset(&mut self, id: &JobId, stage: StageId, attempt: u32) {
        if self.jobs.get(id).is_some_and(|job| job.is_journalled) {
            let record = record::Stage { attempt, outputs: Vec::new() };
            self.journal.append(vec![Op::put(keys::stage(id, stage), &record)]);
        }
    }

    /// Writes down who is connected. What was lost with one that is gone may be computed again once that is durable: an
    /// older output must never be taken for a newer one.
    pub(super) fn write_executor(&mut self, life: &Life) {
        let key = keys::executor(&life.0);
        match self.executors.get(life) {
            Some(executor) => {
                let (host, port) = (executor.address.host.clone(), u32::from(executor.address.port));
                let record = record::Executor { incarnation: life.1.0, host, port };
                self.journal.append(vec![Op::put(key, &record)]);
            }
            None => {
                let other = self.executors.lives().into_iter().find(|other| other.0 == life.0);
                match other {
                    // Another process has taken its place, and its record.
                    Some(other) => self.write_executor(&other),
                    None => self.barrier = self.journal.append_now(vec![Op::Delete(key)]),
                }
            }
        }
    }

    /// Before anything is published: writes down by which tasks, all of a step at once.
    pub(super) fn write_commits(&mut self, effects: &[Effect]) {
        let mut batches: BTreeMap<&JobId, Vec<Op>> = BTreeMap::new();
        for effect in effects {
            let Effect::Commit { task, .. } = effect else { continue };
            let Some(job) = self.jobs.get_mut(&task.job) else { continue };
            job.publishing = true;
            if job.is_journalled {
                let partitions = self.state.partitions(task);
                let record = record::Task { task: task.task.0, attempt: task.attempt, partitions };
                batches.entry(&task.job).or_default().push(Op::put(keys::commit(&task.job, task.task), &record));
            }
        }
        for batch in batches.into_values() {
            self.barrier = self.journal.append_now(batch);
        }
    }

    /// Whether what a job wrote must not be published, because that it was would be forgotten.
    pub(super) fn journal_failed(&self, id: &JobId) -> bool {
        self.journal.has_failed() && self.jobs.get(id).is_some_and(|job| job.is_journalled)
    }

    /// Carries out an effect, or puts it behind those that wait.
    pub(super) fn carry_out_in_turn(&mut self, effect: Effect) {
        if self.is_waiting() {
            self.waiting.push_back(effect);
        } else {
            self.carry_out(effect);
        }
    }

    /// Whether the journal has to catch up before anything else happens.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.journal.has_passed(self.barrier)
    }

    /// Takes a message, unless it has to wait.
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Durable(lsn) => self.durable(lsn),
            message if self.is_waiting() => self.aside.push_back(message),
            message => self.guarded(super::job_of(&message), |shell| shell.handle(message)),
        }
    }

    fn durable(&mut self, lsn: Lsn) {
        self.journal.set_durable(lsn);
        let mut has_accepted = false;
        while let Some((_, id)) = self.accepting.pop_front_if(|(wanted, _)| *wanted <= lsn) {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if job.terms.detached && self.journal.has_failed() {
                let message = "the scheduler's journal cannot be written, so it takes no detached queries; see its log";
                self.fail(&id, &ClassifiedError::new(ErrorClass::Resource, message));
                continue;
            }
            job.accept(&id);
            has_accepted = true;
        }
        if has_accepted && !self.is_waiting() {
            self.submit_waiting();
        }
        if !self.journal.has_passed(self.barrier) {
            return;
        }
        while self.journal.has_passed(self.barrier)
            && let Some(effect) = self.waiting.pop_front()
        {
            self.carry_out(effect);
        }
        self.drain();
        self.end_restoring();
        while !self.is_waiting()
            && let Some(message) = self.aside.pop_front()
        {
            self.take(message);
        }
    }
}

/// What tells one plan from another: everything about the stages that people see.
pub(super) fn digest(stages: &[PlannedStage]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    for stage in stages {
        (stage.stage, stage.partitions, &stage.display, &stage.output, &stage.inputs).hash(&mut hash);
        (stage.row_limit, stage.is_final, stage.commits, stage.ordered, stage.deterministic).hash(&mut hash);
    }
    hash.finish()
}
