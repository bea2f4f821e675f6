// SPDX-License-Identifier: Apache-2.0
//! A cluster in this process, and the steps that tests take on it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::{ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey};
use ballista_exchange::wire::task_key_to_proto;
use ballista_exchange::{Connector, ExecutorAddress, InputSource, LocalConnector, StageInputs, Ticket, read_result};
use ballista_executor::{ExecutorBuilder, ExecutorHandle, Size};
use ballista_plan::codec::{PlanCodec, decode_batches};
use ballista_plan::stage::{StageOutput, StagePlan};
use ballista_proto as proto;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use proto::scheduler_message::Message as Down;
use proto::scheduler_service_server::SchedulerServiceServer;
use proto::task_status::Status as TaskStatus;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::plans::session_state;
use crate::scheduler::{FakeScheduler, Heard};

pub const JOB: &str = "job";
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub scheduler: FakeScheduler,
    pub executors: BTreeMap<String, ExecutorHandle>,
    pub settings: Vec<proto::Setting>,
    /// Launches ask for the metrics of operators.
    pub metrics: bool,
    ears: mpsc::UnboundedReceiver<(String, Heard)>,
    /// Heard while listening to somebody else.
    kept: VecDeque<(String, Heard)>,
    pub connector: LocalConnector,
}

/// A finished task, and where its output lies.
#[derive(Debug, Clone)]
pub struct Done {
    pub address: ExecutorAddress,
    pub key: TaskKey,
    pub output: proto::TaskOutput,
}

impl Cluster {
    /// A scheduler, and executors that have registered.
    pub async fn start(names: &[&str]) -> Self {
        let mut cluster = Self::empty().await;
        for name in names {
            let builder = cluster.builder(name).await;
            cluster.add(name, builder).await;
        }
        cluster
    }

    /// One more executor.
    pub async fn add(&mut self, name: &str, builder: ExecutorBuilder) {
        let handle = builder.start().await.unwrap();
        handle.registered().await.unwrap();
        let heard = self.hear(name, |heard| matches!(heard, Heard::Registered(_)).then_some(())).await;
        assert_eq!(heard, ());
        self.executors.insert(name.to_owned(), handle);
    }

    /// A scheduler without executors.
    pub async fn empty() -> Self {
        let (scheduler, ears) = FakeScheduler::new();
        let connector = LocalConnector::new();
        let incoming = connector.listen("scheduler", 1);
        let service = SchedulerServiceServer::new(scheduler.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let (executors, kept) = (BTreeMap::new(), VecDeque::new());
        Self { scheduler, executors, settings: vec![], metrics: false, ears, kept, connector }
    }

    pub async fn builder(&self, name: &str) -> ExecutorBuilder {
        ExecutorBuilder::new()
            .with_id(ExecutorId::new(name).unwrap())
            .with_slots(2)
            .with_memory(Size::Bytes(256 << 20))
            .with_session_state(session_state())
            .with_local_connector(self.connector.clone())
            .with_scheduler_channel(self.channel("scheduler").await)
    }

    async fn channel(&self, host: &str) -> Channel {
        let executor = ExecutorId::new("any").unwrap();
        let address = ExecutorAddress { executor, incarnation: Incarnation(0), host: host.to_owned(), port: 1 };
        self.connector.connect(&address).await.unwrap()
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push(proto::Setting { key: key.to_owned(), value: value.to_owned() });
    }

    /// Makes a stage known.
    pub fn plan(&self, stage: u32, plan: Arc<dyn ExecutionPlan>, output: StageOutput) {
        let bytes = PlanCodec::default().encode_stage(&StagePlan { plan, output }).unwrap();
        self.scheduler.plans.lock().insert((JOB.to_owned(), stage), bytes);
    }

    pub fn launch(&self, executor: &str, stage: u32, task: u32, partitions: &[u32], inputs: &[StageInputs]) -> TaskKey {
        let key = key(stage, task);
        let launch = proto::Launch {
            task: Some(task_key_to_proto(&key)),
            partitions: partitions.to_vec(),
            settings: self.settings.clone(),
            session_id: "session".to_owned(),
            inputs: inputs.iter().map(StageInputs::to_proto).collect(),
            is_final: false,
            metrics: self.metrics,
            stores: vec![],
            slots: 1,
        };
        self.scheduler.tell(executor, Down::Launch(launch));
        key
    }

    pub fn cancel(&self, executor: &str, key: &TaskKey) {
        self.scheduler.tell(executor, Down::Cancel(proto::CancelTask { task: Some(task_key_to_proto(key)) }));
    }

    pub fn free_job(&self, executor: &str) {
        self.scheduler.tell(executor, Down::FreeJob(proto::FreeJob { job: JOB.to_owned() }));
    }

    /// Waits for something that `executor` says; drops what that one said before.
    pub async fn hear<T>(&mut self, executor: &str, mut pick: impl FnMut(Heard) -> Option<T>) -> T {
        let mut found = None;
        for (name, heard) in std::mem::take(&mut self.kept) {
            if found.is_some() || name != executor {
                self.kept.push_back((name, heard));
            } else {
                found = pick(heard);
            }
        }
        if let Some(found) = found {
            return found;
        }
        let waiting = async {
            loop {
                let (name, heard) = self.ears.recv().await.expect("the scheduler is alive");
                if name != executor {
                    self.kept.push_back((name, heard));
                } else if let Some(found) = pick(heard) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the executor said nothing of the kind")
    }

    /// The next status of a task, with its number.
    pub async fn status(&mut self, executor: &str, key: &TaskKey) -> (u64, TaskStatus) {
        let key = task_key_to_proto(key);
        self.hear(executor, |heard| match heard {
            Heard::Status(status) if status.task.as_ref() == Some(&key) => {
                Some((status.sequence, status.status.unwrap()))
            }
            _ => None,
        })
        .await
    }

    /// The output of a task that must succeed.
    pub async fn finished(&mut self, executor: &str, key: &TaskKey) -> Done {
        let address = self.executors[executor].address();
        match self.status(executor, key).await.1 {
            TaskStatus::Finished(output) => Done { address, key: key.clone(), output },
            other => panic!("expected {key} to finish, got {other:?}"),
        }
    }

    /// The class and text of a task that must fail.
    pub async fn failed(&mut self, executor: &str, key: &TaskKey) -> (ErrorClass, String) {
        match self.status(executor, key).await.1 {
            TaskStatus::Failed(failure) => (ErrorClass::from_code(failure.class), failure.message),
            other => panic!("expected {key} to fail, got {other:?}"),
        }
    }

    /// Launches a task and waits for its success.
    pub async fn run(&mut self, on: &str, stage: u32, task: u32, partitions: &[u32], inputs: &[StageInputs]) -> Done {
        let key = self.launch(on, stage, task, partitions, inputs);
        self.finished(on, &key).await
    }

    /// Waits until a heartbeat says that nothing is held.
    pub async fn holds_nothing(&mut self, executor: &str) {
        self.hear(executor, |heard| match heard {
            Heard::Heartbeat(beat) if beat.store_bytes + beat.disk_used + beat.memory_used == 0 => Some(()),
            _ => None,
        })
        .await;
    }

    /// The rows that a task streams.
    pub async fn read(&self, executor: &str, key: &TaskKey, schema: SchemaRef) -> ballista_exchange::BatchStream {
        let address = self.executors[executor].address();
        let ticket = self.scheduler.key.sign(&Ticket::result(address.incarnation, key.clone()).to_proto());
        read_result(self.channel(&address.host).await, ticket, schema)
    }

    pub fn plan_requests(&self) -> usize {
        self.scheduler.plan_requests.load(Ordering::Relaxed)
    }
}

pub fn key(stage: u32, task: u32) -> TaskKey {
    TaskKey { job: JobId::new(JOB).unwrap(), stage: StageId(stage), stage_attempt: 0, task: TaskId(task), attempt: 0 }
}

/// What a consumer of these outputs is told.
pub fn inputs(stage: u32, done: &[Done]) -> StageInputs {
    let mut sources: Vec<InputSource> = Vec::new();
    for done in done {
        let rows = &done.output.bucket_rows;
        match sources.iter_mut().find(|source| source.address == done.address) {
            Some(source) => {
                source.outputs.push(done.key.clone());
                source.bucket_rows.iter_mut().zip(rows).for_each(|(sum, rows)| *sum += rows);
            }
            None => sources.push(InputSource {
                address: done.address.clone(),
                outputs: vec![done.key.clone()],
                bucket_rows: rows.clone(),
            }),
        }
    }
    StageInputs { stage: StageId(stage), sources }
}

/// The rows of an inline result.
pub fn inline(done: &Done) -> Vec<RecordBatch> {
    assert!(done.output.is_inline);
    decode_batches(&done.output.inline).unwrap()
}

pub async fn collect(stream: ballista_exchange::BatchStream) -> ballista_exchange::error::Result<Vec<RecordBatch>> {
    tokio::time::timeout(PATIENCE, stream.try_collect()).await.expect("a result that ends")
}
