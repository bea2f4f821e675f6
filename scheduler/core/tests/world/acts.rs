// SPDX-License-Identifier: Apache-2.0
//! What happens in a cluster, one number of the script at a time.

use ballista_core::{ClassifiedError, ErrorClass, Incarnation, JobId, StageId, TaskId, TaskKey, UnreadInput};
use ballista_scheduler_core::{Event, OutputStats};

use super::oracle::Process;
use super::planner::Dag;
use super::{EXECUTORS, JOBS, LEASE, Mix, World, executor, scramble};

impl World {
    pub(super) fn act(&mut self, number: u64, mix: Mix) -> Result<(), String> {
        let kinds = [
            (mix.join, 0),
            (mix.restart, 1),
            (mix.lose, 2),
            (mix.drain, 3),
            (mix.silence, 4),
            (mix.submit, 5),
            (mix.plan, 6),
            (mix.finish, 7),
            (mix.fail, 8),
            (mix.stream, 9),
            (mix.deliver, 10),
            (mix.repeat, 11),
            (mix.cancel, 12),
            (mix.done, 13),
            (mix.garbage, 14),
            (mix.away, 15),
            (mix.crash, 16),
            (mix.clock, 17),
        ];
        let sum: u32 = kinds.iter().map(|(weight, _)| weight).sum();
        let mut at = u32::try_from(scramble(number, 1) % u64::from(sum)).unwrap();
        let mut kind = 0;
        for (weight, this) in kinds {
            if at < weight {
                kind = this;
                break;
            }
            at -= weight;
        }
        let pick = scramble(number, 2);
        match kind {
            0 => {
                let number = pick % EXECUTORS;
                if self.model.connected(&executor(number)).is_none() {
                    self.join(number, (scramble(pick, 3) % 5) as u32)?;
                }
            }
            1 => self.join(pick % EXECUTORS, (scramble(pick, 3) % 5) as u32)?,
            2 => {
                if let Some((executor, incarnation)) = self.some_process(pick) {
                    self.step(Event::ExecutorLost { executor, incarnation, reason: "stream closed".into() })?;
                }
            }
            3 => {
                if let Some((executor, incarnation)) = self.some_process(pick) {
                    self.step(Event::ExecutorDraining { executor, incarnation })?;
                }
            }
            4 => self.pass_time(pick)?,
            5 if self.dags.len() < JOBS => self.submit(pick)?,
            6 => self.plan(pick, pick.is_multiple_of(11))?,
            7 => self.end_task(pick, true),
            8 => self.end_task(pick, false),
            9 => self.stream(pick),
            10 => self.deliver(pick)?,
            11 if !self.delivered.is_empty() => {
                let event = self.delivered[pick as usize % self.delivered.len()].clone();
                self.step(event)?;
            }
            12 => {
                if let Some(job) = self.some_job(pick) {
                    self.step(Event::JobCancelled { job, reason: "asked to".into() })?;
                }
            }
            13 if pick.is_multiple_of(2) => {
                let streamed = self.model.streamed();
                if let Some(task) = streamed.get(pick as usize % streamed.len().max(1)) {
                    let (task, reason) = (task.clone(), "reset".to_owned());
                    self.step(match scramble(pick, 6) % 2 {
                        0 => Event::ResultRead { task },
                        _ => Event::ResultUnread { task, reason },
                    })?;
                }
            }
            13 => {
                if let Some(job) = self.some_job(pick) {
                    self.step(Event::ClientDone { job })?;
                }
            }
            14 => self.garbage(pick)?,
            15 => self.away_or_back(pick)?,
            16 => self.crash(pick)?,
            17 => self.move_clock(pick)?,
            _ => {}
        }
        Ok(())
    }

    fn submit(&mut self, pick: u64) -> Result<(), String> {
        let job = JobId::new(format!("j{}", self.dags.len())).unwrap();
        self.dags.insert(job.clone(), Dag::new(pick));
        let weight = (pick % 4) as u32;
        self.step(Event::JobSubmitted { job: job.clone(), weight })?;
        self.step(Event::JobSubmitted { job, weight }).map(drop)
    }

    /// The planner answers one plan effect.
    pub(super) fn plan(&mut self, pick: u64, fails: bool) -> Result<(), String> {
        let due: Vec<_> = self.dags.iter().filter(|(_, dag)| !dag.due.is_empty()).map(|(job, _)| job.clone()).collect();
        let Some(job) = due.get(pick as usize % due.len().max(1)).cloned() else { return Ok(()) };
        let dag = self.dags.get_mut(&job).unwrap();
        let event = if fails {
            dag.plan_failed();
            Event::PlanFailed { job, error: ClassifiedError::new(ErrorClass::User, "no such table") }
        } else {
            let (stages, complete) = dag.plan();
            let first = self.crashes as u32 * 1_000;
            self.attempts.extend(stages.iter().map(|spec| ((job.clone(), spec.stage), first)));
            self.model.planned(&job, &stages, dag.small);
            Event::Planned { job, stages, small: dag.small, complete }
        };
        self.step(event).map(drop)
    }

    /// A task ends on its process, which sends a status. Processes that the scheduler gave up do so too.
    fn end_task(&mut self, pick: u64, well: bool) {
        let running = self.model.running();
        let Some((at, task)) = running.get(pick as usize % running.len().max(1)).cloned() else { return };
        self.end_this(at, task, well, pick);
    }

    pub(super) fn end_this(&mut self, at: usize, task: TaskKey, well: bool, pick: u64) {
        let process = &mut self.model.processes[at];
        process.running.remove(&task);
        let (executor, incarnation) = (process.executor.clone(), process.incarnation);
        self.wire.push(if well {
            let output = OutputStats { rows: pick % 5, bytes: pick % 100 };
            let delivered =
                self.dags.get(&task.job).is_some_and(|dag| dag.delivers(task.stage)) && pick.is_multiple_of(2);
            process.holds.insert(task.clone(), (output, delivered));
            Event::TaskFinished { task, executor, incarnation, output, delivered }
        } else {
            let (class, message) = match pick % 16 {
                0 => (ErrorClass::User, "division by 0"),
                1 | 2 => (ErrorClass::Resource, "out of memory"),
                3..=7 => (ErrorClass::Transient, "no connection to the store"),
                _ => (ErrorClass::Fetch, "cannot read"),
            };
            let input = self.model.tasks.get(&task).and_then(|known| known.some_input(pick));
            let input = input.filter(|_| class == ErrorClass::Fetch).and_then(|input| {
                let (executor, incarnation) = self.model.tasks.get(&input)?.place();
                let (job, gone) = (task.job.clone(), pick.is_multiple_of(3));
                Some(UnreadInput { job, stage: input.stage, executor, incarnation, gone })
            });
            let error = ClassifiedError::new(class, message).with_unread(input);
            Event::TaskFailed { task, executor, incarnation, error }
        });
    }

    fn stream(&mut self, pick: u64) {
        let running = self.model.running();
        let Some((at, task)) = running.get(pick as usize % running.len().max(1)).cloned() else { return };
        let process = &self.model.processes[at];
        let (executor, incarnation) = (process.executor.clone(), process.incarnation);
        self.wire.push(Event::TaskStreaming { task, executor, incarnation });
    }

    /// One status arrives, whichever.
    pub(super) fn deliver(&mut self, pick: u64) -> Result<(), String> {
        if self.wire.is_empty() {
            return Ok(());
        }
        let event = self.wire.swap_remove(pick as usize % self.wire.len());
        self.delivered.push(event.clone());
        self.step(event).map(drop)
    }

    /// Time jumps; about half of the processes are heard of, zombies among them.
    fn pass_time(&mut self, pick: u64) -> Result<(), String> {
        self.now += pick % (LEASE * 3 / 4);
        for at in 0..self.model.processes.len() {
            if !scramble(pick, at as u64).is_multiple_of(4) {
                let process = &mut self.model.processes[at];
                let (executor, incarnation) = (process.executor.clone(), process.incarnation);
                self.step(Event::ExecutorHeartbeat { executor, incarnation })?;
            }
        }
        self.step(Event::Tick).map(drop)
    }

    /// Time jumps by more than a lease before anybody is heard of, or is put back for a while.
    fn move_clock(&mut self, pick: u64) -> Result<(), String> {
        let by = scramble(pick, 9);
        match pick % 3 {
            0 => self.now += LEASE + by % (LEASE * 10),
            _ => self.lag = by % (LEASE * 3),
        }
        match scramble(pick, 10) % 2 {
            0 => self.step(Event::Tick).map(drop),
            _ => Ok(()),
        }
    }

    /// Messages that no correct process sends.
    fn garbage(&mut self, pick: u64) -> Result<(), String> {
        let Some((executor, incarnation)) = self.some_process(pick) else { return Ok(()) };
        let launched: Vec<_> = self.model.tasks.keys().cloned().collect();
        let mut task = launched.get(pick as usize % launched.len().max(1)).cloned().unwrap_or(TaskKey {
            job: JobId::new("nobody").unwrap(),
            stage: StageId(9),
            stage_attempt: 0,
            task: TaskId(0),
            attempt: 0,
        });
        let wrong = scramble(pick, 4);
        match wrong % 6 {
            0 => task.attempt += 1,
            1 => task.stage_attempt += 1,
            2 => task.task = TaskId(u32::MAX),
            3 => task.stage = StageId(u32::MAX),
            4 => task.job = JobId::new("nobody").unwrap(),
            _ => {
                // The right task from the wrong process, or the wrong life of the right one.
                let wrong = self.model.processes.iter().find(|process| !process.was_launched(&task, &self.model.tasks));
                let Some(wrong) = wrong else { return Ok(()) };
                let (executor, incarnation) = (wrong.executor.clone(), wrong.incarnation);
                let output = OutputStats { rows: 1, bytes: 1 };
                let event = Event::TaskFinished { task, executor, incarnation, output, delivered: false };
                return self.step(event).map(drop);
            }
        }
        let mut processes = self.model.processes.iter();
        if processes.any(|process| process.executor == executor && process.was_launched(&task, &self.model.tasks)) {
            // By chance an attempt that is or was there.
            return Ok(());
        }
        let output = OutputStats { rows: 1_000, bytes: 1 };
        self.step(match scramble(pick, 5) % 8 {
            0 | 1 => Event::TaskFinished { task, executor, incarnation, output, delivered: pick.is_multiple_of(2) },
            2 => {
                let error = ClassifiedError::new(ErrorClass::Fetch, "?");
                Event::TaskFailed { task, executor, incarnation, error }
            }
            3 => Event::TaskStreaming { task, executor, incarnation },
            // A late registration or heartbeat of whoever that is.
            4 if self.model.connected(&executor).is_none() => {
                let is_it = |process: &Process| process.executor == executor && process.incarnation == incarnation;
                let process = self.model.processes.iter().position(is_it);
                if let Some(at) = process.filter(|at| self.model.processes[*at].heard.is_none()) {
                    return self.back(at);
                }
                Event::ExecutorJoined { executor, incarnation, slots: 7, held: vec![] }
            }
            6 => Event::ResultUnread { task, reason: "?".into() },
            5 => Event::ExecutorHeartbeat { executor, incarnation: Incarnation(u64::MAX) },
            _ => Event::ClientDone { job: task.job },
        })
        .map(drop)
    }
}
