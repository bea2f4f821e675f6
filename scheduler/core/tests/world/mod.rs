// SPDX-License-Identifier: Apache-2.0
//! A simulated cluster around the state machine: executors that come, go and return as zombies, a planner, clients,
//! and a network that delays, reorders and repeats statuses.
//!
//! The world follows the effects with a model of its own ([`oracle`], `promises`; for broken connections and the death
//! of the scheduler `restart`) and fails where an effect breaks a promise; [`sabotage`] shows that it can. It
//! holds no randomness: what happens is decided by a script of numbers, so a failing run can be shrunk and replayed.

#![allow(dead_code, clippy::unwrap_used)]

/// Fails with the text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

mod acts;
pub mod oracle;
pub mod planner;
mod promises;
mod restart;
pub mod sabotage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey};
use ballista_scheduler_core::{Effect, Event, Instant64, Limits, PlanReason, RestoredTask, Speculation, State};
use oracle::{Model, Process, Status};
use planner::Dag;
pub use sabotage::Sabotage;

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
    /// Time jumps by more than a lease, or is put back.
    pub clock: u32,
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
    /// How far the clock that the state is told lies behind.
    lag: u64,
    /// Everything that has happened, as one number.
    pub trace: Trace,
    sabotage: Sabotage,
    /// What the state is told before the next event, and did not happen.
    lies: Vec<Event>,
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

/// `count` numbers of the generator SplitMix64 that starts with `seed`.
pub fn numbers(seed: u64, count: u64) -> Vec<u64> {
    (0..count).map(|number| scramble(number, seed)).collect()
}

/// A hash (FNV-1a) over the text of events and effects in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
        Ok(())
    }
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
            lag: 0,
            trace: Trace::default(),
            sabotage: Sabotage::Nothing,
            lies: Vec::new(),
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
        Self::run_with(script, mix, Sabotage::Nothing)
    }

    /// The same with one protection out of order.
    pub fn run_with(script: &[u64], mix: Mix, sabotage: Sabotage) -> Result<Self, String> {
        let mut world = Self { faults: mix.fail > 0, sabotage, ..Self::new() };
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
        let now = self.now.saturating_sub(self.lag);
        // A clock that was put back catches up.
        self.lag /= 2;
        let (mut effects, mut again) = (Vec::new(), Vec::new());
        for told in self.told(&event) {
            effects.extend(self.state.step(told.clone(), Instant64(self.told_time(now, false))));
            again.extend(self.twin.step(told, Instant64(self.told_time(now, true))));
        }
        ensure!(effects == again, "the same events gave other effects at {event:?}");
        let effects = self.heard(effects);
        write!(self.trace, "{now}{event:?}{effects:?}").map_err(|error| error.to_string())?;
        if std::env::var_os("TRACE").is_some() {
            println!("{now} {event:?}\n    {effects:?}");
        }
        let context = |problem| format!("{problem}\n  after {event:?}\n  effects {effects:?}");
        self.state.check_invariants().map_err(context)?;
        self.model.time_passes = now > self.model.clock;
        self.model.clock = self.model.clock.max(now);
        self.model.receive(&event).map_err(context)?;
        self.model.apply(&event, &effects).map_err(context)?;
        self.follow(&effects)?;
        Ok(effects)
    }

    /// Does what the effects say, and notes what a journal would.
    fn follow(&mut self, effects: &[Effect]) -> Result<(), String> {
        for effect in effects {
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
        Ok(())
    }

    fn join(&mut self, number: u64, slots: u32) -> Result<(), String> {
        self.incarnations += 1;
        let (executor, incarnation) = (executor(number), Incarnation(self.incarnations));
        let process = Process::new(executor.clone(), incarnation, slots);
        self.model.processes.push(process);
        self.step(Event::ExecutorJoined { executor, incarnation, slots, held: vec![] }).map(drop)
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
