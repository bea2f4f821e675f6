// SPDX-License-Identifier: Apache-2.0
//! A scheduler without a mind of its own: it welcomes executors, hands out plans, and reports what it hears.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use ballista_core::PROTOCOL_VERSION;
use ballista_exchange::TicketKey;
use ballista_proto as proto;
use futures::Stream;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use proto::executor_message::Message as Up;
use proto::scheduler_message::Message as Down;
use proto::scheduler_service_server::SchedulerService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What an executor said.
#[derive(Debug)]
pub enum Heard {
    Registered(proto::Register),
    Status(proto::TaskStatus),
    Heartbeat(proto::Heartbeat),
    Draining,
}

type Session = mpsc::UnboundedSender<Result<proto::SchedulerMessage, Status>>;
type Reply<T> = Result<Response<T>, Status>;
type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct FakeScheduler {
    pub key: TicketKey,
    pub plans: Arc<Mutex<HashMap<(String, u32), Bytes>>>,
    pub plan_requests: Arc<AtomicUsize>,
    pub acknowledge: Arc<AtomicBool>,
    pub refuse: Arc<AtomicBool>,
    /// 0: it does not say.
    pub protocol_version: Arc<AtomicU32>,
    sessions: Arc<Mutex<HashMap<String, Session>>>,
    heard: mpsc::UnboundedSender<(String, Heard)>,
}

impl FakeScheduler {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<(String, Heard)>) {
        let (heard, ears) = mpsc::unbounded_channel();
        let scheduler = Self {
            key: TicketKey::random(),
            plans: Arc::default(),
            plan_requests: Arc::default(),
            acknowledge: Arc::new(AtomicBool::new(true)),
            refuse: Arc::default(),
            protocol_version: Arc::new(AtomicU32::new(PROTOCOL_VERSION)),
            sessions: Arc::default(),
            heard,
        };
        (scheduler, ears)
    }

    pub fn tell(&self, executor: &str, message: Down) {
        let message = proto::SchedulerMessage { message: Some(message) };
        self.sessions.lock()[executor].send(Ok(message)).unwrap();
    }

    /// Ends the executor's session with an error, as a broken connection would.
    pub fn disconnect(&self, executor: &str) {
        let session = self.sessions.lock().remove(executor).unwrap();
        session.send(Err(Status::unavailable("disconnected by the test"))).unwrap();
    }
}

#[tonic::async_trait]
impl SchedulerService for FakeScheduler {
    type ExecuteStream = ReplyStream<proto::JobEvent>;
    type ExecuteStatementStream = ReplyStream<proto::JobEvent>;
    type AttachJobStream = ReplyStream<proto::JobEvent>;
    type GetStagePlanStream = ReplyStream<proto::StagePlanChunk>;
    type SessionStream = ReplyStream<proto::SchedulerMessage>;

    async fn execute(&self, _: Request<proto::ExecuteRequest>) -> Reply<Self::ExecuteStream> {
        Err(Status::unimplemented(""))
    }

    async fn attach_job(&self, _: Request<proto::AttachJobRequest>) -> Reply<Self::AttachJobStream> {
        Err(Status::unimplemented(""))
    }

    async fn close_job(&self, _: Request<proto::CloseJobRequest>) -> Reply<proto::CloseJobResponse> {
        Err(Status::unimplemented(""))
    }

    async fn explain_plan(&self, _: Request<proto::ExplainPlanRequest>) -> Reply<proto::ExplainPlanResponse> {
        Err(Status::unimplemented(""))
    }

    async fn open_session(&self, _: Request<proto::OpenSessionRequest>) -> Reply<proto::OpenSessionResponse> {
        Err(Status::unimplemented(""))
    }

    async fn execute_statement(
        &self,
        _: Request<proto::ExecuteStatementRequest>,
    ) -> Reply<Self::ExecuteStatementStream> {
        Err(Status::unimplemented(""))
    }

    async fn close_session(&self, _: Request<proto::CloseSessionRequest>) -> Reply<proto::CloseSessionResponse> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_job(&self, _: Request<proto::CancelJobRequest>) -> Reply<proto::CancelJobResponse> {
        Err(Status::unimplemented(""))
    }

    async fn report_part(&self, _: Request<proto::ReportPartRequest>) -> Reply<proto::ReportPartResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_cluster(&self, _: Request<proto::GetClusterRequest>) -> Reply<proto::GetClusterResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_stage_plan(&self, request: Request<proto::GetStagePlanRequest>) -> Reply<Self::GetStagePlanStream> {
        self.plan_requests.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        let plan = self.plans.lock().get(&(request.job, request.stage)).cloned();
        let plan = plan.ok_or_else(|| Status::not_found("no such stage"))?;
        // In pieces, as a large one would come.
        let chunks: Vec<_> =
            plan.chunks(100).map(|chunk| Ok(proto::StagePlanChunk { data: Bytes::copy_from_slice(chunk) })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn session(&self, request: Request<Streaming<proto::ExecutorMessage>>) -> Reply<Self::SessionStream> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(Status::failed_precondition("another version of DataFusion"));
        }
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|message| message.message);
        let Some(Up::Register(register)) = first else { return Err(Status::invalid_argument("register first")) };
        let name = register.address.clone().unwrap().executor;
        let (session, outgoing) = mpsc::unbounded_channel();
        let welcome = proto::Welcome {
            scheduler_epoch: 1,
            heartbeat_millis: 50,
            lease_millis: 1000,
            ticket_key: Bytes::copy_from_slice(self.key.expose()),
            protocol_version: self.protocol_version.load(Ordering::Relaxed),
        };
        session.send(Ok(proto::SchedulerMessage { message: Some(Down::Welcome(welcome)) })).unwrap();
        self.sessions.lock().insert(name.clone(), session.clone());
        let _ = self.heard.send((name.clone(), Heard::Registered(register)));
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let heard = match message.message.unwrap() {
                    Up::Status(status) => {
                        if this.acknowledge.load(Ordering::Relaxed) {
                            let ack = proto::StatusAck { sequence: status.sequence };
                            let _ = session.send(Ok(proto::SchedulerMessage { message: Some(Down::Ack(ack)) }));
                        }
                        Heard::Status(status)
                    }
                    Up::Heartbeat(heartbeat) => Heard::Heartbeat(heartbeat),
                    Up::Draining(_) => Heard::Draining,
                    Up::Register(_) => panic!("registered twice on one session"),
                };
                let _ = this.heard.send((name.clone(), heard));
            }
            let mut sessions = this.sessions.lock();
            if sessions.get(&name).is_some_and(|current| current.same_channel(&session)) {
                sessions.remove(&name);
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}
