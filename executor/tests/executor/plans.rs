// SPDX-License-Identifier: Apache-2.0
//! Data, plans and functions of the tests.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use ballista_core::StageId;
use ballista_plan::reader::{ExchangeStatistics, ShuffleReaderExec};
use ballista_plan::stage::{OutputPartitioning, StageOutput};
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// `id`: a number; `name`: its text, too long to be kept in a view.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8View, false)]))
}

pub fn batch(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids = Int64Array::from_iter_values(ids);
    let names = StringViewArray::from_iter_values(ids.values().iter().map(|id| format!("the name of number {id}")));
    RecordBatch::try_new(schema(), vec![Arc::new(ids) as ArrayRef, Arc::new(names)]).unwrap()
}

/// A scan of these numbers, one partition per range, in batches of `batch_rows`.
pub fn scan(ranges: &[Range<i64>], batch_rows: usize) -> Arc<dyn ExecutionPlan> {
    let partition = |range: &Range<i64>| {
        let ids: Vec<i64> = range.clone().collect();
        ids.chunks(batch_rows).map(|chunk| batch(chunk.iter().copied())).collect()
    };
    let partitions: Vec<Vec<RecordBatch>> = ranges.iter().map(partition).collect();
    MemorySourceConfig::try_new_exec(&partitions, schema(), None).unwrap()
}

/// `function(id), name` over a plan of the same schema.
pub fn call(function: &str, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let schema = input.schema();
    let udf = functions().into_iter().find(|udf| udf.name() == function).unwrap();
    let arguments = vec![col("id", &schema).unwrap()];
    let options = Arc::new(ConfigOptions::default());
    let call = ScalarFunctionExpr::try_new(Arc::new(udf), arguments, &schema, options).unwrap();
    let call: Arc<dyn PhysicalExpr> = Arc::new(call);
    let columns = [
        ProjectionExpr { expr: call, alias: "id".to_owned() },
        ProjectionExpr { expr: col("name", &schema).unwrap(), alias: "name".to_owned() },
    ];
    Arc::new(ProjectionExec::try_new(columns, input).unwrap())
}

pub fn reader(stage: u32, ranges: &[Range<u32>]) -> ShuffleReaderExec {
    let statistics = ExchangeStatistics { rows: None, bytes: None, exact: false };
    ShuffleReaderExec::new(StageId(stage), schema(), ranges.to_vec(), statistics)
}

pub fn by_id() -> LexOrdering {
    let key = PhysicalSortExpr::new(col("id", &schema()).unwrap(), SortOptions::default());
    LexOrdering::new([key]).unwrap()
}

pub fn exchange(partitioning: OutputPartitioning) -> StageOutput {
    StageOutput::Exchange { partitioning, sample: vec![] }
}

pub fn hash(buckets: usize) -> StageOutput {
    exchange(OutputPartitioning::Hash { keys: vec![col("id", &schema()).unwrap()], buckets })
}

pub fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    ids.collect()
}

pub fn sorted(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable();
    ids
}

/// Rows that went through `counted`, in all tests of this process.
pub static COUNTED: AtomicU64 = AtomicU64::new(0);

/// `endless` computes until this is over, and says when it has begun.
pub static ENDLESS: AtomicBool = AtomicBool::new(true);
pub static IN_ENDLESS: AtomicBool = AtomicBool::new(false);

/// `slow` sleeps 20 ms per batch, `endless` waits, `boom` panics, the first two give back their argument; `counted` counts rows and gives numbers
/// that nothing compresses.
fn functions() -> Vec<ScalarUDF> {
    let function = |name: &str, body: fn(&ArrayRef) -> ArrayRef| {
        let body = move |arguments: &[ColumnarValue]| {
            let argument = arguments[0].to_array(1)?;
            Ok(ColumnarValue::Array(body(&argument)))
        };
        create_udf(name, vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(body))
    };
    vec![
        function("slow", |argument| {
            std::thread::sleep(Duration::from_millis(20));
            Arc::clone(argument)
        }),
        function("endless", |argument| {
            IN_ENDLESS.store(true, Ordering::Relaxed);
            while ENDLESS.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Arc::clone(argument)
        }),
        function("boom", |_| panic!("boom in a function")),
        function("counted", |argument| {
            let rows = argument.len() as u64;
            let first = COUNTED.fetch_add(rows, Ordering::Relaxed);
            let scrambled =
                (first..first + rows).map(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes() as i64);
            Arc::new(Int64Array::from_iter_values(scrambled))
        }),
    ]
}

/// What an application's own executor knows.
pub fn session_state() -> SessionState {
    let mut builder = SessionStateBuilder::new_with_default_features();
    let known = builder.scalar_functions().get_or_insert_default();
    known.extend(functions().into_iter().map(Arc::new));
    builder.build()
}
