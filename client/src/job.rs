// SPDX-License-Identifier: Apache-2.0
//! One job as the client sees it: the stream of its events, turned into the stream of its rows.
//!
//! The call to the scheduler stays open until the last row has been handed on; dropping it earlier cancels the job. If it
//! breaks, `call` opens it again, and what the scheduler says then is put together with what is here.
//! The end of the rows is an end only after the scheduler's figures were checked against what arrived.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::status::from_status;
use ballista_plan::cached::CachedRows;
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use futures::{FutureExt, Stream};
use tokio::time::Sleep;

use crate::call::{Broken, JobCall};
use crate::cluster::{Cluster, SessionLease};
use crate::conform::conform;
use crate::error::{ClientError, of_job, root_cause};
use crate::parts::{Next, PartOf, Parts, open};
use crate::summary::{JobProgress, JobSummary, ProgressListener};

/// How long an error of a result stream waits for the scheduler's verdict, which knows the cause.
const VERDICT_WAIT: Duration = Duration::from_secs(2);

/// Called once, when a job has ended well.
pub(crate) type OnFinished = Box<dyn FnOnce(JobSummary, Option<proto::JobAnalysis>) + Send>;

/// What a job's stream needs besides the call.
pub(crate) struct JobContext {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) schema: SchemaRef,
    pub(crate) listener: Option<Arc<dyn ProgressListener>>,
    pub(crate) on_finished: OnFinished,
    pub(crate) holds: Holds,
    /// Its tasks write, and their counts are the result.
    pub(crate) writes: bool,
}

/// What is kept until the rows are read: the plan may be dropped as soon as it is executed.
#[derive(Clone, Default)]
pub struct Holds {
    pub(crate) _session: Option<SessionLease>,
    pub(crate) _cached: Vec<Arc<dyn CachedRows>>,
}

/// Submits a query. Nothing happens before the first poll of the returned future.
pub(crate) async fn submit(request: proto::ExecuteRequest, context: JobContext) -> Result<JobStream> {
    let call = JobCall::submit(Arc::clone(&context.cluster), with_key(request)).await?;
    let call = if context.writes { call.writes() } else { call };
    Ok(follow(call, context))
}

/// A request under the user's key, or one that nobody else has.
pub(crate) fn with_key(mut request: proto::ExecuteRequest) -> proto::ExecuteRequest {
    let users = request.settings.iter().rev().find(|setting| setting.key == "ballista.job.idempotency_key");
    match users.filter(|setting| !setting.value.is_empty()) {
        Some(setting) => {
            request.key = format!("user:{}", setting.value);
            request.key_is_users = true;
        }
        None => request.key = uuid::Uuid::new_v4().simple().to_string(),
    }
    request
}

/// The rows of a job whose events nobody has read yet, but for a schema.
pub(crate) fn follow(call: JobCall, context: JobContext) -> JobStream {
    JobStream {
        events: Some(call),
        cluster: context.cluster,
        schema: context.schema,
        listener: context.listener,
        on_finished: Some(context.on_finished),
        _holds: context.holds,
        job: None,
        parts: Parts::default(),
        tasks_seen: HashSet::new(),
        parts_without_task: 0,
        final_stage: None,
        unread: None,
        rows_received: 0,
        analysis: None,
        finished: None,
        broken: None,
    }
}

/// The rows of a running job.
pub(crate) struct JobStream {
    /// `None` after their end.
    events: Option<JobCall>,
    cluster: Arc<Cluster>,
    schema: SchemaRef,
    listener: Option<Arc<dyn ProgressListener>>,
    on_finished: Option<OnFinished>,
    _holds: Holds,
    job: Option<String>,
    parts: Parts,
    tasks_seen: HashSet<u32>,
    parts_without_task: u32,
    final_stage: Option<u32>,
    /// Why the last part that waits for another attempt could not be read.
    unread: Option<DataFusionError>,
    rows_received: u64,
    analysis: Option<proto::JobAnalysis>,
    finished: Option<proto::JobFinished>,
    /// A result stream broke; until the time is up, the scheduler may say why.
    broken: Option<(DataFusionError, Pin<Box<Sleep>>)>,
}

impl JobStream {
    fn job(&self) -> String {
        self.job.clone().unwrap_or_else(|| "?".to_owned())
    }

    /// Takes in what the scheduler has said, as long as no rows that came with it wait to be read: whoever reads
    /// slowly makes the scheduler wait, instead of keeping the rows here.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Result<()> {
        while let Some(events) = self.events.as_mut().filter(|_| self.broken.is_some() || !self.parts.has_inline()) {
            match events.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(event))) => self.take(event)?,
                Poll::Ready(Some(Err(broken))) if self.finished.is_none() => {
                    self.events = None;
                    return Err(match broken {
                        Broken::Said(status) => match from_status(&status) {
                            Some(failure) => of_job(failure),
                            None => self.lost(root_cause(&*status)),
                        },
                        Broken::Gone(reason) => self.lost(reason),
                    });
                }
                Poll::Ready(None) if self.finished.is_none() => {
                    self.events = None;
                    return Err(self.lost("the stream of its events ended".into()));
                }
                // After the job's end only the result streams matter.
                Poll::Ready(_) => self.events = None,
            }
        }
        Ok(())
    }

    fn take(&mut self, event: proto::JobEvent) -> Result<()> {
        use proto::job_event::Event;
        match event.event {
            Some(Event::Accepted(accepted)) => {
                tracing::debug!(job = accepted.job, scheduler = self.cluster.name(), "job accepted");
                let is_known = self.job.as_ref() == Some(&accepted.job);
                if accepted.resumed || (!is_known && self.job.is_some()) {
                    // Of another job, nothing counts.
                    let counts: HashSet<u32> = accepted.tasks.into_iter().filter(|_| is_known).collect();
                    self.parts.keep_only(&counts)?;
                    self.tasks_seen.retain(|task| counts.contains(task));
                    (self.finished, self.analysis) = (None, None);
                }
                self.job = Some(accepted.job);
            }
            Some(Event::Progress(progress)) => {
                if let Some(listener) = &self.listener {
                    listener.progress(&JobProgress::new(&self.job(), &progress));
                }
            }
            Some(Event::Result(part)) => {
                let of = part
                    .task
                    .as_ref()
                    .map(|task| PartOf { task: task.task, attempt: (task.stage_attempt, task.attempt) });
                match of {
                    Some(of) => drop(self.tasks_seen.insert(of.task)),
                    None => self.parts_without_task += 1,
                }
                self.final_stage = part.task.as_ref().map(|task| task.stage);
                if self.job.is_none() {
                    // Rows may come before the job is accepted, which is when it is written down.
                    self.job = part.task.as_ref().map(|task| task.job.clone());
                }
                let order = part.ordered.then_some(part.order);
                let is_inline = part.location.is_none();
                let rows = open(Arc::clone(&self.cluster), part, Arc::clone(&self.schema));
                if let Some(of) = self.parts.add(of, order, rows, is_inline)? {
                    // What was said of it may not have been heard.
                    self.report(of, Some("it could not be read".to_owned()));
                }
            }
            Some(Event::Analysis(analysis)) => self.analysis = Some(analysis),
            Some(Event::Finished(finished)) => {
                let received = self.tasks_seen.len() as u64 + u64::from(self.parts_without_task);
                self.check("parts", received, u64::from(finished.parts))?;
                self.parts.complete();
                self.finished = Some(finished);
            }
            Some(Event::Failed(failure)) => {
                let class = ErrorClass::from_code(failure.class);
                return Err(of_job(ClassifiedError::new(class, failure.message)));
            }
            Some(Event::Schema(_)) | None => {
                let scheduler = self.cluster.name().to_owned();
                return Err(ClientError::Protocol { scheduler, what: "an unexpected event" }.into());
            }
        }
        Ok(())
    }

    fn poll_rows(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Some((_, time_is_up)) = &mut self.broken {
            if self.events.is_some() && time_is_up.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            return Poll::Ready(self.broken.take().map(|(error, _)| Err(error)));
        }
        let polled = self.parts.poll_next(cx);
        if polled.is_pending() && self.events.is_none() && self.parts.is_broken() {
            // Nobody is left who could send another attempt.
            return Poll::Ready(self.unread.take().map(Err));
        }
        match std::task::ready!(polled) {
            Some(Ok(Next::Unread(of, error))) => {
                tracing::debug!(job = self.job(), task = of.task, %error, "a part of the result cannot be read");
                self.report(of, Some(error.strip_backtrace()));
                self.unread = Some(error);
                self.poll_rows(cx)
            }
            Some(Ok(Next::Read(of))) => {
                if self.finished.is_none() {
                    self.report(of, None);
                }
                self.poll_rows(cx)
            }
            Some(Ok(Next::Rows(batch))) => {
                self.rows_received += batch.num_rows() as u64;
                Poll::Ready(Some(conform(batch, &self.schema)))
            }
            Some(Err(error)) => {
                self.broken = Some((error, Box::pin(tokio::time::sleep(VERDICT_WAIT))));
                self.poll_rows(cx)
            }
            None => Poll::Ready(self.finish().err().map(Err)),
        }
    }

    /// Tells the scheduler that a part is here, or asks it to run the part's task again. It may know already, and has the
    /// last word in any case.
    fn report(&self, of: PartOf, unread: Option<String>) {
        let (Some(job), Some(stage)) = (self.job.clone(), self.final_stage) else { return };
        let (stage_attempt, attempt) = of.attempt;
        let task = Some(proto::TaskKey { job, stage, stage_attempt, task: of.task, attempt });
        let mut scheduler = self.cluster.scheduler();
        tokio::spawn(async move {
            if let Err(status) = scheduler.report_part(proto::ReportPartRequest { task, unread }).await {
                tracing::warn!(reason = root_cause(&status), "cannot tell the scheduler of a part of the result");
            }
        });
    }

    fn finish(&mut self) -> Result<()> {
        let Some(finished) = self.finished.take() else { return Ok(()) };
        self.events = None;
        self.check("rows", self.rows_received, finished.rows)?;
        if let Some(on_finished) = self.on_finished.take() {
            let summary = JobSummary {
                job_id: self.job(),
                stages: finished.stages,
                tasks: finished.tasks,
                bytes_exchanged: finished.bytes_exchanged,
                rows: finished.rows,
            };
            on_finished(summary, self.analysis.take());
        }
        Ok(())
    }

    fn check(&self, what: &'static str, received: u64, expected: u64) -> Result<()> {
        if received == expected {
            return Ok(());
        }
        Err(ClientError::Incomplete { job: self.job(), what, received, expected }.into())
    }

    fn lost(&self, reason: String) -> DataFusionError {
        ClientError::Lost { scheduler: self.cluster.name().to_owned(), job: self.job(), reason }.into()
    }
}

impl Stream for JobStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Err(error) = self.poll_events(cx) {
                // The scheduler's word is final; what a result stream said before was a consequence.
                self.events = None;
                self.broken = None;
                self.parts = Parts::default();
                self.parts.complete();
                return Poll::Ready(Some(Err(error)));
            }
            let had_inline = self.parts.has_inline();
            match self.poll_rows(cx) {
                // An empty part: what comes after it was not asked for yet.
                Poll::Pending if had_inline && !self.parts.has_inline() => {}
                rows => return rows,
            }
        }
    }
}
