// SPDX-License-Identifier: Apache-2.0
//! A simulated cluster around the state machine: executors that come, go and return as zombies, a planner, clients,
//! and a network that delays, reorders and repeats statuses.
//!
//! The world follows the effects with a model of its own ([`oracle`]) and fails where an effect breaks a promise. It
//! holds no randomness: what happens is decided by a script of numbers, so a failing run can be shrunk and replayed.

#![allow(dead_code, clippy::unwrap_used)]

pub mod oracle;
pub mod planner;

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{
    ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey, UnreadInput,
};
use ballista_scheduler_core::{
    Effect, Event, ExecutorView, Instant64, Limits, OutputStats, PlanReason, RestoredJob, RestoredStage, RestoredTask,
    Speculation, State,
};
use oracle::{Model, Process, Status};
use planner::Dag;

pub const EXECUTORS: u64 = 4;
pub const JOBS: usize = 5;
pub const LEASE: u64 = 100;
pub const RESERVE: u32 = 1;

/// How often each kind of thing happens, relative to the others.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub join: u32,
    pub restart: u32,
    pub lose: u32,
    pub drain: u32,
    pub silence: u32,
    pub submit: u32,
    pub plan: u32,
    pub finish: u32,
    pub fail: u32,
    pub stream: u32,
    pub deliver: u32,
    pub repeat: u32,
    pub cancel: u32,
    pub done: u32,
    pub garbage: u32,
    /// A connection breaks, or one that was broken is there again.
    pub away: u32,
    /// The scheduler dies and starts from its journal.
    pub crash: u32,
}

pub struct World {
    state: State,
    twin: State,
    model: Model,
    dags: BTreeMap<JobId, Dag>,
    /// Statuses on their way.
    wire: Vec<Event>,
    /// Statuses that arrived once and may arrive again.
    delivered: Vec<Event>,
    now: u64,
    incarnations: u64,
    pub steps: u64,
    pub launches: u64,
    /// Jobs that were planned again because their one task ran out of memory.
    pub replans: u64,
    /// What tasks wrote may fail to be published.
    faults: bool,
    /// Jobs whose clients have left. A client leaves once.
    left: BTreeSet<JobId>,
    /// How often whole stages were started, by what was heard.
    attempts: BTreeMap<(JobId, StageId), u32>,
    /// The tasks that were told to publish, with attempt and partitions.
    manifests: BTreeMap<JobId, BTreeMap<TaskId, RestoredTask>>,
    /// The outputs of which finished stages consist.
    winners: BTreeMap<(JobId, StageId), Vec<RestoredTask>>,
    /// Whether the commit of a task fails.
    commits: BTreeMap<TaskKey, bool>,
    pub crashes: u64,
    pub adopted: u64,
    /// How many jobs ended as finished, failed, cancelled.
    pub ends: [u64; 3],
}

/// A number that looks random, from two that need not.
pub fn scramble(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(b).wrapping_add(0x632B_E59B_D9B4_E019);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

pub fn executor(number: u64) -> ExecutorId {
    ExecutorId::new(format!("e{number}")).unwrap()
}

pub fn limits() -> Limits {
    Limits {
        reserve_slots: RESERVE,
        lease_millis: LEASE,
        ended_jobs: 3,
        restore_millis: LEASE / 2,
        retry_millis: 20,
        max_retry_millis: 100,
        same_moment_millis: 10,
        strike_window_millis: 500,
        probation_millis: 200,
        speculation: Some(Speculation { quantile: 0.5, multiplier: 1.5, min_millis: 10 }),
        ..Limits::default()
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            state: State::new(limits()),
            twin: State::new(limits()),
            model: Model::default(),
            dags: BTreeMap::new(),
            wire: Vec::new(),
            delivered: Vec::new(),
            now: 0,
            incarnations: 0,
            steps: 0,
            launches: 0,
            replans: 0,
            faults: false,
            left: BTreeSet::new(),
            attempts: BTreeMap::new(),
            manifests: BTreeMap::new(),
            winners: BTreeMap::new(),
            commits: BTreeMap::new(),
            crashes: 0,
            adopted: 0,
            ends: [0; 3],
        }
    }

    /// Plays a script to its end, then lets faults stop and everything end.
    pub fn run(script: &[u64], mix: Mix) -> Result<Self, String> {
        let mut world = Self { faults: mix.fail > 0, ..Self::new() };
        world.join(0, 3)?;
        for number in script {
            world.act(*number, mix)?;
        }
        world.settle()?;
        Ok(world)
    }

    /// One event into both states, then every check.
    fn step(&mut self, event: Event) -> Result<Vec<Effect>, String> {
        self.steps += 1;
        if let Event::ClientDone { job } = &event {
            self.left.insert(job.clone());
        }
        let effects = self.state.step(event.clone(), Instant64(self.now));
        if self.twin.step(event.clone(), Instant64(self.now)) != effects {
            return Err(format!("the same events gave other effects at {event:?}"));
        }
        if std::env::var_os("TRACE").is_some() {
            println!("{event:?}\n    {effects:?}");
        }
        let context = |problem| format!("{problem}\n  after {event:?}\n  effects {effects:?}");
        self.state.check_invariants().map_err(context)?;
        self.model.receive(&event).map_err(context)?;
        self.model.apply(&event, &effects).map_err(context)?;
        for effect in &effects {
            match effect {
                Effect::Commit { task, .. } => {
                    let (task, record) = (task.clone(), self.model.restored(task));
                    self.manifests.entry(task.job).or_default().insert(task.task, record);
                }
                Effect::Plan { job, reason: PlanReason::Finished(finished) }
                | Effect::OutputsMoved { job, finished } => {
                    let outputs = finished.outputs.iter().map(|output| self.model.restored(&output.task)).collect();
                    self.winners.insert((job.clone(), finished.stage), outputs);
                }
                _ => {}
            }
            match effect {
                Effect::Commit { executor, incarnation, .. } if self.is_away(executor, *incarnation) => {}
                Effect::Commit { task, executor, incarnation } => {
                    let (executor, incarnation) = (executor.clone(), *incarnation);
                    // Who is told twice gives the same answer.
                    let fails = self.faults && self.steps.is_multiple_of(8);
                    let fails = *self.commits.entry(task.clone()).or_insert(fails);
                    let (task, error) = (task.clone(), ClassifiedError::new(ErrorClass::Transient, "no connection"));
                    self.wire.push(match fails {
                        true => Event::CommitFailed { task, executor, incarnation, error },
                        false => Event::TaskCommitted { task, executor, incarnation },
                    });
                }
                Effect::Plan { job, reason } => {
                    let dag = self.dags.get_mut(job).ok_or("a plan for an unknown job")?;
                    let told = match reason {
                        PlanReason::Submitted => None,
                        PlanReason::Finished(finished) => Some(finished.stage),
                        PlanReason::OutOfMemory => {
                            if !dag.start_over(self.steps) {
                                return Err(format!("{job} is planned a third time"));
                            }
                            self.replans += 1;
                            None
                        }
                    };
                    dag.due.push_back(told);
                }
                Effect::Launch { .. } => self.launches += 1,
                Effect::Adopted { .. } => self.adopted += 1,
                Effect::ResetStage { job, stage, attempt, .. } => {
                    self.attempts.insert((job.clone(), *stage), attempt + 1);
                    self.winners.remove(&(job.clone(), *stage));
                }
                Effect::JobFinished { .. } => self.ends[0] += 1,
                Effect::JobFailed { .. } => self.ends[1] += 1,
                Effect::JobCancelled { .. } => self.ends[2] += 1,
                _ => {}
            }
        }
        Ok(effects)
    }

    fn join(&mut self, number: u64, slots: u32) -> Result<(), String> {
        self.incarnations += 1;
        let (executor, incarnation) = (executor(number), Incarnation(self.incarnations));
        let process = Process::new(executor.clone(), incarnation, slots, self.now);
        self.model.processes.push(process);
        self.step(Event::ExecutorJoined { executor, incarnation, slots, held: vec![] }).map(drop)
    }

    fn is_away(&self, executor: &ExecutorId, incarnation: Incarnation) -> bool {
        let is_it = |process: &&Process| process.executor == *executor && process.incarnation == incarnation;
        self.model.processes.iter().find(is_it).is_some_and(|process| process.away)
    }

    /// A connection breaks; or a process whose connection is broken, or which the scheduler has forgotten, is back.
    fn away_or_back(&mut self, pick: u64) -> Result<(), String> {
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

    fn back(&mut self, at: usize) -> Result<(), String> {
        let process = &mut self.model.processes[at];
        process.away = false;
        let (executor, incarnation, slots) = (process.executor.clone(), process.incarnation, process.slots);
        let is_it = |known: &ExecutorView| known.executor == executor && known.incarnation == incarnation;
        let held = process.held(&self.model.tasks, !self.state.executors().any(|known| is_it(&known)));
        self.step(Event::ExecutorJoined { executor, incarnation, slots, held }).map(drop)
    }

    /// The scheduler dies and starts anew from what a journal would know. Most executors come back at once.
    fn crash(&mut self, pick: u64) -> Result<(), String> {
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
                    // It died with the scheduler.
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

    fn act(&mut self, number: u64, mix: Mix) -> Result<(), String> {
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
            _ => {}
        }
        Ok(())
    }

    fn some_process(&self, pick: u64) -> Option<(ExecutorId, Incarnation)> {
        let processes = &self.model.processes;
        let process = processes.get(pick as usize % processes.len().max(1))?;
        Some((process.executor.clone(), process.incarnation))
    }

    fn last_process(&self) -> (ExecutorId, Incarnation) {
        let process = self.model.processes.last().unwrap();
        (process.executor.clone(), process.incarnation)
    }

    fn some_job(&self, pick: u64) -> Option<JobId> {
        self.dags.keys().nth(pick as usize % self.dags.len().max(1)).cloned()
    }

    fn submit(&mut self, pick: u64) -> Result<(), String> {
        let job = JobId::new(format!("j{}", self.dags.len())).unwrap();
        self.dags.insert(job.clone(), Dag::new(pick));
        let weight = (pick % 4) as u32;
        self.step(Event::JobSubmitted { job: job.clone(), weight })?;
        self.step(Event::JobSubmitted { job, weight }).map(drop)
    }

    /// The planner answers one plan effect.
    fn plan(&mut self, pick: u64, fails: bool) -> Result<(), String> {
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

    fn end_this(&mut self, at: usize, task: TaskKey, well: bool, pick: u64) {
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
    fn deliver(&mut self, pick: u64) -> Result<(), String> {
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
                Event::ExecutorJoined { executor, incarnation, slots: 7, held: vec![] }
            }
            6 => Event::ResultUnread { task, reason: "?".into() },
            5 => Event::ExecutorHeartbeat { executor, incarnation: Incarnation(u64::MAX) },
            _ => Event::ClientDone { job: task.job },
        })
        .map(drop)
    }

    /// Faults stop: a sound executor is there, statuses arrive, tasks end well, plans are answered, clients read their
    /// results. Every job must end, every slot be free and nothing be kept anywhere.
    fn settle(&mut self) -> Result<(), String> {
        self.join(EXECUTORS, 3)?;
        for at in 0..self.model.processes.len() {
            if self.model.processes[at].away && !self.model.processes[at].fenced {
                self.back(at)?;
            }
        }
        for round in 0..1_000 {
            self.now += LEASE / 2;
            let (executor, incarnation) = self.last_process();
            self.step(Event::ExecutorHeartbeat { executor, incarnation })?;
            self.step(Event::Tick)?;
            for (at, task) in self.model.running() {
                self.end_this(at, task, true, round);
            }
            while !self.wire.is_empty() {
                self.deliver(0)?;
            }
            for _ in 0..self.dags.values().map(|dag| dag.due.len()).sum::<usize>() {
                self.plan(0, false)?;
            }
            for job in self.dags.keys().cloned().collect::<Vec<_>>() {
                let is_finished = self.model.jobs.get(&job).is_some_and(|job| job.status == Status::Finished);
                if is_finished && !self.left.contains(&job) {
                    self.step(Event::ClientDone { job })?;
                }
            }
            let is_quiet = self.wire.is_empty() && self.model.running().is_empty();
            if is_quiet && self.dags.keys().all(|job| !self.state.is_live(job)) {
                return self.check_end();
            }
        }
        let stuck: Vec<_> = self.state.jobs().filter(|job| self.state.is_live(&job.job)).collect();
        Err(format!("a job did not end: {stuck:?}"))
    }

    fn check_end(&self) -> Result<(), String> {
        for executor in self.state.executors() {
            if executor.slots_used + executor.reserve_used > 0 || executor.tasks + executor.jobs > 0 {
                return Err(format!("something is left of the jobs: {executor:?}"));
            }
        }
        let footprint = self.state.footprint();
        if footprint.jobs + footprint.pending + footprint.running + footprint.outputs + footprint.links > 0 {
            return Err(format!("records are left: {footprint:?}"));
        }
        self.model.check_end()
    }
}
