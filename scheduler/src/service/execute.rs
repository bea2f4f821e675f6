// SPDX-License-Identifier: Apache-2.0
//! A client's query: one request, and a stream of events until the client has all it wants.

use std::pin::Pin;
use std::task::{Context, Poll};

use ballista_core::JobId;
use ballista_exchange::ExchangeError;
use ballista_exchange::status::to_status;
use ballista_proto as proto;
use futures::Stream;
use tonic::Status;

use super::check_versions;
use crate::error::{Result, SchedulerError};
use crate::planner::PlanRequest;
use crate::planning::explain::{ExplainFormat, ExplainStyle};
use crate::shell::client::{ClientEvents, client_queue};
use crate::shell::message::{Connection, Explanation, Follower, Message, ShellHandle, Submission, Terms};

/// A user's key of a job may be this long.
const MAX_KEY_BYTES: usize = 256;

/// Settings of one job; a session has about two hundred keys in all.
const MAX_SETTINGS: usize = 4096;

/// The events of one job. Ends after `failed`, and after `finished` if every part of the result came inline;
/// otherwise it stays open while the client fetches, because dropping it may free the results.
pub struct ClientStream {
    connection: Connection,
    events: ClientEvents,
    shell: ShellHandle,
}

/// Submits a query, or follows the one of the same key.
pub(crate) async fn execute(shell: &ShellHandle, request: proto::ExecuteRequest) -> Result<ClientStream> {
    let comes_back = !request.key.is_empty() || request.detached;
    let resume_only = request.resume_only;
    let record = comes_back.then(|| request.clone());
    let (request, terms) = accept_request(request)?;
    let (stream, follower) = follow(shell);
    let submission = Submission { job: JobId::random(), request, terms, resume_only, record, follower };
    shell.send(Message::Submit(Box::new(submission))).await?;
    Ok(stream)
}

/// Follows a detached job.
pub(super) async fn attach(shell: &ShellHandle, request: proto::AttachJobRequest) -> Result<ClientStream> {
    check_versions("the client", request.protocol_version, datafusion::DATAFUSION_VERSION)?;
    let job = JobId::new(&request.job)?;
    let (stream, follower) = follow(shell);
    let found = shell.ask(|reply| Message::Attach { job: job.clone(), follower, reply }).await?;
    if found { Ok(stream) } else { Err(SchedulerError::Gone(format!("job {job}"))) }
}

/// Both ends of a client's stream. Made before anything is asked for, so that a client that leaves while the shell is busy
/// is noticed too.
fn follow(shell: &ShellHandle) -> (ClientStream, Follower) {
    let (queue, events) = client_queue();
    let connection = shell.connection();
    (ClientStream { connection, events, shell: shell.clone() }, Follower { connection, queue })
}

/// Plans a query and shows how it would run.
pub(super) async fn explain(
    shell: &ShellHandle,
    request: proto::ExplainPlanRequest,
) -> Result<proto::ExplainPlanResponse, Status> {
    let ask = async {
        let format = match request.format() {
            proto::ExplainFormat::Indent => ExplainFormat::Indent,
            proto::ExplainFormat::Tree => ExplainFormat::Tree,
            proto::ExplainFormat::Graphviz => ExplainFormat::Graphviz,
        };
        let style = ExplainStyle { format, verbose: request.verbose };
        let query = request.query.ok_or_else(|| SchedulerError::Protocol("nothing to explain".to_owned()))?;
        let (request, _) = accept_request(query)?;
        shell.ask(|reply| Message::Explain(Box::new(Explanation { request, style, reply }))).await
    };
    match ask.await.map_err(|error: SchedulerError| error.to_status())? {
        Ok(plan) => Ok(proto::ExplainPlanResponse { plan }),
        Err(error) => Err(to_status(&ExchangeError::Remote(error))),
    }
}

/// A request that makes sense.
pub(crate) fn accept_request(request: proto::ExecuteRequest) -> Result<(PlanRequest, Terms)> {
    check_request_versions(&request)?;
    split_request(request)
}

/// Whether a request is of versions that go together with ours.
pub(crate) fn check_request_versions(request: &proto::ExecuteRequest) -> Result<()> {
    check_versions("the client", request.protocol_version, &request.datafusion_version)
}

/// The parts of a request, whatever its version.
pub(crate) fn split_request(request: proto::ExecuteRequest) -> Result<(PlanRequest, Terms)> {
    let proto::ExecuteRequest { session_id, plan, settings, analyze, keep, stores, .. } = request;
    let proto::ExecuteRequest { key, key_is_users, detached, schema, .. } = request;
    if key.len() > MAX_KEY_BYTES {
        return Err(SchedulerError::Protocol(format!("a key of {} bytes; {MAX_KEY_BYTES} will do", key.len())));
    }
    let settings = check_settings(settings)?;
    let terms = Terms { key, key_is_users, detached, schema };
    Ok((PlanRequest { session_id, settings, plan, analyze, keep, stores }, terms))
}

/// Settings as pairs, unless they are absurdly many.
pub(super) fn check_settings(settings: Vec<proto::Setting>) -> Result<Vec<(String, String)>> {
    if settings.len() > MAX_SETTINGS {
        return Err(SchedulerError::Protocol(format!("{} settings in one request", settings.len())));
    }
    Ok(settings.into_iter().map(|setting| (setting.key, setting.value)).collect())
}

impl Stream for ClientStream {
    type Item = Result<proto::JobEvent, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next(context).map(|event| event.map(Ok))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !self.events.is_over() {
            self.shell.notify(Message::ClientGone(self.connection));
        }
    }
}
