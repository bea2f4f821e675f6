// SPDX-License-Identifier: Apache-2.0
//! Going on after a restart, from what the journal says.
//!
//! Every job's planner is told again what it was told before, and gives the same stages again; their digests say whether
//! it did. The core gets the stages, and waits for the executors to bring what they have. Clients that come back meanwhile
//! wait until it is known what counts of their results.
//!
//! **Failure modes.** A job that cannot be planned as before, because the scheduler has other settings or is another
//! version now, or not in time, starts over under another id; if it is detached or was publishing what it wrote, it fails.
//! One that was being planned when several schedulers died one after the other is taken for the cause, and fails.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskId};
use ballista_exchange::classify;
use ballista_proto as proto;
use ballista_proto::journal as record;
use ballista_scheduler_core::{Event, RestoredJob, RestoredStage, RestoredTask};
use datafusion::error::{DataFusionError, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use record::step::Reason;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Shell;
use super::durable::digest;
use super::job::Job;
use super::pool::catch;
use super::presence::is_there;
use crate::journal::recovered::{Recovered, RecoveredJob};
use crate::journal::{Op, keys};
use crate::planner::{PlanRequest, Planner, PlannerFactory};
use crate::planning::job::{ClusterShape, ExecutorShape, PlanStep, StageResult};
use crate::service::execute::{check_request_versions, split_request};

/// A job that was being planned at the death of so many schedulers is not planned again.
const MAX_DEATHS: u32 = 6;

/// How long a job may take to be planned as before, which all jobs are at the same time; and one that would fail otherwise.
const PLANNING: Duration = Duration::from_secs(8);
const LONG_PLANNING: Duration = Duration::from_secs(60);

/// A job that was planned as before.
#[derive(Default)]
struct Replayed {
    planner: Option<Box<dyn Planner>>,
    steps: Vec<PlanStep>,
    spread: bool,
    announced: Vec<StageId>,
}

impl Shell {
    /// Goes on with the jobs of before.
    pub(super) async fn restore(&mut self, recovered: Recovered) {
        let Recovered { executors, jobs, .. } = recovered;
        self.expected = executors.iter().map(|(executor, _)| executor.clone()).collect();
        let executors = tokio::spawn(still_there(executors));
        let (mut known, mut replays) = (Vec::new(), FuturesUnordered::new());
        for (id, mut job) in jobs {
            if let Some(end) = job.end.take() {
                self.restore_end(id, end);
            } else if let Some((request, record)) = job.job.as_ref().and_then(submitted) {
                if job.deaths() >= MAX_DEATHS {
                    self.give_up(id, &job, record);
                    continue;
                }
                if !job.steps.is_empty() {
                    replays.push(self.replay_within(id.clone(), request, &job));
                }
                known.push((id, job, record));
            } else {
                self.journal.append(vec![Op::DeleteAll(keys::job(&id))]);
            }
        }
        let mut replayed = HashMap::new();
        while let Some((id, outcome)) = replays.next().await {
            // At once: should another one end this process, this one is not to blame.
            self.journal.append_now(vec![Op::Delete(keys::starts(&id))]);
            replayed.insert(id, outcome);
        }
        // In the order of their submission.
        known.sort_by_key(|(id, job, _)| (job.job.as_ref().map_or(0, |job| job.submitted), id.clone()));
        let count = known.len();
        let mut restored = Vec::new();
        for (id, job, record) in known {
            let outcome = replayed.remove(&id).unwrap_or_else(|| Ok(Replayed::default()));
            restored.extend(self.restore_job(id, job, record, outcome));
        }
        let executors = executors.await.unwrap_or_default();
        info!(jobs = count, executors = executors.len(), ends = self.kept_ends.len(), "state restored");
        self.events.push_back(Event::Restored {
            executors,
            jobs: restored,
            first_attempt: self.config.first_attempt(),
        });
        self.drain();
        self.end_restoring();
    }

    /// Plans a job as before, on a planning thread.
    fn replay_within(
        &self,
        id: JobId,
        request: PlanRequest,
        job: &RecoveredJob,
    ) -> impl Future<Output = (JobId, Result<Replayed, ClassifiedError>)> + use<> {
        let (reply, replayed) = oneshot::channel();
        let (planners, steps) = (Arc::clone(&self.planners), job.steps.clone());
        self.pool.spawn(move || {
            let outcome = catch(|| replay(&request, &steps, planners.as_ref()));
            let outcome = outcome.unwrap_or_else(|panic| Err(DataFusionError::Internal(panic)));
            // The shell may have waited long enough.
            let _ = reply.send(outcome.map_err(|error| classify(&error)));
        });
        // One that starts over costs less than that all others wait for it.
        let starts_over = job.commits.is_empty() && job.job.as_ref().is_some_and(|job| !is_detached(job));
        let limit = if starts_over { PLANNING } else { LONG_PLANNING };
        async move {
            let problem = |problem: &str| Err(ClassifiedError::new(ErrorClass::Infra, problem));
            let outcome = match tokio::time::timeout(limit, replayed).await {
                Ok(replayed) => replayed.unwrap_or_else(|_| problem("the planning threads have ended")),
                Err(_) => problem("its planning takes longer than before"),
            };
            (id, outcome)
        }
    }

    /// Takes over one job. What the core has to know of it, if it goes on where it was.
    fn restore_job(
        &mut self,
        id: JobId,
        known: RecoveredJob,
        request: proto::ExecuteRequest,
        replayed: Result<Replayed, ClassifiedError>,
    ) -> Option<RestoredJob> {
        let now = self.now();
        let needs_secrets = !request.stores.is_empty();
        let name = request.session_id.clone();
        let (plan_request, terms) = split_request(request.clone()).ok()?;
        let replayed = replayed.and_then(|replayed| match check_request_versions(&request) {
            Ok(()) => Ok(replayed),
            Err(error) => Err(ClassifiedError::new(ErrorClass::Infra, error.to_string())),
        });
        let mut job = Job::new(plan_request, terms, now);
        (job.is_journalled, job.accepted, job.left) = (true, true, Some(now));
        let problem = match &replayed {
            Err(error) => Some(error.message.clone()),
            Ok(replayed) if replayed.steps.iter().any(|step| !step.imports.is_empty()) => {
                Some("the rows that it reads of a client or a cache are gone".to_owned())
            }
            Ok(_) if needs_secrets => Some("the options of its object stores are not written down".to_owned()),
            Ok(_) => None,
        };
        let replayed = match (problem, replayed) {
            (None, Ok(replayed)) => replayed,
            (problem, _) => {
                self.start_over(id, &known, request, job, &problem.unwrap_or_default(), needs_secrets);
                return None;
            }
        };
        if !job.terms.key.is_empty() {
            self.by_key.insert(job.terms.key.clone(), id.clone());
        }
        let Replayed { planner, steps, spread, announced } = replayed;
        if steps.is_empty() {
            // As if it had just come.
            job.planning.starts = Some(known.starts);
            self.jobs.insert(id, job);
            return None;
        }
        info!(job = %id, session = name, steps = steps.len(), "job restored");
        (job.in_core, job.is_restoring) = (true, true);
        job.publishing = !known.commits.is_empty();
        job.planning.request = None;
        job.planning.steps = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let (complete, small) = steps.last().map_or((false, false), |step| (step.complete, step.small));
        let one_task = steps.last().is_some_and(|step| step.one_task);
        job.planning.complete = complete;
        job.planning.planner = planner.filter(|_| !complete || one_task);
        let weight = job.weight;
        self.jobs.insert(id.clone(), job);
        let (mut specs, mut notes, mut attempts) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (step, record) in steps.into_iter().zip(&known.steps) {
            notes.extend(step.notes);
            attempts.extend(step.stages.iter().map(|planned| (planned.stage, record.attempt)));
            specs.extend(self.add_stages(&id, step.stages));
        }
        if spread {
            // The plan of one task is gone.
            let first = specs.iter().position(|spec| spec.is_final).map_or(0, |at| at + 1);
            let gone: Vec<_> = specs.drain(..first).map(|spec| spec.stage).collect();
            let stages = self.jobs.get_mut(&id).map(|job| &mut job.stages);
            stages.into_iter().for_each(|stages| stages.retain(|stage, _| !gone.contains(stage)));
        }
        // No stage has more tasks, or tasks more attempts, between two starts.
        let first_new = (self.config.starts % 4096) << 20;
        let stages = specs.into_iter().map(|spec| {
            let record = known.stages.get(&spec.stage);
            let planned = attempts.get(&spec.stage).copied().unwrap_or(0);
            let attempt = record.map_or(planned, |record| record.attempt);
            if let Some(stage) = self.jobs.get_mut(&id).and_then(|job| job.stages.get_mut(&spec.stage)) {
                stage.attempt = attempt;
            }
            let outputs = record.map(|record| record.outputs.iter().map(restored_task).collect()).unwrap_or_default();
            let announced = announced.contains(&spec.stage).then_some(outputs);
            RestoredStage { spec, attempt, announced, first_new }
        });
        let stages = stages.collect();
        let publishing = known.commits.iter().map(restored_task).collect();
        if let Some(analysis) = self.jobs.get_mut(&id).and_then(|job| job.analysis.as_mut()) {
            analysis.add_notes(notes);
        }
        Some(RestoredJob { job: id, weight, small, complete, planned_again: spread, publishing, stages })
    }

    /// A job cannot go on where it was.
    fn start_over(
        &mut self,
        id: JobId,
        known: &RecoveredJob,
        request: proto::ExecuteRequest,
        mut job: Job,
        problem: &str,
        needs_secrets: bool,
    ) {
        warn!(job = %id, problem, "the job cannot go on where it was");
        self.journal.append(vec![Op::DeleteAll(keys::job(&id))]);
        if known.commits.is_empty() && !job.terms.detached {
            // With its secrets, if it has any, its client comes back by itself.
            if !needs_secrets {
                let id = JobId::random();
                job.is_journalled = false;
                self.by_key.insert(job.terms.key.clone(), id.clone());
                self.write_job(&id, &mut job, Some(request));
                self.jobs.insert(id, job);
            }
            return;
        }
        let message = match known.commits.is_empty() {
            true => format!("the scheduler was restarted, and the query cannot go on: {problem}; run it again"),
            false => format!(
                "the scheduler died while it was publishing what the query had written, and cannot go on: {problem}; \
                 some of it may be there, some may not"
            ),
        };
        self.end_restored(id, job, known, ErrorClass::Infra, message);
    }

    /// A job takes one scheduler after the other along: it is not tried again.
    fn give_up(&mut self, id: JobId, known: &RecoveredJob, request: proto::ExecuteRequest) {
        let deaths = known.deaths();
        warn!(job = %id, deaths, "the job is not planned again");
        let Ok((plan_request, terms)) = split_request(request) else {
            self.journal.append(vec![Op::DeleteAll(keys::job(&id))]);
            return;
        };
        let job = Job::new(plan_request, terms, self.now());
        let mut message = format!(
            "the query is quarantined: {deaths} schedulers died one after the other while they planned it; if it needs more \
             memory than they have, change that before you run it again"
        );
        if !known.commits.is_empty() {
            message.push_str("; of what it was publishing some may be there, some may not");
        }
        self.end_restored(id, job, known, ErrorClass::Deterministic, message);
    }

    /// A job of before has failed: its client hears why when it comes back.
    fn end_restored(&mut self, id: JobId, mut job: Job, known: &RecoveredJob, class: ErrorClass, message: String) {
        (job.is_journalled, job.left) = (true, Some(self.now()));
        job.publishing = !known.commits.is_empty();
        if !job.terms.key.is_empty() {
            self.by_key.insert(job.terms.key.clone(), id.clone());
        }
        job.fail(&id, &ClassifiedError::new(class, message));
        self.keep_end(&id, &mut job);
    }

    /// When everybody is back, or their time is up: clients that wait hear what counts.
    pub(super) fn end_restoring(&mut self) {
        // What waits may be a part of a result.
        if self.state.is_restoring() || self.is_waiting() {
            return;
        }
        let connected: HashSet<_> = self.executors.lives().into_iter().map(|(executor, _)| executor).collect();
        let gone = std::mem::take(&mut self.expected).into_iter().filter(|executor| !connected.contains(executor));
        let gone: Vec<_> = gone.map(|executor| Op::Delete(keys::executor(&executor))).collect();
        if !gone.is_empty() {
            self.journal.append(gone);
        }
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.is_restoring) {
            job.is_restoring = false;
            for follower in std::mem::take(&mut job.attaching) {
                job.attach(id, follower);
            }
        }
    }
}

/// The executors that were connected, but for those that have died meanwhile.
async fn still_there(executors: Vec<(ExecutorId, record::Executor)>) -> Vec<(ExecutorId, Incarnation)> {
    let knocks = executors.into_iter().map(|(executor, record)| async move {
        let is_there = is_there(&record.host, u16::try_from(record.port).unwrap_or(0)).await;
        is_there.then_some((executor, Incarnation(record.incarnation)))
    });
    futures::future::join_all(knocks).await.into_iter().flatten().collect()
}

fn is_detached(job: &record::Job) -> bool {
    job.request.as_ref().is_some_and(|request| request.detached)
}

fn restored_task(record: &record::Task) -> RestoredTask {
    RestoredTask { task: TaskId(record.task), attempt: record.attempt, partitions: record.partitions.clone() }
}

/// A job as it was submitted.
fn submitted(job: &record::Job) -> Option<(PlanRequest, proto::ExecuteRequest)> {
    let request = job.request.clone()?;
    Some((split_request(request.clone()).ok()?.0, request))
}

/// Tells a planner what it was told before. An error if that gives something else.
fn replay(request: &PlanRequest, steps: &[record::Step], planners: &dyn PlannerFactory) -> Result<Replayed> {
    let mut replayed = Replayed { planner: None, steps: Vec::new(), spread: false, announced: Vec::new() };
    for step in steps {
        let planned = match (&step.reason, replayed.planner.as_mut()) {
            (Some(Reason::Start(shape)), None) => {
                let mut planner = planners.planner(request, shape_of(shape))?;
                let planned = planner.start()?;
                replayed.planner = Some(planner);
                planned
            }
            (Some(Reason::Finished(finished)), Some(planner)) => {
                let stage = StageId(finished.stage);
                replayed.announced.push(stage);
                planner.stage_finished(stage, result_of(finished))?
            }
            (Some(Reason::Spread(_)), Some(planner)) => {
                replayed.spread = true;
                planner.spread()?
            }
            _ => return Err(DataFusionError::Internal("the steps of its plan are not in order".to_owned())),
        };
        if digest(&planned.stages) != step.digest {
            return Err(DataFusionError::Plan("this scheduler plans it in another way".to_owned()));
        }
        replayed.steps.push(planned);
    }
    Ok(replayed)
}

fn shape_of(shape: &record::Shape) -> ClusterShape {
    let executors = shape.slots.iter().zip(&shape.memory_bytes);
    let executors = executors.map(|(slots, memory)| ExecutorShape { slots: *slots, memory_bytes: *memory });
    ClusterShape { executors: executors.collect() }
}

fn result_of(finished: &record::StageResult) -> StageResult {
    StageResult {
        bucket_rows: finished.bucket_rows.clone(),
        bucket_bytes: finished.bucket_bytes.clone(),
        rows: finished.rows,
        bytes: finished.bytes,
        inline: finished.inline.clone(),
        samples: finished.samples.iter().map(|sample| (sample.rows, sample.keys.clone())).collect(),
    }
}
