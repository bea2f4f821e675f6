// SPDX-License-Identifier: Apache-2.0
//! One statement: planned and, as far as DataFusion runs statements at once (`SET`, `CREATE …`), run; then its rows.
//!
//! ```text
//!   text or Substrait ──► DataFrame ──► physical plan
//!                                         ├─ nothing but a query of the cluster: submitted, its events passed on
//!                                         └─ anything else: run here, rows as inline parts
//! ```

use std::sync::Arc;

use ballista_client::{ClientError, DistributedQueryExec};
use ballista_core::ClassifiedError;
use ballista_exchange::classify;
use ballista_exchange::wire::failure_to_proto;
use ballista_plan::ipc::encode_schema;
use ballista_proto as proto;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::stream::{self, BoxStream, StreamExt};
use proto::execute_statement_request::Statement;
use proto::job_event::Event;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::rows::send_rows;
use super::table::Use;
use crate::error::SchedulerError;
use crate::service::execute::execute;
use crate::shell::message::ShellHandle;

/// Parts between the plan and the connection to the client.
const BUFFERED_PARTS: usize = 2;

/// Events of a statement.
pub(crate) type Events = BoxStream<'static, Result<proto::JobEvent, Status>>;

/// Runs a statement of a session on `runtime`. Nothing else is waited for; dropping the stream cancels it.
pub(super) fn run(session: Use, statement: Statement, shell: ShellHandle, runtime: &Handle) -> Events {
    let context = session.context().clone();
    let start = async move {
        let stopped = shell.clone();
        tokio::select! {
            events = start(&context, statement, shell) => events.unwrap_or_else(|error| failed(&failure(&error))),
            () = stopped.closed() => failed(&failure(&stopping())),
        }
    };
    let task = {
        let _runtime = runtime.enter();
        SpawnedTask::spawn(start)
    };
    let events = async move {
        let panicked = |error| failed(&failure(&DataFusionError::ExecutionJoin(Box::new(error))));
        task.join().await.unwrap_or_else(panicked)
    };
    let hold = move |event| {
        let _session = &session;
        event
    };
    stream::once(events).flatten().map(hold).boxed()
}

/// Plans the statement, on the runtime of the sessions.
async fn start(context: &SessionContext, statement: Statement, shell: ShellHandle) -> Result<Events> {
    let frame = match statement {
        Statement::Sql(sql) => context.sql(&sql).await?,
        Statement::Substrait(plan) => substrait(context, &plan).await?,
    };
    if has_no_rows(frame.logical_plan()) {
        let schema = Event::Schema(encode_schema(frame.schema().as_arrow()));
        return Ok(of_events([schema, Event::Finished(proto::JobFinished::default())]));
    }
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let schema = of_events([Event::Schema(encode_schema(&plan.schema()))]);
    let query = plan.downcast_ref::<DistributedQueryExec>();
    if let Some(submission) = query.and_then(|query| query.submission(Arc::clone(&task))) {
        let (request, holds) = submission.await?;
        let job = execute(&shell, request).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let hold = move |event| {
            let _holds = &holds;
            event
        };
        return Ok(schema.chain(job.map(hold)).boxed());
    }
    let (sender, events) = mpsc::channel(BUFFERED_PARTS);
    let sending = SpawnedTask::spawn(async move {
        let sent = tokio::select! {
            sent = send_rows(plan, task, &sender) => sent,
            () = shell.closed() => Err(stopping()),
        };
        if let Err(error) = sent {
            // Nobody has to hear it.
            let _ = sender.send(Err(error)).await;
        }
    });
    let events = ReceiverStream::new(events).map(move |event| {
        let _sending = &sending;
        Ok(job_event(event.unwrap_or_else(|error| Event::Failed(failed_event(&failure(&error))))))
    });
    Ok(schema.chain(events).boxed())
}

#[cfg(feature = "substrait")]
async fn substrait(context: &SessionContext, plan: &[u8]) -> Result<DataFrame> {
    ballista_client::SubstraitExt::substrait(context, plan).await
}

#[cfg(not(feature = "substrait"))]
async fn substrait(_: &SessionContext, _: &[u8]) -> Result<DataFrame> {
    Err(DataFusionError::NotImplemented("this scheduler was built without Substrait (cargo feature substrait)".into()))
}

/// What is left of statements that are done.
fn has_no_rows(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, .. }))
}

fn stopping() -> DataFusionError {
    DataFusionError::External(Box::new(SchedulerError::Stopped))
}

/// Class and text of an error of a statement.
fn failure(error: &DataFusionError) -> ClassifiedError {
    let DataFusionError::External(inner) = error.find_root() else { return classify(error) };
    if let Some(error) = inner.downcast_ref::<ClientError>() {
        // What we asked of ourselves, as a client of this scheduler.
        return ClassifiedError::new(error.class(), error.to_string());
    }
    match inner.downcast_ref::<SchedulerError>() {
        Some(error) => ClassifiedError::new(error.class(), error.to_string()),
        None => classify(error),
    }
}

fn failed_event(error: &ClassifiedError) -> proto::Failure {
    failure_to_proto(error)
}

fn failed(error: &ClassifiedError) -> Events {
    of_events([Event::Failed(failed_event(error))])
}

fn of_events<const N: usize>(events: [Event; N]) -> Events {
    stream::iter(events.map(|event| Ok(job_event(event)))).boxed()
}

fn job_event(event: Event) -> proto::JobEvent {
    proto::JobEvent { event: Some(event) }
}
