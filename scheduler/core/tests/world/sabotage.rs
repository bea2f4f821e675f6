// SPDX-License-Identifier: Apache-2.0
//! Protections out of order: what the state would take in, or the world would hear, if one of them were missing. The
//! oracle sees what really happened, and has to notice.

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, StageId, TaskKey};
use ballista_scheduler_core::{Effect, Event, HeldState, HeldTask, PlanReason, StageFinished, TaskOutput};

use super::oracle::Task;
use super::{LEASE, World};

/// What is out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    Nothing,
    /// A status of a fenced process counts as one of the attempt that runs now.
    Fence,
    /// A fenced process may register again.
    Zombies,
    /// A status of an attempt that is over counts as one of the attempt of its task that runs now.
    Attempt,
    /// A status of an earlier start of a stage counts as one of the start that runs now.
    StageAttempt,
    /// A final status that comes again counts as one of another task there.
    Repeat,
    /// The outputs of all attempts of a task that have succeeded make up its stage.
    FirstSuccess,
    /// Outputs that are lost are not taken back.
    Losses,
    /// A cancelled task gives its slots back before it has ended.
    Slots,
    /// Stages that give other rows every time are taken for ones that do not.
    Mixing,
    /// Rows at the client are taken for ones that nobody has seen.
    Streams,
    /// A task counts as published when it is told to.
    Publish,
    /// A task that could not publish counts as one that has.
    CommitFailure,
    /// A scheduler that dies forgets who was told to publish.
    CommitRecord,
    /// A scheduler that dies forgets which stages the planner was told of.
    Announced,
    /// A scheduler that dies gives tasks and attempts the numbers of before again.
    Numbers,
    /// Whatever start of a stage it is of, a task that is brought along is taken over.
    AdoptStart,
    /// Whatever attempt it is, a task that is brought along is taken over in the place of the one that counted.
    AdoptAttempt,
    /// A task that is brought along and does not count holds no slot.
    Held,
    /// Nobody's lease ends.
    Lease,
    /// The clock runs ahead.
    Clock,
    /// Some statuses are lost.
    Statuses,
    /// What is held for a job that is over stays.
    Free,
    /// The same events come at other times.
    Determinism,
}

impl World {
    /// What the state is told of an event.
    pub(super) fn told(&mut self, event: &Event) -> Vec<Event> {
        let mut told = std::mem::take(&mut self.lies);
        let mut event = event.clone();
        let instead = match self.sabotage {
            Sabotage::Statuses if matches!(event, Event::TaskFinished { .. }) && self.steps.is_multiple_of(8) => {
                return told;
            }
            Sabotage::Lease if matches!(event, Event::Tick) => return told,
            Sabotage::Fence => self.status_of(&event).filter(|status| self.is_fenced(status)).and_then(|(task, ..)| {
                self.running_attempt(|other, _| {
                    (&other.job, other.stage, other.task) == (&task.job, task.stage, task.task)
                })
            }),
            Sabotage::Attempt => self.over(&event).and_then(|(task, ..)| {
                self.running_attempt(|other, _| {
                    TaskKey { attempt: 0, ..other.clone() } == TaskKey { attempt: 0, ..task.clone() }
                })
            }),
            Sabotage::StageAttempt => self.over(&event).and_then(|(task, ..)| {
                self.running_attempt(|other, _| {
                    (&other.job, other.stage) == (&task.job, task.stage) && other.stage_attempt > task.stage_attempt
                })
            }),
            Sabotage::Repeat => self.over(&event).and_then(|(task, executor, incarnation)| {
                self.running_attempt(|other, known| {
                    let there = known.place() == (executor.clone(), incarnation);
                    there && other.task != task.task && (&other.job, other.stage) == (&task.job, task.stage)
                })
            }),
            _ => None,
        };
        if let Some(instead) = instead {
            rewrite(&mut event, instead);
        }
        match &mut event {
            Event::ExecutorJoined { executor, incarnation, .. }
                if self.sabotage == Sabotage::Zombies && self.is_fenced(&((), executor.clone(), *incarnation)) =>
            {
                incarnation.0 += u64::from(u32::MAX);
            }
            Event::ExecutorJoined { held, .. } => self.bring(held),
            Event::Planned { stages, .. } => match self.sabotage {
                Sabotage::Mixing => stages.iter_mut().for_each(|spec| spec.deterministic = true),
                Sabotage::Streams => stages.iter_mut().for_each(|spec| spec.commits |= spec.is_final),
                _ => {}
            },
            Event::Restored { jobs, first_attempt, .. } => {
                if self.sabotage == Sabotage::Numbers {
                    *first_attempt = 0;
                }
                for job in jobs {
                    if self.sabotage == Sabotage::CommitRecord {
                        job.publishing.clear();
                    }
                    for stage in &mut job.stages {
                        match self.sabotage {
                            Sabotage::Announced => stage.announced = None,
                            Sabotage::Numbers => stage.first_new = 0,
                            _ => {}
                        }
                    }
                }
            }
            Event::CommitFailed { task, executor, incarnation, .. } if self.sabotage == Sabotage::CommitFailure => {
                let (task, executor, incarnation) = (task.clone(), executor.clone(), *incarnation);
                event = Event::TaskCommitted { task, executor, incarnation };
            }
            _ => {}
        }
        told.push(event);
        told
    }

    /// The time that one of the two states is told.
    pub(super) fn told_time(&self, now: u64, is_twin: bool) -> u64 {
        match self.sabotage {
            Sabotage::Clock if self.steps.is_multiple_of(16) => now + 2 * LEASE,
            Sabotage::Determinism if is_twin && self.steps.is_multiple_of(4) => now + LEASE / 4,
            _ => now,
        }
    }

    /// What is heard of the state's effects.
    pub(super) fn heard(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        for effect in &mut effects {
            match (self.sabotage, &mut *effect) {
                (
                    Sabotage::FirstSuccess,
                    Effect::Plan { reason: PlanReason::Finished(finished), .. } | Effect::OutputsMoved { finished, .. },
                ) => self.add_losers(finished),
                (Sabotage::Slots, Effect::CancelTask { task, executor, incarnation }) => {
                    let (task, executor, incarnation) = (task.clone(), executor.clone(), *incarnation);
                    let error = ClassifiedError::new(ErrorClass::Transient, "cancelled");
                    self.lies.push(Event::TaskFailed { task, executor, incarnation, error });
                }
                (Sabotage::Publish, Effect::Commit { task, executor, incarnation }) => {
                    let (task, executor, incarnation) = (task.clone(), executor.clone(), *incarnation);
                    self.lies.push(Event::TaskCommitted { task, executor, incarnation });
                }
                (Sabotage::Free, Effect::FreeJob { executors, .. }) => executors.clear(),
                _ => {}
            }
        }
        effects.retain(|effect| self.sabotage != Sabotage::Losses || !matches!(effect, Effect::OutputsLost { .. }));
        effects
    }

    /// Whose status an event is.
    fn status_of(&self, event: &Event) -> Option<(TaskKey, ExecutorId, Incarnation)> {
        match event {
            Event::TaskFinished { task, executor, incarnation, .. }
            | Event::TaskFailed { task, executor, incarnation, .. } => {
                Some((task.clone(), executor.clone(), *incarnation))
            }
            _ => None,
        }
    }

    /// The same, if the process counts and the attempt does not.
    fn over(&self, event: &Event) -> Option<(TaskKey, ExecutorId, Incarnation)> {
        let is_over = |task: &Task| task.ended.is_some() || task.cancelled || task.void;
        let status = self.status_of(event).filter(|status| !self.is_fenced(status))?;
        self.model.tasks.get(&status.0).is_some_and(is_over).then_some(status)
    }

    fn is_fenced<T>(&self, (_, executor, incarnation): &(T, ExecutorId, Incarnation)) -> bool {
        let mut processes = self.model.processes.iter();
        processes.any(|known| known.executor == *executor && known.incarnation == *incarnation && known.fenced)
    }

    /// An attempt that runs and counts.
    fn running_attempt(&self, fits: impl Fn(&TaskKey, &Task) -> bool) -> Option<(TaskKey, ExecutorId, Incarnation)> {
        let runs = |(key, task): &(&TaskKey, &Task)| {
            let lives = self.model.processes.iter().any(|process| {
                !process.fenced
                    && (&process.executor, process.incarnation) == (&task.executor, task.incarnation)
                    && process.running.contains_key(*key)
            });
            lives && task.ended.is_none() && !task.cancelled && !task.void && fits(key, task)
        };
        let (key, task) = self.model.tasks.iter().find(runs)?;
        let (executor, incarnation) = task.place();
        Some((key.clone(), executor, incarnation))
    }

    /// What a process brings along, as it would count if nobody looked closely.
    fn bring(&self, held: &mut Vec<HeldTask>) {
        match self.sabotage {
            Sabotage::AdoptStart => {
                for HeldTask { task, .. } in held {
                    let stage = (task.job.clone(), task.stage);
                    task.stage_attempt = self.attempts.get(&stage).copied().unwrap_or(task.stage_attempt);
                }
            }
            Sabotage::AdoptAttempt => {
                for HeldTask { task, .. } in held {
                    let winners = self.winners.get(&(task.job.clone(), task.stage));
                    let winner = winners.and_then(|winners| winners.iter().find(|winner| winner.task == task.task));
                    task.attempt = winner.map_or(task.attempt, |winner| winner.attempt);
                }
            }
            Sabotage::Held => held.retain(|held| {
                let is_void = self.model.tasks.get(&held.task).is_none_or(|task| task.void || task.cancelled);
                !is_void || matches!(held.state, HeldState::Finished { .. })
            }),
            _ => {}
        }
    }

    /// Adds the outputs of attempts that succeeded too late.
    fn add_losers(&self, finished: &mut StageFinished) {
        let stage: StageId = finished.stage;
        let losers = |winner: &TaskOutput| -> Vec<TaskOutput> {
            let TaskKey { job, task, .. } = &winner.task;
            let is_rival =
                |key: &&TaskKey| (&key.job, key.stage, &key.task) == (job, stage, task) && **key != winner.task;
            let rivals = self.model.processes.iter().flat_map(|process| process.holds.keys()).filter(is_rival);
            rivals.map(|key| TaskOutput { task: key.clone(), ..winner.clone() }).collect()
        };
        let losers: Vec<_> = finished.outputs.iter().flat_map(losers).collect();
        finished.outputs.extend(losers);
    }
}

/// The same status from another attempt.
fn rewrite(event: &mut Event, (key, place, life): (TaskKey, ExecutorId, Incarnation)) {
    if let Event::TaskFinished { task, executor, incarnation, .. }
    | Event::TaskFailed { task, executor, incarnation, .. } = event
    {
        (*task, *executor, *incarnation) = (key, place, life);
    }
}
