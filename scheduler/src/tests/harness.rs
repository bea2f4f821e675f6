// SPDX-License-Identifier: Apache-2.0
//! A scheduler on an in-memory transport, scripted planners, and executors that do what a test says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::{ExecutorId, Incarnation, PROTOCOL_VERSION, StageId};
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use proto::executor_message::Message as FromExecutor;
use proto::job_event::Event;
use proto::scheduler_message::Message as ToExecutor;
use proto::scheduler_service_client::SchedulerServiceClient;
use proto::task_status::Status as Outcome;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use crate::planner::{PlanRequest, Planner, PlannerFactory};
use crate::planning::job::{ClusterShape, PlanStep, PlannedSlicing, PlannedStage, StageResult};
use crate::shell::Shell;
use crate::shell::message::Message;
use crate::{SchedulerBuilder, SchedulerHandle};

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it did not happen")
}

/// Plans by the words of the "plan":
///
/// * `final N [ordered]`: one stage with N partitions.
/// * `shuffle N`: a stage with N partitions, and one that reads it; `shuffle N panic` panics in between.
/// * `panic`, `error`: what it says.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// What planners were told of finished stages.
    pub(super) results: Mutex<Vec<StageResult>>,
    /// What plans look like.
    display: String,
}

struct Scripted {
    words: Vec<String>,
    script: Arc<Script>,
}

#[derive(Debug)]
struct ScriptedPlanners(Arc<Script>);

impl PlannerFactory for ScriptedPlanners {
    fn planner(&self, request: &PlanRequest, _: ClusterShape) -> Result<Box<dyn Planner>> {
        let text = String::from_utf8_lossy(&request.plan);
        let words = text.split(' ').map(str::to_owned).collect();
        Ok(Box::new(Scripted { words, script: Arc::clone(&self.0) }))
    }
}

impl Scripted {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    fn stage(&self, stage: u32, partitions: u32, inputs: Vec<StageId>, is_final: bool) -> PlannedStage {
        PlannedStage {
            stage: StageId(stage),
            plan: Bytes::from(vec![stage as u8 + 1; 5 << 18]),
            display: format!("ScriptedExec{}\n", self.script.display),
            output: String::new(),
            partitions,
            slicing: PlannedSlicing::PerSlot { max_partitions: 2 },
            inputs,
            row_limit: None,
            is_final,
            commits: self.has("commits"),
            ordered: self.has("ordered"),
            deterministic: true,
        }
    }
}

impl Planner for Scripted {
    fn start(&mut self) -> Result<PlanStep> {
        let partitions = self.words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1);
        match self.words[0].as_str() {
            "final" => Ok(PlanStep {
                stages: vec![self.stage(0, partitions, vec![], true)],
                small: true,
                one_task: true,
                complete: true,
                ..PlanStep::default()
            }),
            "shuffle" => Ok(PlanStep { stages: vec![self.stage(0, partitions, vec![], false)], ..PlanStep::default() }),
            "panic" => panic!("scripted panic"),
            _ => Err(DataFusionError::Plan("scripted error".into())),
        }
    }

    fn stage_finished(&mut self, stage: StageId, result: StageResult) -> Result<PlanStep> {
        assert!(!self.has("panic"), "scripted panic");
        self.script.results.lock().push(result);
        Ok(PlanStep {
            stages: vec![self.stage(stage.0 + 1, 1, vec![stage], true)],
            complete: true,
            notes: vec![format!("stage {stage} was larger than expected")],
            ..PlanStep::default()
        })
    }

    fn spread(&mut self) -> Result<PlanStep> {
        Ok(PlanStep { stages: vec![self.stage(1, 2, vec![], false)], ..PlanStep::default() })
    }
}

/// A scheduler that is reached in memory.
pub(super) struct Cluster {
    pub(super) serving: SchedulerHandle,
    pub(super) script: Arc<Script>,
    connect: mpsc::UnboundedSender<DuplexStream>,
}

impl Cluster {
    pub(super) fn start() -> Self {
        Self::start_with(SchedulerBuilder::new())
    }

    pub(super) fn start_with(builder: SchedulerBuilder) -> Self {
        Self::start_with_script(builder, "")
    }

    /// Plans look like `display`.
    pub(super) fn start_with_script(builder: SchedulerBuilder, display: &str) -> Self {
        let script = Arc::new(Script { display: display.to_owned(), ..Script::default() });
        let scheduler = builder.build_with(Arc::new(ScriptedPlanners(Arc::clone(&script)))).unwrap();
        let (connect, incoming) = mpsc::unbounded_channel();
        let incoming = tokio_stream::StreamExt::map(UnboundedReceiverStream::new(incoming), Ok::<_, Infallible>);
        Self { serving: scheduler.serve_with_incoming(incoming), script, connect }
    }

    /// A connection of its own.
    pub(super) async fn client(&self) -> SchedulerServiceClient<Channel> {
        let connect = self.connect.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let sent = connect.send(theirs);
            async move { sent.map(|()| TokioIo::new(ours)).map_err(|_| std::io::Error::other("closed")) }
        });
        let channel = Endpoint::from_static("http://memory").connect_with_connector(connector).await.unwrap();
        SchedulerServiceClient::new(channel).max_decoding_message_size(usize::MAX)
    }

    pub(super) async fn executor(&self, name: &str, slots: u32) -> Executor {
        self.register(registration(name, slots)).await.unwrap()
    }

    pub(super) async fn register(&self, register: proto::Register) -> Result<Executor, Status> {
        let mut client = self.client().await;
        let address = register.address.clone().unwrap_or_default();
        let (outgoing, queue) = mpsc::channel(4096);
        let say = |message| proto::ExecutorMessage { message: Some(message) };
        outgoing.send(say(FromExecutor::Register(register))).await.unwrap();
        let incoming = client.session(ReceiverStream::new(queue)).await?.into_inner();
        let mut executor = Executor { client, outgoing, incoming, address, sequence: 0, welcome: None };
        if let Some(ToExecutor::Welcome(welcome)) = executor.next().await {
            executor.welcome = Some(welcome);
        }
        Ok(executor)
    }

    pub(super) async fn submit(&self, plan: &str) -> Query {
        let stream = self.client().await.execute(request(plan)).await.unwrap().into_inner();
        Query::open(stream).await
    }

    /// Runs something with the shell at hand.
    pub(super) async fn inspect<T: Send + 'static>(&self, look: impl FnOnce(&Shell) -> T + Send + 'static) -> T {
        let (reply, answer) = oneshot::channel();
        let look = Box::new(move |shell: &Shell| drop(reply.send(look(shell))));
        self.serving.scheduler().handle.send(Message::Inspect { job: None, look }).await.unwrap();
        soon(answer).await.unwrap()
    }

    /// Waits until nothing is kept for any job.
    pub(super) async fn is_empty(&self) {
        soon(async {
            while self.inspect(Shell::leftovers).await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

pub(super) fn request(plan: &str) -> proto::ExecuteRequest {
    let name = proto::Setting { key: "ballista.job.name".into(), value: plan.into() };
    proto::ExecuteRequest {
        protocol_version: PROTOCOL_VERSION,
        datafusion_version: datafusion::DATAFUSION_VERSION.into(),
        session_id: "session".into(),
        plan: Bytes::copy_from_slice(plan.as_bytes()),
        settings: vec![name],
        analyze: false,
        keep: false,
        stores: vec![],
        ..Default::default()
    }
}

pub(super) fn registration(name: &str, slots: u32) -> proto::Register {
    proto::Register {
        protocol_version: PROTOCOL_VERSION,
        datafusion_version: datafusion::DATAFUSION_VERSION.into(),
        hash_fingerprint: 42,
        address: Some(proto::ExecutorAddress {
            executor: ExecutorId::new(name).unwrap().to_string(),
            incarnation: Incarnation::random().0,
            host: "localhost".into(),
            port: 1,
        }),
        slots,
        memory_bytes: 1 << 30,
        held: vec![],
        jobs: Vec::new(),
    }
}

/// A client's view of its query.
pub(super) struct Query {
    pub(super) job: String,
    stream: Streaming<proto::JobEvent>,
}

impl Query {
    pub(super) async fn open(mut stream: Streaming<proto::JobEvent>) -> Self {
        match soon(stream.message()).await.unwrap().unwrap().event.unwrap() {
            Event::Accepted(accepted) => Self { job: accepted.job, stream },
            other => panic!("{other:?} before the job was accepted"),
        }
    }

    /// The next event that is not progress; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            match soon(self.stream.message()).await.unwrap()?.event.unwrap() {
                Event::Progress(_) => {}
                event => return Some(event),
            }
        }
    }

    pub(super) async fn progress(&mut self) -> proto::JobProgress {
        match soon(self.stream.message()).await.unwrap().unwrap().event.unwrap() {
            Event::Progress(progress) => progress,
            other => panic!("{other:?} instead of progress"),
        }
    }

    pub(super) async fn part(&mut self) -> proto::ResultPart {
        match self.next().await {
            Some(Event::Result(part)) => part,
            other => panic!("{other:?} instead of a part of the result"),
        }
    }

    pub(super) async fn finished(&mut self) -> proto::JobFinished {
        match self.next().await {
            Some(Event::Finished(finished)) => finished,
            other => panic!("{other:?} instead of the end"),
        }
    }

    pub(super) async fn failed(&mut self) -> proto::Failure {
        match self.next().await {
            Some(Event::Failed(failure)) => failure,
            other => panic!("{other:?} instead of a failure"),
        }
    }

    /// Nothing but progress comes for a while.
    pub(super) async fn is_quiet(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(50), self.next()).await;
        assert!(next.is_err(), "{next:?}");
    }
}

/// An executor that does what the test says.
pub(super) struct Executor {
    pub(super) client: SchedulerServiceClient<Channel>,
    pub(super) outgoing: mpsc::Sender<proto::ExecutorMessage>,
    pub(super) address: proto::ExecutorAddress,
    pub(super) sequence: u64,
    pub(super) welcome: Option<proto::Welcome>,
    incoming: Streaming<proto::SchedulerMessage>,
}

impl Executor {
    /// The next message that asks for something; `None` at the end of the session.
    pub(super) async fn next(&mut self) -> Option<ToExecutor> {
        loop {
            match soon(self.incoming.message()).await.ok()??.message? {
                ToExecutor::Ack(_) | ToExecutor::ReleaseStage(_) | ToExecutor::PeerLost(_) => {}
                message => return Some(message),
            }
        }
    }

    pub(super) async fn ack(&mut self) -> u64 {
        match soon(self.incoming.message()).await.unwrap().unwrap().message.unwrap() {
            ToExecutor::Ack(ack) => ack.sequence,
            other => panic!("{other:?} instead of an acknowledgement"),
        }
    }

    pub(super) async fn launch(&mut self) -> proto::Launch {
        match self.next().await {
            Some(ToExecutor::Launch(launch)) => launch,
            other => panic!("{other:?} instead of a launch"),
        }
    }

    pub(super) async fn cancelled(&mut self) -> proto::TaskKey {
        match self.next().await {
            Some(ToExecutor::Cancel(cancel)) => cancel.task.unwrap(),
            other => panic!("{other:?} instead of a cancellation"),
        }
    }

    /// The job that is freed next; frees of stages are passed over.
    pub(super) async fn freed(&mut self) -> String {
        loop {
            match self.next().await {
                Some(ToExecutor::FreeStage(_)) => {}
                Some(ToExecutor::FreeJob(free)) => return free.job,
                other => panic!("{other:?} instead of a freed job"),
            }
        }
    }

    pub(super) async fn fenced(&mut self) {
        let message = self.next().await;
        assert!(matches!(message, Some(ToExecutor::Fenced(_))), "{message:?} instead of a fence");
        assert_eq!(self.next().await, None);
    }

    pub(super) async fn say(&self, message: FromExecutor) {
        self.outgoing.send(proto::ExecutorMessage { message: Some(message) }).await.unwrap();
    }

    pub(super) async fn status(&mut self, task: &proto::TaskKey, status: Outcome) {
        self.sequence += 1;
        self.repeat_status(task, status).await;
    }

    /// Says it again with the same number.
    pub(super) async fn repeat_status(&self, task: &proto::TaskKey, status: Outcome) {
        let status = proto::TaskStatus { sequence: self.sequence, task: Some(task.clone()), status: Some(status) };
        self.say(FromExecutor::Status(status)).await;
    }

    pub(super) async fn finish(&mut self, task: &proto::TaskKey, output: proto::TaskOutput) {
        self.status(task, Outcome::Finished(output)).await;
    }

    pub(super) async fn fail(&mut self, task: &proto::TaskKey, class: ballista_core::ErrorClass) {
        let failure = proto::Failure { class: class.code(), message: "scripted failure".into(), input: None };
        self.status(task, Outcome::Failed(failure)).await;
    }

    /// Finishes every task with `output` at once, from now on; gives back how often.
    pub(super) fn obey(mut self, output: proto::TaskOutput) -> tokio::task::JoinHandle<usize> {
        tokio::spawn(async move {
            let mut finished = 0;
            while let Ok(Some(message)) = self.incoming.message().await {
                if let Some(ToExecutor::Launch(launch)) = message.message {
                    finished += 1;
                    self.finish(&launch.task.unwrap(), output.clone()).await;
                }
            }
            finished
        })
    }
}

/// The output of a task of the final stage, small.
pub(super) fn inline(rows: &'static [u8]) -> proto::TaskOutput {
    proto::TaskOutput { rows: 1, inline: Bytes::from_static(rows), is_inline: true, ..Default::default() }
}

/// The output of a task that writes buckets with so many rows.
pub(super) fn buckets(rows: &[u64]) -> proto::TaskOutput {
    proto::TaskOutput {
        bucket_rows: rows.to_vec(),
        bucket_bytes: rows.iter().map(|rows| rows * 8).collect(),
        rows: rows.iter().sum(),
        bytes: rows.iter().sum::<u64>() * 8,
        ..Default::default()
    }
}
