// SPDX-License-Identifier: Apache-2.0
//! The cluster that the tests drive, and what they look at of its effects.

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskKey, UnreadInput};
use ballista_scheduler_core::{
    Effect, Event, Instant64, Limits, OutputStats, PlanReason, Slicing, StageFinished, StageSpec, State,
};

pub fn executor(name: &str) -> ExecutorId {
    ExecutorId::new(name).unwrap()
}

pub fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

pub fn stage(number: u32, partitions: u32) -> StageSpec {
    StageSpec {
        stage: StageId(number),
        partitions,
        slicing: Slicing::PerSlot { max_partitions: 16 },
        inputs: vec![],
        row_limit: None,
        is_final: false,
        commits: false,
        is_kept: false,
        deterministic: true,
        preferred: vec![],
    }
}

/// A launch, reduced to what tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    pub task: TaskKey,
    pub executor: ExecutorId,
    pub partitions: Vec<u32>,
    pub slots: u32,
}

pub struct Cluster {
    pub state: State,
    pub now: u64,
}

impl Cluster {
    pub fn new(executors: &[(&str, u32)]) -> Self {
        Self::with(executors, Limits { reserve_slots: 0, ..Limits::default() })
    }

    pub fn with(executors: &[(&str, u32)], limits: Limits) -> Self {
        let mut cluster = Self { state: State::new(limits), now: 0 };
        for (name, slots) in executors {
            cluster.join(name, 1, *slots);
        }
        cluster
    }

    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.state.step(event, Instant64(self.now));
        self.state.check_invariants().unwrap();
        effects
    }

    pub fn join(&mut self, name: &str, incarnation: u64, slots: u32) -> Vec<Effect> {
        let incarnation = Incarnation(incarnation);
        self.step(Event::ExecutorJoined { executor: executor(name), incarnation, slots, held: vec![] })
    }

    pub fn lose(&mut self, name: &str) -> Vec<Effect> {
        let reason = "stream closed".to_string();
        self.step(Event::ExecutorLost { executor: executor(name), incarnation: Incarnation(1), reason })
    }

    pub fn submit(&mut self, name: &str) -> Vec<Effect> {
        self.step(Event::JobSubmitted { job: job(name), weight: 1 })
    }

    pub fn plan(&mut self, name: &str, stages: Vec<StageSpec>) -> Vec<Effect> {
        self.plan_as(name, stages, false)
    }

    pub fn plan_as(&mut self, name: &str, stages: Vec<StageSpec>, small: bool) -> Vec<Effect> {
        let complete = stages.iter().any(|stage| stage.is_final);
        self.step(Event::Planned { job: job(name), stages, small, complete })
    }

    /// Submits and plans at once.
    pub fn start(&mut self, name: &str, stages: Vec<StageSpec>) -> Vec<Effect> {
        self.submit(name);
        self.plan(name, stages)
    }

    pub fn finish(&mut self, launched: &Launched, rows: u64) -> Vec<Effect> {
        let output = OutputStats { rows, bytes: rows };
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFinished { task, executor, incarnation: Incarnation(1), output, delivered: false })
    }

    pub fn fail(&mut self, launched: &Launched, class: ErrorClass) -> Vec<Effect> {
        let error = ClassifiedError::new(class, "broken");
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFailed { task, executor, incarnation: Incarnation(1), error })
    }

    pub fn fail_to_read(&mut self, launched: &Launched, input: UnreadInput) -> Vec<Effect> {
        let error = ClassifiedError::new(ErrorClass::Fetch, "broken").with_unread(Some(input));
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFailed { task, executor, incarnation: Incarnation(1), error })
    }

    pub fn heartbeat(&mut self, names: &[&str]) {
        for name in names {
            self.step(Event::ExecutorHeartbeat { executor: executor(name), incarnation: Incarnation(1) });
        }
    }

    pub fn stream(&mut self, launched: &Launched) -> Vec<Effect> {
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskStreaming { task, executor, incarnation: Incarnation(1) })
    }

    pub fn commit(&mut self, launched: &Launched) -> Vec<Effect> {
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskCommitted { task, executor, incarnation: Incarnation(1) })
    }

    pub fn used(&self, name: &str) -> (u32, u32) {
        let view = self.state.executors().find(|view| view.executor == executor(name)).unwrap();
        (view.slots_used, view.reserve_used)
    }
}

pub fn launches(effects: &[Effect]) -> Vec<Launched> {
    let launch = |effect: &Effect| match effect.clone() {
        Effect::Launch { task, executor, partitions, slots, .. } => {
            Some(Launched { task, executor, partitions, slots })
        }
        _ => None,
    };
    effects.iter().filter_map(launch).collect()
}

/// Where partitions were launched, by executor.
pub fn placed(effects: &[Effect]) -> Vec<(String, Vec<u32>)> {
    launches(effects).into_iter().map(|launch| (launch.executor.to_string(), launch.partitions)).collect()
}

pub fn cancels(effects: &[Effect]) -> Vec<TaskKey> {
    let cancel = |effect: &Effect| match effect {
        Effect::CancelTask { task, .. } => Some(task.clone()),
        _ => None,
    };
    effects.iter().filter_map(cancel).collect()
}

pub fn failure(effects: &[Effect]) -> Option<(JobId, ErrorClass)> {
    effects.iter().find_map(|effect| match effect {
        Effect::JobFailed { job, error } => Some((job.clone(), error.class)),
        _ => None,
    })
}

pub fn finished(effects: &[Effect]) -> Option<StageFinished> {
    effects.iter().find_map(|effect| match effect {
        Effect::Plan { reason: PlanReason::Finished(finished), .. } => Some(finished.clone()),
        _ => None,
    })
}

pub fn last(number: u32, partitions: u32, inputs: &[u32]) -> StageSpec {
    let inputs = inputs.iter().copied().map(StageId).collect();
    StageSpec { inputs, is_final: true, ..stage(number, partitions) }
}

pub fn is_freed(effects: &[Effect], id: &str) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::FreeJob { job: freed, .. } if *freed == job(id)))
}
