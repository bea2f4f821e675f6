// SPDX-License-Identifier: Apache-2.0
//! What an application brings to all parts of a cluster: plan nodes with a codec of its own, and object stores.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use ballista::prelude::*;
use ballista::{ExecutorHandle, SchedulerHandle};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::object_store::memory::InMemory;
use datafusion::object_store::{ObjectStore, ObjectStoreExt};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures::StreamExt;
use tokio::net::TcpListener;
use url::Url;

use crate::common::{config, distributed, lines, rows};
use crate::pair::run;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]))
}

fn properties(partitions: usize) -> Arc<PlanProperties> {
    let equivalences = EquivalenceProperties::new(schema());
    let partitioning = Partitioning::UnknownPartitioning(partitions);
    Arc::new(PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded))
}

/// A leaf of the application: numbers, a range of them per partition.
#[derive(Debug)]
struct NumbersExec {
    ranges: Vec<Range<i64>>,
    properties: Arc<PlanProperties>,
}

impl NumbersExec {
    fn new(ranges: Vec<Range<i64>>) -> Self {
        Self { properties: properties(ranges.len()), ranges }
    }
}

/// An operator of the application: adds a number to each row.
#[derive(Debug)]
struct PlusExec {
    input: Arc<dyn ExecutionPlan>,
    summand: i64,
    properties: Arc<PlanProperties>,
}

impl PlusExec {
    fn new(input: Arc<dyn ExecutionPlan>, summand: i64) -> Self {
        Self { properties: properties(input.output_partitioning().partition_count()), input, summand }
    }
}

impl DisplayAs for NumbersExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NumbersExec: {:?}", self.ranges)
    }
}

impl DisplayAs for PlusExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlusExec: {}", self.summand)
    }
}

impl ExecutionPlan for NumbersExec {
    fn name(&self) -> &str {
        "NumbersExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let numbers = Int64Array::from_iter_values(self.ranges[partition].clone());
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(numbers)])?;
        Ok(Box::pin(MemoryStream::try_new(vec![batch], schema(), None)?))
    }
}

impl ExecutionPlan for PlusExec {
    fn name(&self) -> &str {
        "PlusExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.summand)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let summand = self.summand;
        let sums = self.input.execute(partition, context)?.map(move |batch| {
            let sums = batch?.column(0).as_primitive::<Int64Type>().unary::<_, Int64Type>(|x| x + summand);
            Ok(RecordBatch::try_new(schema(), vec![Arc::new(sums)])?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema(), sums)))
    }
}

/// A table that is scanned with both.
#[derive(Debug)]
struct Numbers {
    ranges: Vec<Range<i64>>,
    summand: i64,
}

#[async_trait]
impl TableProvider for Numbers {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = Arc::new(PlusExec::new(Arc::new(NumbersExec::new(self.ranges.clone())), self.summand));
        match projection {
            Some(columns) if columns.is_empty() => {
                Ok(Arc::new(ProjectionExec::try_new(Vec::<ProjectionExpr>::new(), plan)?))
            }
            _ => Ok(plan),
        }
    }
}

/// Numbers in little-endian order: the summand, or the ends of the ranges. Counts what it decodes.
#[derive(Debug, Default)]
struct NumbersCodec {
    decoded: AtomicUsize,
}

impl NumbersCodec {
    fn decoded(&self) -> usize {
        self.decoded.load(Ordering::Relaxed)
    }
}

impl PhysicalExtensionCodec for NumbersCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.decoded.fetch_add(1, Ordering::Relaxed);
        let (numbers, _) = bytes.as_chunks::<8>();
        let numbers: Vec<_> = numbers.iter().map(|number| i64::from_le_bytes(*number)).collect();
        Ok(match inputs {
            [] => Arc::new(NumbersExec::new(numbers.chunks(2).map(|ends| ends[0]..ends[1]).collect())),
            [input] => Arc::new(PlusExec::new(Arc::clone(input), numbers[0])),
            _ => return Err(internal_datafusion_err!("no node has two inputs")),
        })
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let numbers = if let Some(leaf) = node.downcast_ref::<NumbersExec>() {
            leaf.ranges.iter().flat_map(|range| [range.start, range.end]).collect()
        } else if let Some(plus) = node.downcast_ref::<PlusExec>() {
            vec![plus.summand]
        } else {
            return Err(internal_datafusion_err!("{} is not ours", node.name()));
        };
        bytes.extend(numbers.into_iter().flat_map(i64::to_le_bytes));
        Ok(())
    }
}

/// A scheduler and two executors over TCP.
struct Cluster {
    url: String,
    _scheduler: SchedulerHandle,
    _executors: Vec<ExecutorHandle>,
}

impl Cluster {
    async fn start(scheduler: SchedulerBuilder, executors: [ExecutorBuilder; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheduler = scheduler.build().unwrap().serve(listener).unwrap();
        let mut handles = vec![];
        for executor in executors {
            let executor = executor.with_slots(2).with_scheduler("127.0.0.1", port).start().await.unwrap();
            executor.registered().await.unwrap();
            handles.push(executor);
        }
        Self { url: format!("df://127.0.0.1:{port}"), _scheduler: scheduler, _executors: handles }
    }

    async fn session(&self, state: SessionState) -> SessionContext {
        SessionContext::remote_with_state(&self.url, state).await.unwrap()
    }
}

fn state(config: SessionConfig) -> SessionState {
    SessionStateBuilder::new().with_config(config).with_default_features().build()
}

fn with_codec(codec: &Arc<NumbersCodec>) -> SessionState {
    state(distributed(config()).with_ballista_physical_extension_codec(Arc::clone(codec) as _))
}

#[allow(clippy::single_range_in_vec_init)]
/// `four`: of four partitions; `one` and `other`: of one.
fn register(context: &SessionContext) {
    let tables =
        [("four", vec![0..10, 10..10, 10..500, 500..777], 5), ("one", vec![3..90], -1), ("other", vec![0..9], 2)];
    for (name, ranges, summand) in tables {
        context.register_table(name, Arc::new(Numbers { ranges, summand })).unwrap();
    }
}

/// Twice as many parts as there are executors, each a task's own.
const SPREAD: &str = "SELECT x % 3 AS k, count(*), sum(x) FROM (SELECT * FROM one UNION ALL SELECT * FROM other \
                      UNION ALL SELECT x + 1 FROM one UNION ALL SELECT x * 2 FROM other) GROUP BY k ORDER BY k";

const QUERIES: [&str; 6] = [
    SPREAD,
    "SELECT x FROM four ORDER BY x DESC LIMIT 7",
    "SELECT count(*) FROM four",
    "SELECT x % 7 AS k, sum(x) FROM four GROUP BY k ORDER BY k",
    "SELECT count(*), sum(one.x) FROM four JOIN one ON four.x = one.x WHERE four.x > 20",
    "SELECT x FROM other WHERE x > (SELECT min(x) FROM four) ORDER BY x",
];

/// The session gives the rows of plain DataFusion, with or without a job.
async fn check(context: &SessionContext, on_cluster: bool) {
    let plain = SessionContext::new_with_config(config());
    register(&plain);
    for sql in QUERIES {
        let (received, summary) = run(context, sql).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
        assert_eq!(lines(&received, true), rows(&plain, sql).await.unwrap(), "{sql}");
        assert_eq!(summary.is_some(), on_cluster, "{sql}");
    }
}

#[tokio::test]
async fn nodes_of_the_application_run_on_executors_that_have_its_codec() {
    let [client, scheduler, first, second] = [(); 4].map(|()| Arc::new(NumbersCodec::default()));
    let builder = SchedulerBuilder::new().physical_extension_codec(Arc::clone(&scheduler) as _);
    let executors = [&first, &second].map(|codec| ExecutorBuilder::new().with_physical_codec(Arc::clone(codec) as _));
    let cluster = Cluster::start(builder, executors).await;
    let context = cluster.session(with_codec(&client)).await;
    register(&context);
    let (_, summary) = run(&context, SPREAD).await.unwrap();
    let summary = summary.unwrap();
    assert!(summary.tasks > 2, "{summary:?}");
    let decoded = [&scheduler, &first, &second].map(|codec| codec.decoded());
    assert!(decoded.iter().all(|decoded| *decoded > 0), "{decoded:?}");
    check(&context, true).await;
    assert_eq!(client.decoded(), 0);
}

#[tokio::test]
async fn nodes_of_the_application_run_on_an_in_process_cluster_with_the_sessions_codec() {
    let codec = Arc::new(NumbersCodec::default());
    let context = SessionContext::standalone_with_state(with_codec(&codec)).await.unwrap();
    register(&context);
    check(&context, true).await;
    assert!(codec.decoded() > 0);
}

#[tokio::test]
async fn nodes_of_the_application_run_in_a_client_that_has_no_codec() {
    let cluster = Cluster::start(SchedulerBuilder::new(), [ExecutorBuilder::new(), ExecutorBuilder::new()]).await;
    for context in [
        cluster.session(state(distributed(config()))).await,
        SessionContext::standalone_with_state(state(distributed(config()))).await.unwrap(),
    ] {
        register(&context);
        check(&context, false).await;
        // What the cluster knows still goes there.
        assert!(run(&context, "SELECT 1").await.unwrap().1.is_some());
    }
}

#[tokio::test]
async fn a_cluster_without_the_codec_of_the_session_says_so() {
    let codec = Arc::new(NumbersCodec::default());
    let without = || [ExecutorBuilder::new(), ExecutorBuilder::new()];
    let scheduler = SchedulerBuilder::new().physical_extension_codec(Arc::clone(&codec) as _);
    for scheduler in [SchedulerBuilder::new(), scheduler] {
        let cluster = Cluster::start(scheduler, without()).await;
        let context = cluster.session(with_codec(&codec)).await;
        register(&context);
        let error = run(&context, SPREAD).await.unwrap_err().to_string();
        assert!(error.contains("PhysicalExtensionCodec is not provided"), "{error}");
        assert!(rows(&context, "SELECT 1").await.is_ok());
    }
}

/// Knows one store in memory, `mem://`, and counts how often it is asked for it.
#[derive(Debug)]
struct MemoryStores {
    store: Arc<dyn ObjectStore>,
    asked: AtomicUsize,
}

impl MemoryStores {
    fn new(store: &Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), asked: AtomicUsize::new(0) })
    }
}

impl ObjectStoreRegistry for MemoryStores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if url.scheme() != "mem" {
            return Err(DataFusionError::Execution(format!("no store for {url}")));
        }
        Ok(Arc::clone(&self.store))
    }
}

fn with_stores(stores: &Arc<MemoryStores>) -> SessionState {
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::clone(stores) as _).build_arc().unwrap();
    let builder = SessionStateBuilder::new().with_config(distributed(config())).with_runtime_env(runtime);
    builder.with_default_features().build()
}

/// A store with four CSV files.
async fn store() -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for number in 0..4 {
        let rows: String = (0..50).map(|row| format!("{},{number}\n", number * 50 + row)).collect();
        store.put(&format!("t/{number}.csv").into(), format!("x,f\n{rows}").into()).await.unwrap();
    }
    Arc::new(store)
}

/// Reads the files, writes others and reads them.
async fn check_store(context: &SessionContext) {
    rows(context, "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'mem://bucket/t/'").await.unwrap();
    let sql = "SELECT f, count(*) AS c, sum(x) AS s FROM t GROUP BY f ORDER BY f";
    let (received, summary) = run(context, sql).await.unwrap();
    let summary = summary.unwrap();
    assert!(summary.tasks > 2, "{summary:?}");
    let expected = "SELECT f, 50 AS c, f * 2500 + 1225 AS s FROM generate_series(0, 3) AS g(f) ORDER BY f";
    let expected = rows(&SessionContext::new(), expected).await.unwrap();
    assert_eq!(lines(&received, true), expected);
    let (_, summary) = run(context, "COPY t TO 'mem://bucket/copy/' STORED AS PARQUET").await.unwrap();
    assert!(summary.is_some());
    rows(context, "CREATE EXTERNAL TABLE copied STORED AS PARQUET LOCATION 'mem://bucket/copy/'").await.unwrap();
    assert_eq!(rows(context, &sql.replace("FROM t", "FROM copied")).await.unwrap(), expected);
}

#[tokio::test]
async fn executors_read_and_write_stores_of_the_applications_registry() {
    let store = store().await;
    let [client, scheduler, first, second] = [(); 4].map(|()| MemoryStores::new(&store));
    let builder = SchedulerBuilder::new().session_state(with_stores(&scheduler));
    let executors =
        [&first, &second].map(|stores| ExecutorBuilder::new().with_object_store_registry(Arc::clone(stores) as _));
    let cluster = Cluster::start(builder, executors).await;
    check_store(&cluster.session(with_stores(&client)).await).await;
    let asked = [&first, &second].map(|stores| stores.asked.load(Ordering::Relaxed));
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
}

#[tokio::test]
async fn a_store_that_executors_do_not_know_is_named() {
    let stores = MemoryStores::new(&store().await);
    let cluster = Cluster::start(SchedulerBuilder::new(), [ExecutorBuilder::new(), ExecutorBuilder::new()]).await;
    let context = cluster.session(with_stores(&stores)).await;
    rows(&context, "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'mem://bucket/t/'").await.unwrap();
    let error = rows(&context, "SELECT sum(x) FROM t").await.unwrap_err().to_string();
    assert!(error.contains("mem://bucket"), "{error}");
}

#[tokio::test]
async fn an_in_process_cluster_reads_and_writes_stores_that_are_registered_later() {
    let context = SessionContext::standalone_with_state(state(distributed(config()))).await.unwrap();
    context.register_object_store(&Url::parse("mem://bucket").unwrap(), store().await);
    check_store(&context).await;
}
