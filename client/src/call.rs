// SPDX-License-Identifier: Apache-2.0
//! [`JobCall`]: the events of a job, through broken connections and a scheduler's restart.
//!
//! Every query goes with a key. When the stream of events breaks, the same request is sent again until somebody takes it:
//! a scheduler that knows the key lets the client follow the job where it is, one that does not (it was not told, or
//! has forgotten) runs the query. Whether that fits what was read before, the reader of the events decides.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ballista_core::PROTOCOL_VERSION;
use ballista_exchange::status::from_status;
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use proto::job_event::Event;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::cluster::Cluster;
use crate::error::{ClientError, error_of_call, root_cause};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Streams of events that break one after the other before anything came of the job.
const MAX_FRUITLESS: u32 = 10;

type Events = Streaming<proto::JobEvent>;

/// How a stream of events has ended, other than by its job's end.
pub(crate) enum Broken {
    /// The scheduler said why.
    Said(Box<Status>),
    /// Nobody took the request again.
    Gone(String),
}

/// See the module's documentation.
pub(crate) struct JobCall {
    cluster: Arc<Cluster>,
    /// `None`: a stream that cannot be had again.
    request: Option<Request>,
    state: State,
    job: String,
    /// The job's last event was read.
    is_over: bool,
    /// The scheduler frees the job by itself then.
    frees_itself: bool,
    /// A second run would write a second time.
    writes: bool,
    /// Streams that were opened since anything came of the job but that it is accepted anew.
    fruitless: u32,
}

/// How a stream is had again.
#[derive(Clone)]
enum Request {
    Execute(Box<proto::ExecuteRequest>),
    /// A detached job.
    Attach(proto::AttachJobRequest),
}

impl Request {
    async fn send(self, cluster: &Cluster) -> Result<Events, Status> {
        let mut scheduler = cluster.scheduler();
        let opened = match self {
            Self::Execute(request) => scheduler.execute(*request).await,
            Self::Attach(request) => scheduler.attach_job(request).await,
        };
        opened.map(tonic::Response::into_inner)
    }
}

enum State {
    Open(Box<Events>),
    Reconnecting(BoxFuture<'static, Result<Events, Broken>>),
    Ended,
}

impl JobCall {
    /// Submits a query under its key. A cluster that was reached before is waited for.
    pub(crate) async fn submit(cluster: Arc<Cluster>, request: proto::ExecuteRequest) -> Result<Self> {
        let frees_itself = !request.detached && !request.key_is_users;
        Self::open(cluster, Request::Execute(Box::new(request)), frees_itself).await
    }

    /// Follows a detached job. Its first event is the schema of its rows.
    pub(crate) async fn attach(cluster: Arc<Cluster>, job: &str) -> Result<Self> {
        let request = proto::AttachJobRequest { protocol_version: PROTOCOL_VERSION, job: job.to_owned() };
        Self::open(cluster, Request::Attach(request), false).await
    }

    async fn open(cluster: Arc<Cluster>, request: Request, frees_itself: bool) -> Result<Self> {
        let opened = match request.clone().send(&cluster).await {
            Err(status) if cluster.was_reached() && may_come_back(&status) => {
                reconnect(Arc::clone(&cluster), request.clone(), root_cause(&status)).await
            }
            Err(status) => return Err(error_of_call(cluster.name(), &status)),
            Ok(events) => Ok(events),
        };
        let events = opened.map_err(|broken| match broken {
            Broken::Said(status) => error_of_call(cluster.name(), &status),
            Broken::Gone(reason) => {
                let scheduler = cluster.name().to_owned();
                DataFusionError::from(ClientError::Unreachable { scheduler, reason })
            }
        })?;
        cluster.set_reached();
        let state = State::Open(Box::new(events));
        Ok(Self {
            cluster,
            request: Some(request),
            state,
            job: String::new(),
            is_over: false,
            frees_itself,
            writes: false,
            fruitless: 1,
        })
    }

    /// Events that cannot be had again.
    pub(crate) fn once(cluster: Arc<Cluster>, events: Events) -> Self {
        let state = State::Open(Box::new(events));
        let job = String::new();
        Self { cluster, request: None, state, job, is_over: true, frees_itself: true, writes: false, fruitless: 1 }
    }

    /// The job's result has to be given back: it writes, so that its end is kept until the client has heard of it.
    pub(crate) fn writes(mut self) -> Self {
        (self.frees_itself, self.writes) = (false, true);
        self
    }

    /// Leaves the job to itself: it goes on without this client.
    pub(crate) fn leave(mut self) {
        (self.is_over, self.frees_itself) = (true, true);
    }

    /// The next event; the end after the last one.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<proto::JobEvent, Broken>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Reconnecting(again) => match std::task::ready!(again.poll_unpin(cx)) {
                    Ok(events) => {
                        self.fruitless += 1;
                        self.state = State::Open(Box::new(events));
                    }
                    Err(broken) => {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(broken)));
                    }
                },
                State::Open(events) => {
                    let reason = match std::task::ready!(events.poll_next_unpin(cx)) {
                        // Of a job that is followed again it is known.
                        Some(Ok(proto::JobEvent { event: Some(Event::Schema(_)) })) if !self.job.is_empty() => continue,
                        Some(Ok(event)) => {
                            self.look_at(&event);
                            return Poll::Ready(Some(Ok(event)));
                        }
                        // What remains to be read is at the executors.
                        None | Some(Err(_)) if self.is_over && self.request.is_some() => {
                            self.state = State::Ended;
                            return Poll::Ready(None);
                        }
                        Some(Err(status)) if !may_come_back(&status) => {
                            self.state = State::Ended;
                            return Poll::Ready(Some(Err(Broken::Said(Box::new(status)))));
                        }
                        Some(Err(status)) => root_cause(&status),
                        None => "the stream of its events ended".to_owned(),
                    };
                    let Some(request) = self.request.clone() else {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(Broken::Gone(reason))));
                    };
                    if self.fruitless >= MAX_FRUITLESS {
                        self.state = State::Ended;
                        let reason = format!(
                            "{reason}; that happened {} times in a row before anything came of the query, which may be the \
                             cause of it",
                            self.fruitless
                        );
                        return Poll::Ready(Some(Err(Broken::Gone(reason))));
                    }
                    tracing::info!(scheduler = self.cluster.name(), job = self.job, reason, "connecting again");
                    self.state = State::Reconnecting(reconnect(Arc::clone(&self.cluster), request, reason).boxed());
                }
            }
        }
    }

    fn look_at(&mut self, event: &proto::JobEvent) {
        match &event.event {
            Some(Event::Accepted(accepted)) => {
                if accepted.resumed {
                    self.fruitless = 0;
                }
                self.job.clone_from(&accepted.job);
                // Whatever ended was another job, or comes again.
                self.is_over = self.request.is_none() && self.is_over;
                if let Some(Request::Execute(request)) = self.request.as_mut().filter(|_| self.writes) {
                    request.resume_only = true;
                }
            }
            Some(Event::Result(part)) if part.location.is_some() => self.frees_itself = false,
            Some(Event::Finished(_) | Event::Failed(_)) => self.is_over = true,
            Some(Event::Progress(progress)) if progress.tasks_done > 0 => self.fruitless = 0,
            _ => {}
        }
    }
}

impl Drop for JobCall {
    /// Tells the scheduler that nobody wants anything more of the job, unless it knows.
    fn drop(&mut self) {
        if self.is_over && self.frees_itself {
            return;
        }
        let is_attached = matches!(self.request, Some(Request::Attach(_)));
        if is_attached && !self.is_over {
            // Whoever attaches again finds it.
            return;
        }
        let key = match &mut self.request {
            Some(Request::Execute(request)) => std::mem::take(&mut request.key),
            Some(Request::Attach(_)) | None => String::new(),
        };
        let request = proto::CloseJobRequest { job: std::mem::take(&mut self.job), key };
        if request.job.is_empty() && request.key.is_empty() {
            return;
        }
        self.cluster.close_job(request);
    }
}

/// Sends the request again until it is taken, or the cluster's patience is over.
async fn reconnect(cluster: Arc<Cluster>, request: Request, mut reason: String) -> Result<Events, Broken> {
    let until = Instant::now() + cluster.patience();
    let mut pause = FIRST_PAUSE;
    while Instant::now() < until {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match request.clone().send(&cluster).await {
            Ok(events) => return Ok(events),
            Err(status) if may_come_back(&status) => reason = root_cause(&status),
            Err(status) => return Err(Broken::Said(Box::new(status))),
        }
    }
    Err(Broken::Gone(reason))
}

/// Whether this may be a broken connection or a scheduler that is not there for now. What a scheduler says has a class.
fn may_come_back(status: &Status) -> bool {
    let stops = status.code() == Code::Unavailable;
    let breaks = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded);
    stops || (breaks && from_status(status).is_none())
}
