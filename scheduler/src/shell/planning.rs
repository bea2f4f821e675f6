// SPDX-License-Identifier: Apache-2.0
//! Planning as the shell sees it: a planner per job that goes to a planning thread and comes back with stages.
//!
//! A planner is used by one thread at a time; stages that finish while it is out wait for it. Each
//! [`Effect::Plan`](ballista_scheduler_core::Effect::Plan) is answered by one event, until planning is complete.

use std::sync::Arc;

use ballista_core::{ClassifiedError, ErrorClass, JobId, StageId};
use ballista_exchange::classify;
use ballista_proto::journal as record;
use ballista_scheduler_core::{Effect, Event, PlanReason, Slicing, StageFinished, StageSpec};
use tracing::{debug, info, trace};

use super::Shell;
use super::job::{End, Job};
use super::message::{Explanation, Message};
use super::outgoing::EncodedInput;
use super::pool::catch;
use crate::journal::{Op, keys};
use crate::planner::{PlanRequest, Planner, PlannerFactory};
use crate::planning::job::{ClusterShape, PlanStep, PlannedSlicing, PlannedStage, StageResult};

/// What a planning thread is asked to do.
enum Task {
    Start(PlanRequest, ClusterShape),
    StageFinished(Box<dyn Planner>, StageId, StageResult),
    Spread(Box<dyn Planner>),
}

/// What a planner was told, of which a step came; to tell it again after a restart. `None` if nobody writes it down.
pub(crate) type Told = Option<record::step::Reason>;

type Step = Result<PlanStep, ClassifiedError>;

impl Shell {
    /// Starts planning, starts over, or goes on with it after a finished stage.
    pub(super) fn plan(&mut self, id: &JobId, reason: PlanReason) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let finished = match reason {
            PlanReason::Finished(finished) => finished,
            PlanReason::Submitted => {
                if let Some(starts) = job.planning.starts.filter(|_| !job.planning.is_counted) {
                    // Planned when that is durable: it may end this process.
                    job.planning.is_counted = true;
                    let record = record::Starts { count: starts + 1 };
                    self.barrier = self.journal.append_now(vec![Op::put(keys::starts(id), &record)]);
                    if !self.journal.has_passed(self.barrier) {
                        self.waiting.push_front(Effect::Plan { job: id.clone(), reason: PlanReason::Submitted });
                        return;
                    }
                }
                let Some(job) = self.jobs.get_mut(id) else { return };
                if let Some(request) = job.planning.request.take() {
                    let cluster = ClusterShape { executors: self.executors.shapes() };
                    job.planning.is_out = true;
                    self.send_planning(id, Task::Start(request, cluster));
                }
                return;
            }
            PlanReason::OutOfMemory => {
                if let Some(planner) = job.planning.planner.take() {
                    info!(job = %id, "the job's one task ran out of memory: planned again as many");
                    job.planning.complete = false;
                    job.planning.is_out = true;
                    self.send_planning(id, Task::Spread(planner));
                }
                return;
            }
        };
        if let Err(problem) = self.locate(id, &finished) {
            let message = format!("stage {} of job {id} cannot be read: {problem}", finished.stage);
            self.fail(id, &ClassifiedError::new(ErrorClass::Deterministic, message));
            return;
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(stage) = job.stages.get_mut(&finished.stage) else { return };
        debug!(job = %id, stage = %finished.stage, tasks = finished.outputs.len(), "stage finished");
        let result = stage.outputs.result();
        if !job.planning.complete {
            job.planning.due.push_back((finished.stage, result));
            self.plan_next(id);
        }
    }

    /// Notes where the outputs of a finished stage are.
    pub(super) fn locate(&mut self, id: &JobId, finished: &StageFinished) -> Result<(), String> {
        let stage = self.jobs.get_mut(id).and_then(|job| job.stages.get_mut(&finished.stage));
        let Some(stage) = stage else { return Ok(()) };
        stage.located = Some(EncodedInput::new(&stage.outputs.locate(finished, &self.executors)?));
        stage.tasks.clear();
        self.write_outputs(id, finished);
        Ok(())
    }

    /// Plans a query only to show how.
    pub(super) fn explain(&self, explanation: Explanation) {
        let Explanation { request, style, reply } = explanation;
        let (cluster, planners) = (ClusterShape { executors: self.executors.shapes() }, Arc::clone(&self.planners));
        self.pool.spawn(move || {
            let text = match catch(|| planners.explain(&request, cluster, style)) {
                Ok(planned) => planned.map_err(|error| classify(&error)),
                Err(panic) => {
                    Err(ClassifiedError::new(ErrorClass::Deterministic, format!("planning panicked: {panic}")))
                }
            };
            // Whoever asked may have gone.
            let _ = reply.send(text);
        });
    }

    /// A planner has a plan in it, which may be too deep to be dropped on the stack of this thread.
    pub(super) fn drop_planner(&self, planner: Option<Box<dyn Planner>>) {
        if planner.is_some() {
            self.pool.spawn(move || drop(planner));
        }
    }

    /// Tells the planner of the next finished stage, if it is at home.
    fn plan_next(&mut self, id: &JobId) {
        let Some(planning) = self.jobs.get_mut(id).map(|job| &mut job.planning) else { return };
        let Some(planner) = planning.planner.take() else { return };
        match planning.due.pop_front() {
            Some((stage, result)) => {
                planning.is_out = true;
                self.send_planning(id, Task::StageFinished(planner, stage, result));
            }
            None => planning.planner = Some(planner),
        }
    }

    fn send_planning(&self, id: &JobId, task: Task) {
        let Some(queue) = self.handle.queue() else { return };
        let told = self.jobs.get(id).filter(|job| job.is_journalled).map(|_| task.told());
        let (job, planners) = (id.clone(), Arc::clone(&self.planners));
        self.pool.spawn(move || {
            let (planner, step) = match catch(|| run(task, planners.as_ref())) {
                Ok(outcome) => outcome,
                Err(panic) => {
                    let message = format!("planning panicked: {panic}");
                    (None, Err(ClassifiedError::new(ErrorClass::Deterministic, message)))
                }
            };
            // A scheduler that is gone needs no plan.
            let _ = queue.blocking_send(Message::Planned { job, told, planner, step });
        });
    }

    /// A planner came back.
    pub(super) fn planned(&mut self, id: &JobId, told: Told, planner: Option<Box<dyn Planner>>, step: Step) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.end.is_none()) else {
            return self.drop_planner(planner);
        };
        job.planning.is_out = false;
        if job.planning.starts.take().is_some() {
            self.journal.append(vec![Op::Delete(keys::starts(id))]);
        }
        match step {
            Err(error) => self.events.push_back(Event::PlanFailed { job: id.clone(), error }),
            Ok(step) => {
                debug!(job = %id, stages = step.stages.len(), complete = step.complete, "planned");
                if let Some(analysis) = &mut job.analysis {
                    analysis.add_notes(step.notes);
                }
                if let Err(error) = self.import(id, &step.imports) {
                    self.events.push_back(Event::PlanFailed { job: id.clone(), error });
                    return;
                }
                if let Some(reason) = told {
                    self.write_step(id, reason, &step.stages);
                }
                let (one_task, small, complete) = (step.one_task, step.small, step.complete);
                let specs = self.add_stages(id, step.stages);
                let Some(job) = self.jobs.get_mut(id) else { return };
                job.planning.complete = complete;
                if complete {
                    job.planning.due.clear();
                }
                // The planner of a job of one task is kept: it plans again if that task runs out of memory.
                match planner {
                    planner if !complete || one_task => job.planning.planner = planner,
                    planner => self.drop_planner(planner),
                }
                self.events.push_back(Event::Planned { job: id.clone(), stages: specs, small, complete });
                self.report_later(id);
                self.plan_next(id);
            }
        }
    }
}

impl Shell {
    /// Takes over planned stages. What the core has to know of them.
    pub(super) fn add_stages(&mut self, id: &JobId, stages: Vec<PlannedStage>) -> Vec<StageSpec> {
        let Some(job) = self.jobs.get_mut(id) else { return Vec::new() };
        let mut specs = Vec::with_capacity(stages.len());
        for planned in stages {
            let PlannedStage { stage, partitions, display: text, .. } = &planned;
            trace!(job = %id, %stage, partitions, "stage planned\n{text}");
            job.add_stage(&planned, self.config.first_attempt());
            specs.push(spec(job, &planned));
            self.plans.insert(id, planned.stage, planned.plan);
        }
        specs
    }

    /// Lets a job read rows that others have kept.
    pub(super) fn import(&mut self, id: &JobId, imports: &[(StageId, String)]) -> Result<(), ClassifiedError> {
        for (stage, from) in imports {
            let gone = || {
                let message = format!("the cached rows of job {from} are gone; run the query again to cache them anew");
                ClassifiedError::new(ErrorClass::Infra, message)
            };
            let from = JobId::new(from.as_str()).map_err(|_| gone())?;
            // Taken out for a moment, because both jobs are in one map.
            let Some(mut job) = self.jobs.remove(id) else { return Ok(()) };
            let imported = self.jobs.get(&from).filter(|other| !matches!(other.end, Some(End::Failed(_))));
            let imported = imported.and_then(|other| other.kept.as_ref()).map(|kept| job.add_import(*stage, kept));
            self.jobs.insert(id.clone(), job);
            imported.ok_or_else(gone)?;
        }
        Ok(())
    }
}

impl Task {
    fn told(&self) -> record::step::Reason {
        match self {
            Self::Start(_, cluster) => record::step::Reason::Start(record::Shape {
                slots: cluster.executors.iter().map(|executor| executor.slots).collect(),
                memory_bytes: cluster.executors.iter().map(|executor| executor.memory_bytes).collect(),
            }),
            Self::StageFinished(_, stage, result) => record::step::Reason::Finished(record::StageResult {
                stage: stage.0,
                bucket_rows: result.bucket_rows.clone(),
                bucket_bytes: result.bucket_bytes.clone(),
                rows: result.rows,
                bytes: result.bytes,
                inline: result.inline.clone(),
                samples: result
                    .samples
                    .iter()
                    .map(|(rows, keys)| record::Sample { rows: *rows, keys: keys.clone() })
                    .collect(),
            }),
            Self::Spread(_) => record::step::Reason::Spread(true),
        }
    }
}

fn run(task: Task, planners: &dyn PlannerFactory) -> (Option<Box<dyn Planner>>, Step) {
    let outcome = match task {
        Task::Start(request, cluster) => planners.planner(&request, cluster).and_then(|mut planner| {
            let step = planner.start()?;
            Ok((planner, step))
        }),
        Task::StageFinished(mut planner, stage, result) => {
            planner.stage_finished(stage, result).map(|step| (planner, step))
        }
        Task::Spread(mut planner) => planner.spread().map(|step| (planner, step)),
    };
    match outcome {
        Ok((planner, step)) => (Some(planner), Ok(step)),
        Err(error) => (None, Err(classify(&error))),
    }
}

fn spec(job: &Job, planned: &PlannedStage) -> StageSpec {
    let in_order = planned.is_final && planned.ordered && planned.partitions > 1;
    let slicing = match planned.slicing {
        // The client puts parts together by their first partitions, so a part must hold neighbours only.
        PlannedSlicing::PerSlot { .. } if in_order => Slicing::PerSlot { max_partitions: 1 },
        PlannedSlicing::PerSlot { max_partitions } => Slicing::PerSlot { max_partitions },
        PlannedSlicing::Whole { slots } => Slicing::Whole { slots },
    };
    // Which buckets a partition reads is in the plan only; but a task that reads everything reads all of them.
    let is_import = |input: &StageId| job.stages.get(input).is_some_and(|stage| stage.is_import);
    let reads_everything = planned.partitions == 1 || matches!(planned.slicing, PlannedSlicing::Whole { .. });
    let preferred = if reads_everything {
        let holders = job.input_bytes(&planned.inputs).into_iter();
        vec![holders.filter(|(_, bytes)| *bytes > 0).map(|((executor, _), bytes)| (executor, bytes)).collect()]
    } else {
        Vec::new()
    };
    StageSpec {
        stage: planned.stage,
        partitions: planned.partitions,
        slicing,
        inputs: planned.inputs.iter().copied().filter(|input| !is_import(input)).collect(),
        row_limit: planned.row_limit,
        is_final: planned.is_final,
        commits: planned.commits,
        is_kept: planned.is_final && job.keeps_rows,
        deterministic: planned.deterministic,
        preferred,
    }
}
