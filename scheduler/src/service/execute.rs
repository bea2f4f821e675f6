// SPDX-License-Identifier: Apache-2.0
//! A client's query: one request, and a stream of events until the client has all it wants.

use std::pin::Pin;
use std::task::{Context, Poll};

use ballista_core::JobId;
use ballista_exchange::ExchangeError;
use ballista_exchange::status::to_status;
use ballista_proto as proto;
use futures::Stream;
use proto::job_event::Event;
use tonic::Status;

use super::check_versions;
use crate::error::{Result, SchedulerError};
use crate::planner::PlanRequest;
use crate::planning::explain::{ExplainFormat, ExplainStyle};
use crate::shell::client::{ClientEvents, client_queue};
use crate::shell::message::{Explanation, Message, ShellHandle, Submission};

/// Settings of one job; a session has about two hundred keys in all.
const MAX_SETTINGS: usize = 4096;

/// The events of one job. Ends after `failed`, and after `finished` if every part of the result came inline;
/// otherwise it stays open while the client fetches, because dropping it frees the results.
pub struct ClientStream {
    job: JobId,
    events: ClientEvents,
    shell: ShellHandle,
}

/// Submits a query.
pub(crate) async fn execute(shell: &ShellHandle, request: proto::ExecuteRequest) -> Result<ClientStream> {
    let plan = plan_request(request)?;
    let job = JobId::random();
    let (client, events) = client_queue();
    client.send(Event::Accepted(proto::JobAccepted { job: job.to_string() }));
    // Made before the submission, so that a client that leaves while the shell is busy is noticed too.
    let stream = ClientStream { job: job.clone(), events, shell: shell.clone() };
    shell.send(Message::Submit(Box::new(Submission { job, request: plan, client }))).await?;
    Ok(stream)
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
        let request = plan_request(query)?;
        shell.ask(|reply| Message::Explain(Box::new(Explanation { request, style, reply }))).await
    };
    match ask.await.map_err(|error: SchedulerError| error.to_status())? {
        Ok(plan) => Ok(proto::ExplainPlanResponse { plan }),
        Err(error) => Err(to_status(&ExchangeError::Remote(error))),
    }
}

fn plan_request(request: proto::ExecuteRequest) -> Result<PlanRequest> {
    check_versions("the client", request.protocol_version, &request.datafusion_version)?;
    let proto::ExecuteRequest { session_id, plan, settings, analyze, keep, stores, .. } = request;
    let settings = check_settings(settings)?;
    Ok(PlanRequest { session_id, settings, plan, analyze, keep, stores })
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
            self.shell.notify(Message::ClientGone(self.job.clone()));
        }
    }
}
