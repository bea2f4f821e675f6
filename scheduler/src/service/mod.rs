// SPDX-License-Identifier: Apache-2.0
//! The gRPC methods. They check and translate what comes in, pass it to the shell, and stream what comes back; nothing
//! is decided here.
//!
//! * `execute`: a client's query and its stream of events.
//! * `statement`: sessions that live here, and their statements.
//! * `session`: an executor's session.
//! * `server`: what a tonic server is given.

pub(crate) mod execute;
mod server;
mod session;
mod statement;

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::{JobId, PROTOCOL_VERSION, StageId, speaks_protocol};
use ballista_exchange::wire::task_key_from_proto;
use ballista_proto as proto;
use futures::Stream;
use futures::stream::Empty;
use proto::scheduler_service_server::SchedulerService as Api;
use tonic::{Request, Response, Status, Streaming};

use self::execute::ClientStream;
pub use self::server::SchedulerServer;
use crate::error::{Result, SchedulerError};
use crate::shell::message::{Message, ShellHandle};
use crate::sql::SqlSessions;
use crate::sql::statement::Events;

/// Plans are sent in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// What a client says of a part of its result that it cannot read is cut to this length.
const MAX_REASON_BYTES: usize = 1 << 10;

type Reply<T> = Result<Response<T>, Status>;
type PlanStream = Pin<Box<dyn Stream<Item = Result<proto::StagePlanChunk, Status>> + Send>>;

/// All methods but the sessions of executors, which [`SchedulerServer`] serves itself.
struct SchedulerService {
    shell: ShellHandle,
    /// `None` if none are wanted.
    sessions: Option<Arc<SqlSessions>>,
}

#[async_trait]
impl Api for SchedulerService {
    type ExecuteStream = ClientStream;
    type AttachJobStream = ClientStream;
    type ExecuteStatementStream = Events;
    type GetStagePlanStream = PlanStream;
    type SessionStream = Empty<Result<proto::SchedulerMessage, Status>>;

    async fn execute(&self, request: Request<proto::ExecuteRequest>) -> Reply<ClientStream> {
        let stream = execute::execute(&self.shell, request.into_inner()).await;
        stream.map(Response::new).map_err(|error| error.to_status())
    }

    async fn attach_job(&self, request: Request<proto::AttachJobRequest>) -> Reply<ClientStream> {
        let stream = execute::attach(&self.shell, request.into_inner()).await;
        stream.map(Response::new).map_err(|error| error.to_status())
    }

    async fn close_job(&self, request: Request<proto::CloseJobRequest>) -> Reply<proto::CloseJobResponse> {
        let proto::CloseJobRequest { job, key } = request.into_inner();
        let close = async {
            let job = (!job.is_empty()).then(|| JobId::new(&job)).transpose()?;
            self.shell.send(Message::Close { job, key }).await
        };
        close.await.map_err(|error: SchedulerError| error.to_status())?;
        Ok(Response::new(proto::CloseJobResponse {}))
    }

    async fn explain_plan(&self, request: Request<proto::ExplainPlanRequest>) -> Reply<proto::ExplainPlanResponse> {
        execute::explain(&self.shell, request.into_inner()).await.map(Response::new)
    }

    async fn cancel_job(&self, request: Request<proto::CancelJobRequest>) -> Reply<proto::CancelJobResponse> {
        let cancel = async {
            let job = JobId::new(&request.get_ref().job)?;
            self.shell.ask(|reply| Message::Cancel { job, reply }).await
        };
        let found = cancel.await.map_err(|error: SchedulerError| error.to_status())?;
        Ok(Response::new(proto::CancelJobResponse { found }))
    }

    async fn report_part(&self, request: Request<proto::ReportPartRequest>) -> Reply<proto::ReportPartResponse> {
        let proto::ReportPartRequest { task, mut unread } = request.into_inner();
        let report = async {
            let task = task_key_from_proto(&task.unwrap_or_default())
                .map_err(|error| SchedulerError::Protocol(error.to_string()))?;
            if let Some(reason) = &mut unread {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            }
            self.shell.send(Message::ResultPart { task, unread }).await
        };
        report.await.map_err(|error: SchedulerError| error.to_status())?;
        Ok(Response::new(proto::ReportPartResponse {}))
    }

    async fn get_cluster(&self, _: Request<proto::GetClusterRequest>) -> Reply<proto::GetClusterResponse> {
        let cluster = self.shell.ask(|reply| Message::Cluster { reply }).await;
        cluster.map(Response::new).map_err(|error| error.to_status())
    }

    async fn get_stage_plan(&self, request: Request<proto::GetStagePlanRequest>) -> Reply<PlanStream> {
        let proto::GetStagePlanRequest { job, stage, .. } = request.into_inner();
        let plan = JobId::new(&job).map_err(SchedulerError::from);
        let plan = plan.and_then(|job| self.shell.stage_plan(&job, StageId(stage)));
        let mut plan = plan.map_err(|error| error.to_status())?;
        let chunks = std::iter::from_fn(move || {
            let data = plan.split_to(plan.len().min(CHUNK_BYTES));
            (!data.is_empty()).then_some(Ok(proto::StagePlanChunk { data }))
        });
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn open_session(&self, request: Request<proto::OpenSessionRequest>) -> Reply<proto::OpenSessionResponse> {
        let opened = statement::open(self.sessions.as_deref(), request.into_inner()).await;
        opened.map(Response::new).map_err(|error| error.to_status())
    }

    async fn execute_statement(&self, request: Request<proto::ExecuteStatementRequest>) -> Reply<Events> {
        let events = statement::execute(self.sessions.as_deref(), request.into_inner());
        events.map(Response::new).map_err(|error| error.to_status())
    }

    async fn close_session(&self, request: Request<proto::CloseSessionRequest>) -> Reply<proto::CloseSessionResponse> {
        let found = self.sessions.as_ref().is_some_and(|sessions| sessions.close(&request.get_ref().session));
        Ok(Response::new(proto::CloseSessionResponse { found }))
    }

    async fn session(&self, _: Request<Streaming<proto::ExecutorMessage>>) -> Reply<Self::SessionStream> {
        Err(Status::unimplemented("sessions are served by SchedulerServer"))
    }
}

/// Refuses a peer that would misunderstand us, or whose plans we would.
fn check_versions(who: &str, protocol: u32, datafusion: &str) -> Result<()> {
    let incompatible = |what, theirs: &dyn ToString, ours: &dyn ToString| SchedulerError::Incompatible {
        who: who.to_owned(),
        what,
        theirs: theirs.to_string(),
        ours: ours.to_string(),
    };
    if !speaks_protocol(protocol) {
        return Err(incompatible("protocol version", &protocol, &PROTOCOL_VERSION));
    }
    if datafusion != datafusion::DATAFUSION_VERSION {
        return Err(incompatible("DataFusion", &datafusion, &datafusion::DATAFUSION_VERSION));
    }
    Ok(())
}
