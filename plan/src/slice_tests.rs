// SPDX-License-Identifier: Apache-2.0
//! Slices of plans, run: what a slice gives is what its partitions give, and the slices of a plan together give all.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{JoinType, NullEquality};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{CsvReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;

use crate::slice::{can_slice, file_scan, restrict};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

/// A table in memory with these numbers in each partition.
fn memory(partitions: &[&[i64]]) -> Arc<dyn ExecutionPlan> {
    let batch = |ids: &&[i64]| {
        let ids = Arc::new(Int64Array::from(ids.to_vec()));
        vec![RecordBatch::try_new(schema(), vec![ids]).unwrap()]
    };
    let partitions: Vec<_> = partitions.iter().map(batch).collect();
    MemorySourceConfig::try_new_exec(&partitions, schema(), None).unwrap()
}

/// What each partition of a fresh `plan` gives when all are polled.
async fn run(plan: &Arc<dyn ExecutionPlan>) -> Vec<Vec<i64>> {
    let context = Arc::new(TaskContext::default());
    let streams = (0..plan.output_partitioning().partition_count())
        .map(|partition| plan.execute(partition, Arc::clone(&context)).unwrap().try_collect::<Vec<_>>());
    let partitions = futures::future::try_join_all(streams).await.unwrap();
    let ids = |batches: Vec<RecordBatch>| {
        let mut ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        ids.sort_unstable();
        ids
    };
    partitions.into_iter().map(ids).collect()
}

/// Every choice of partitions gives what these partitions give in the whole.
async fn check_slices(make: impl Fn() -> Arc<dyn ExecutionPlan>) {
    let whole = run(&make()).await;
    assert!(can_slice(&make()));
    for choice in 1_u32..1 << whole.len() {
        let parts: Vec<usize> = (0..whole.len()).filter(|part| choice & (1 << part) != 0).collect();
        let slice = restrict(&make(), &parts).unwrap();
        assert_eq!(slice.output_partitioning().partition_count(), parts.len());
        assert_eq!(slice.schema(), make().schema());
        let expected: Vec<_> = parts.iter().map(|part| whole[*part].clone()).collect();
        assert_eq!(run(&slice).await, expected, "partitions {parts:?}");
    }
    assert!(restrict(&make(), &[whole.len()]).is_err());
}

async fn scan_of_files(folder: &Path, files: usize) -> Arc<dyn ExecutionPlan> {
    for file in 0..files {
        let rows: String = (0..20).map(|row| format!("{}\n", file * 100 + row)).collect();
        std::fs::write(folder.join(format!("{file}.csv")), format!("id\n{rows}")).unwrap();
    }
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(files));
    context.register_csv("t", folder.to_str().unwrap(), CsvReadOptions::new()).await.unwrap();
    context.sql("SELECT id FROM t").await.unwrap().create_physical_plan().await.unwrap()
}

/// The partitions of a `DataSourceExec` take files from a queue that they share.
#[tokio::test]
async fn a_slice_of_a_scan_reads_its_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let scan = scan_of_files(folder.path(), 4).await;
    assert_eq!(scan.output_partitioning().partition_count(), 4);
    for parts in [vec![1], vec![0, 3], vec![1, 2, 3]] {
        let slice = restrict(&scan, &parts).unwrap();
        let files = &file_scan(&slice).unwrap().file_groups;
        assert_eq!(files.iter().map(|group| group.len()).sum::<usize>(), parts.len());
        let mut read = run(&slice).await.concat();
        read.sort_unstable();
        let expected: Vec<i64> = parts.iter().flat_map(|part| (0..20).map(|row| *part as i64 * 100 + row)).collect();
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn partitions_of_a_union_are_counted_through_its_inputs() {
    let nested = || UnionExec::try_new(vec![memory(&[&[30]]), memory(&[&[40], &[41]])]).unwrap();
    let gathered =
        || -> Arc<dyn ExecutionPlan> { Arc::new(CoalescePartitionsExec::new(memory(&[&[20, 21], &[22], &[23, 24]]))) };
    check_slices(|| UnionExec::try_new(vec![memory(&[&[1], &[2, 3]]), gathered(), nested()]).unwrap()).await;
}

#[tokio::test]
async fn an_interleave_gives_partition_i_of_every_input() {
    let hashed = |partitions: &[&[i64]]| -> Arc<dyn ExecutionPlan> {
        let keys = vec![col("id", &schema()).unwrap()];
        let ranges = (0..partitions.len() as u32).map(|i| i..i + 1).collect();
        let statistics = crate::reader::ExchangeStatistics { rows: None, bytes: None, exact: false };
        let reader = crate::reader::ShuffleReaderExec::new(ballista_core::StageId(7), schema(), ranges, statistics);
        Arc::new(reader.with_hash_keys(keys))
    };
    let plan: Arc<dyn ExecutionPlan> =
        Arc::new(InterleaveExec::try_new(vec![hashed(&[&[], &[], &[]]), hashed(&[&[], &[], &[]])]).unwrap());
    let slice = restrict(&plan, &[0, 2]).unwrap();
    assert_eq!(slice.output_partitioning().partition_count(), 2);
    for input in slice.children() {
        let reader = input.downcast_ref::<crate::reader::ShuffleReaderExec>().unwrap();
        assert_eq!(reader.ranges(), [0..1, 2..3]);
    }
}

/// Whatever gathers partitions into one does so for every task that reads it, from all of them.
#[tokio::test]
async fn what_is_below_one_partition_stays_whole() {
    let parts: &[&[i64]] = &[&[1, 4], &[2], &[3, 5]];
    let key = PhysicalSortExpr::new_default(col("id", &schema()).unwrap());
    let ordering = LexOrdering::new([key]).unwrap();
    let sorted =
        || -> Arc<dyn ExecutionPlan> { Arc::new(SortPreservingMergeExec::new(ordering.clone(), memory(parts))) };
    let limited = || -> Arc<dyn ExecutionPlan> {
        Arc::new(GlobalLimitExec::new(Arc::new(CoalescePartitionsExec::new(memory(parts))), 0, Some(4)))
    };
    assert_eq!(run(&restrict(&sorted(), &[0]).unwrap()).await, [[1, 2, 3, 4, 5]]);
    assert_eq!(run(&restrict(&limited(), &[0]).unwrap()).await[0].len(), 4);
    check_slices(|| UnionExec::try_new(vec![sorted(), memory(&[&[7], &[8]]), sorted()]).unwrap()).await;

    // The build side of a collected join is such a place.
    check_slices(|| join(JoinType::Inner, PartitionMode::CollectLeft, sorted(), memory(&[&[1, 9], &[2, 3], &[5]])))
        .await;
    check_slices(|| join(JoinType::Right, PartitionMode::CollectLeft, sorted(), memory(&[&[1, 9], &[2, 3]]))).await;
}

fn join(
    join_type: JoinType,
    mode: PartitionMode,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
) -> Arc<dyn ExecutionPlan> {
    let on = vec![(col("id", &schema()).unwrap(), col("id", &schema()).unwrap())];
    let columns = match join_type {
        JoinType::Right => Some(vec![1]),
        JoinType::Inner | JoinType::Left | JoinType::Full => Some(vec![0]),
        _ => None,
    };
    let equality = NullEquality::NullEqualsNothing;
    let join = HashJoinExec::try_new(left, right, on, None, &join_type, columns, mode, equality, false).unwrap();
    Arc::new(join)
}

/// Unmatched rows of a collected side are emitted by whoever sees the whole probe side.
#[tokio::test]
async fn joins_that_emit_rows_of_a_collected_side_are_not_sliced() {
    use JoinType::{Full, Left, LeftAnti, LeftMark, LeftSemi};
    let sides = || (memory(&[&[1, 2, 3]]), memory(&[&[1], &[2], &[7]]));
    for join_type in [Left, LeftSemi, LeftAnti, LeftMark, Full] {
        let (left, right) = sides();
        let plan = join(join_type, PartitionMode::CollectLeft, left, right);
        assert!(!can_slice(&plan), "{join_type}");
        assert!(restrict(&plan, &[1]).is_err(), "{join_type}");
    }
    for join_type in [JoinType::Inner, JoinType::Right, JoinType::RightSemi, JoinType::RightAnti, JoinType::RightMark] {
        let (left, right) = sides();
        assert!(can_slice(&join(join_type, PartitionMode::CollectLeft, left, right)), "{join_type}");
    }
    // Partition i of both sides is all there is of its keys.
    let two = || memory(&[&[1, 3], &[2, 4]]);
    check_slices(|| join(Left, PartitionMode::Partitioned, two(), memory(&[&[1], &[2, 6]]))).await;
}

/// Nobody knows which input rows partition i of an operator comes from, unless it is written down.
#[test]
fn an_operator_that_moves_rows_or_is_not_known_is_not_sliced() {
    let hash = Partitioning::Hash(vec![col("id", &schema()).unwrap()], 3);
    let moved: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(memory(&[&[1], &[2]]), hash).unwrap());
    assert!(!can_slice(&moved));
    assert!(restrict(&moved, &[0]).is_err());
    let above = UnionExec::try_new(vec![memory(&[&[1]]), moved]).unwrap();
    assert!(!can_slice(&above));
}
