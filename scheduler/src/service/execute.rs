// SPDX-License-Identifier: Apache-2.0
//! A client's query: one request, and a stream of events until the client has all it wants.

use std::pin::Pin;
use std::task::{Context, Poll};

use ballista_core::JobId;
use ballista_proto as proto;
use futures::Stream;
use proto::job_event::Event;
use tonic::Status;

use super::check_versions;
use crate::error::{Result, SchedulerError};
use crate::planner::PlanRequest;
use crate::shell::client::{ClientEvents, client_queue};
use crate::shell::message::{Message, ShellHandle, Submission};

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
pub(super) async fn execute(shell: &ShellHandle, request: proto::ExecuteRequest) -> Result<ClientStream> {
    check_versions("the client", request.protocol_version, &request.datafusion_version)?;
    if request.settings.len() > MAX_SETTINGS {
        return Err(SchedulerError::Protocol(format!("{} settings in one request", request.settings.len())));
    }
    let job = JobId::random();
    let (client, events) = client_queue();
    client.send(Event::Accepted(proto::JobAccepted { job: job.to_string() }));
    let settings = request.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    let plan = PlanRequest { session_id: request.session_id, settings, plan: request.plan };
    // Made before the submission, so that a client that leaves while the shell is busy is noticed too.
    let stream = ClientStream { job: job.clone(), events, shell: shell.clone() };
    shell.send(Message::Submit(Box::new(Submission { job, request: plan, client }))).await?;
    Ok(stream)
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
