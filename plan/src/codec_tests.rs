// SPDX-License-Identifier: Apache-2.0
//! Plans that come back from the codec as they went: fields that a codec may lose, one by one.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ballista_core::StageId;
use datafusion::common::{JoinType, NullEquality};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::physical_expr::expressions::{binary, col, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{CsvReadOptions, SessionContext};

use crate::codec::{PlanCodec, decode_columns, encode_columns};
use crate::reader::{ExchangeStatistics, ShuffleReaderExec};
use crate::slice::file_scan;
use crate::stage::{OutputPartitioning, StageOutput, StagePlan};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
}

fn batch() -> RecordBatch {
    let k: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    RecordBatch::try_new(schema(), vec![k, Arc::new(StringArray::from(vec![None, Some("x"), Some("")]))]).unwrap()
}

fn memory() -> MemorySourceConfig {
    MemorySourceConfig::try_new(&[vec![batch()], vec![], vec![batch(), batch()]], schema(), None).unwrap()
}

fn scan() -> Arc<dyn ExecutionPlan> {
    DataSourceExec::from_data_source(memory())
}

fn there_and_back(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let codec = PlanCodec::default();
    codec.decode(&codec.encode(&plan).unwrap(), &SessionContext::new().task_ctx()).unwrap()
}

fn key(name: &str, options: SortOptions) -> PhysicalSortExpr {
    PhysicalSortExpr::new(col(name, &schema()).unwrap(), options)
}

#[test]
fn every_field_of_a_hash_join_arrives() {
    let on = || vec![(col("k", &schema()).unwrap(), col("k", &schema()).unwrap())];
    for (join_type, projection) in
        [(JoinType::Inner, None), (JoinType::Full, Some(vec![])), (JoinType::RightMark, Some(vec![2, 0]))]
    {
        for equality in [NullEquality::NullEqualsNull, NullEquality::NullEqualsNothing] {
            for mode in [PartitionMode::CollectLeft, PartitionMode::Partitioned] {
                let join = HashJoinExec::try_new(
                    scan(),
                    scan(),
                    on(),
                    None,
                    &join_type,
                    projection.clone(),
                    mode,
                    equality,
                    false,
                );
                let join = join.unwrap().with_fetch(Some(7)).unwrap();
                let back = there_and_back(Arc::clone(&join));
                let (join, back) =
                    (join.downcast_ref::<HashJoinExec>().unwrap(), back.downcast_ref::<HashJoinExec>().unwrap());
                assert_eq!(back.null_equality(), equality);
                assert_eq!((back.join_type(), back.partition_mode(), back.fetch()), (&join_type, &mode, Some(7)));
                assert_eq!((back.schema(), &back.projection), (join.schema(), &join.projection));
            }
        }
    }
    let equality = NullEquality::NullEqualsNothing;
    let mode = PartitionMode::CollectLeft;
    let anti = HashJoinExec::try_new(scan(), scan(), on(), None, &JoinType::LeftAnti, None, mode, equality, true);
    assert!(there_and_back(Arc::new(anti.unwrap())).downcast_ref::<HashJoinExec>().unwrap().null_aware);
}

#[tokio::test]
async fn every_field_of_a_table_in_memory_arrives() {
    let ordering = || LexOrdering::new([key("t", SortOptions::new(true, false))]).unwrap();
    let projected = MemorySourceConfig::try_new(memory().partitions(), schema(), Some(vec![1]));
    for source in [memory(), memory().with_limit(Some(2)), projected.unwrap()] {
        let source = source.try_with_sort_information(vec![ordering()]).unwrap();
        let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(source.clone());
        let back = there_and_back(Arc::clone(&plan));
        let data: &dyn std::any::Any = back.downcast_ref::<DataSourceExec>().unwrap().data_source().as_ref();
        let decoded = data.downcast_ref::<MemorySourceConfig>().unwrap();
        assert_eq!(decoded.partitions(), source.partitions());
        assert_eq!(decoded.projection(), source.projection());
        assert_eq!(decoded.sort_information(), source.sort_information());
        assert_eq!(DataSource::fetch(decoded), DataSource::fetch(&source));
        assert_eq!(back.schema(), plan.schema());
        let context = SessionContext::new().task_ctx();
        assert_eq!(collect(back, Arc::clone(&context)).await.unwrap(), collect(plan, context).await.unwrap());
    }
}

#[tokio::test]
async fn order_and_limit_of_a_file_scan_arrive() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "k,t\n1,x\n").unwrap();
    let context = SessionContext::new();
    context.register_csv("c", folder.path().to_str().unwrap(), CsvReadOptions::new()).await.unwrap();
    let plan = context.sql("SELECT k, t FROM c").await.unwrap().create_physical_plan().await.unwrap();
    let scan = file_scan(&plan).unwrap();
    let ordering = LexOrdering::new([key("k", SortOptions::new(false, false))]).unwrap();
    // An order that is claimed must be kept, one that is not claimed may have to be.
    for (orderings, preserve_order) in [(vec![ordering], true), (vec![], true), (vec![], false)] {
        let config = FileScanConfigBuilder::from(scan.clone())
            .with_output_ordering(orderings.clone())
            .with_limit(Some(3))
            .with_preserve_order(preserve_order)
            .build();
        let back = there_and_back(DataSourceExec::from_data_source(config));
        let back = file_scan(&back).unwrap();
        assert_eq!(back.output_ordering, orderings);
        assert_eq!((back.limit, back.preserve_order), (Some(3), preserve_order));
    }
}

#[test]
fn limits_are_not_cut_to_32_bits() {
    let large = (1_usize << 32) + 5;
    let filter = FilterExecBuilder::new(lit(true), scan()).with_fetch(Some(large)).build().unwrap();
    let plans: [Arc<dyn ExecutionPlan>; 4] = [
        Arc::new(LocalLimitExec::new(scan(), large)),
        Arc::new(CoalescePartitionsExec::new(scan()).with_fetch(Some(large))),
        DataSourceExec::from_data_source(memory().with_limit(Some(large))),
        Arc::new(filter),
    ];
    for plan in plans {
        assert_eq!(there_and_back(Arc::clone(&plan)).fetch(), Some(large), "{}", plan.name());
    }
    for (skip, fetch) in [(large, None), (large + 1, Some(large)), (3, Some(large)), (large, Some(4))] {
        let one = Arc::new(CoalescePartitionsExec::new(scan()));
        let back = there_and_back(Arc::new(GlobalLimitExec::new(one, skip, fetch)));
        let back = back.downcast_ref::<GlobalLimitExec>().unwrap();
        assert_eq!((back.skip(), back.fetch()), (skip, fetch));
    }
}

/// Protocol buffers refuse more than 100 levels.
#[test]
fn depth_is_no_limit() {
    let mut expr = col("k", &schema()).unwrap();
    let depth = 1000;
    for level in 0..depth {
        let operator = if level % 2 == 0 {
            datafusion::logical_expr::Operator::Plus
        } else {
            datafusion::logical_expr::Operator::Minus
        };
        expr = binary(expr, operator, lit(1_i64), &schema()).unwrap();
    }
    let mut plan = scan();
    for level in 0..depth {
        plan = Arc::new(LocalLimitExec::new(plan, level));
    }
    let predicate = binary(expr, datafusion::logical_expr::Operator::Gt, lit(0_i64), &schema()).unwrap();
    let plan = Arc::new(FilterExecBuilder::new(predicate, plan).build().unwrap()) as Arc<dyn ExecutionPlan>;
    // As on the threads that plan and run.
    let work = move || {
        let back = there_and_back(Arc::clone(&plan));
        let mut nodes = 0;
        let mut node = Some(&back);
        while let Some(plan) = node {
            nodes += 1;
            node = plan.children().first().copied();
        }
        assert_eq!(nodes, depth + 2);
    };
    std::thread::Builder::new().stack_size(16 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn stages_and_readers_arrive() {
    let statistics = ExchangeStatistics { rows: Some(5), bytes: None, exact: true };
    let keys: Vec<Arc<dyn PhysicalExpr>> = vec![col("t", &schema()).unwrap(), col("k", &schema()).unwrap()];
    let reader = || ShuffleReaderExec::new(StageId(4), schema(), vec![0..3, 3..4], statistics);
    let ordering = LexOrdering::new([key("k", SortOptions::new(true, true))]).unwrap();
    let bounds = encode_columns(&[Arc::new(Int64Array::from(vec![Some(3), None])) as ArrayRef]).unwrap();
    let bounds = decode_columns(&bounds).unwrap();
    let sample = vec![key("t", SortOptions::new(true, false)), key("k", SortOptions::new(false, true))];
    let exchange = |partitioning| StageOutput::Exchange { partitioning, sample: sample.clone() };
    let outputs = [
        exchange(OutputPartitioning::Hash { keys: keys.clone(), buckets: 9 }),
        exchange(OutputPartitioning::RoundRobin { buckets: 2 }),
        exchange(OutputPartitioning::Single),
        exchange(OutputPartitioning::Passthrough { buckets: 2 }),
        exchange(OutputPartitioning::Range { keys: ordering.clone(), bounds, buckets: 3 }),
        StageOutput::Result { ordered: true },
        StageOutput::Result { ordered: false },
        StageOutput::Scalar,
    ];
    let readers = [
        reader(),
        reader().with_hash_keys(keys.clone()),
        reader().with_ordering(ordering.clone()),
        reader().with_broadcast(),
    ];
    let codec = PlanCodec::default();
    for output in outputs {
        for reader in readers.clone() {
            let stage = StagePlan { plan: Arc::new(reader.clone()), output: output.clone() };
            let bytes = codec.encode_stage(&stage).unwrap();
            let back = codec.decode_stage(bytes, &SessionContext::new().task_ctx()).unwrap();
            assert_eq!(format!("{:?}", back.output), format!("{output:?}"));
            let decoded = back.plan.downcast_ref::<ShuffleReaderExec>().unwrap();
            assert_eq!((decoded.stage(), decoded.ranges()), (reader.stage(), reader.ranges()));
            assert_eq!((decoded.is_broadcast(), decoded.statistics()), (reader.is_broadcast(), reader.statistics()));
            assert_eq!(format!("{:?}", decoded.hash_keys()), format!("{:?}", reader.hash_keys()));
            assert_eq!(decoded.properties().output_ordering(), reader.properties().output_ordering());
        }
    }
}

/// An expression reads the value of a scalar subquery from a place that it shares with the node that runs it.
#[tokio::test]
async fn an_expression_finds_the_value_of_its_scalar_subquery() {
    let context = SessionContext::new();
    let sql = "SELECT x FROM generate_series(1, 5) AS t(x) WHERE x > (SELECT 3) AND x < (SELECT 6 - (SELECT 1))";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let rows = collect(there_and_back(plan), context.task_ctx()).await.unwrap();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
}
