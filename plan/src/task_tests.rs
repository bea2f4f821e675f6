// SPDX-License-Identifier: Apache-2.0
//! Plan instances of tasks: where their dynamic filters come from, and where they must not be.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use ballista_core::StageId;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

use crate::codec::PlanCodec;
use crate::reader::{ExchangeStatistics, ShuffleReaderExec};
use crate::task::instance_of;

fn text(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

/// Filters that operators of `plan` make while they run.
fn filters_made(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let mut made = 0;
    plan.apply(|node| {
        made += node.dynamic_expressions_produced().len();
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    made
}

fn exchange(stage: u32, buckets: u32) -> ShuffleReaderExec {
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let statistics = ExchangeStatistics { rows: Some(9), bytes: Some(72), exact: true };
    let ranges = (0..buckets).map(|bucket| bucket..bucket + 1).collect();
    let key = col("k", &schema).unwrap();
    ShuffleReaderExec::new(StageId(stage), schema, ranges, statistics).with_hash_keys(vec![key])
}

fn join(mode: PartitionMode, build: ShuffleReaderExec, probe: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let on = vec![(col("k", &build.schema()).unwrap(), col("k", &probe.schema()).unwrap())];
    let equality = NullEquality::NullEqualsNothing;
    let build: Arc<dyn ExecutionPlan> = Arc::new(build);
    let join = HashJoinExec::try_new(build, probe, on, None, &JoinType::Inner, None, mode, equality, false).unwrap();
    Arc::new(join)
}

/// A partitioned join tells its filter's rows apart by hash modulo its own number of partitions. Partition i of a slice,
/// or of buckets that were joined, is another one.
#[test]
fn a_reader_that_was_sliced_or_joined_routes_no_filter_by_hash() {
    let options = SessionConfig::new().options().as_ref().clone();
    assert!(options.optimizer.enable_join_dynamic_filter_pushdown);
    let sliced = join(PartitionMode::Partitioned, exchange(0, 4), Arc::new(exchange(1, 4)));
    for parts in [vec![1, 3], vec![2], vec![0, 1, 2, 3]] {
        let instance = instance_of(&sliced, &parts, &options).unwrap();
        assert_eq!(filters_made(&instance), 0, "{}", text(&instance));
    }
    let joined = |stage| exchange(stage, 4).with_ranges(vec![0..3, 3..4]);
    let plan = join(PartitionMode::Partitioned, joined(0), Arc::new(joined(1)));
    assert_eq!(filters_made(&instance_of(&plan, &[0, 1], &options).unwrap()), 0);
    // All tasks of a broadcast join see the same build side.
    let plan = join(PartitionMode::CollectLeft, exchange(0, 4).with_broadcast(), Arc::new(exchange(1, 4)));
    assert_eq!(filters_made(&instance_of(&plan, &[1, 3], &options).unwrap()), 1);
}

/// A session with a table `t` of four Parquet files, and the rules that belong to the scheduler.
async fn session(folder: &std::path::Path) -> SessionContext {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != "FilterPushdown(Post)");
    let config = SessionConfig::new().with_target_partitions(4);
    let state = SessionStateBuilder::new().with_config(config).with_default_features();
    let context = SessionContext::new_with_state(state.with_physical_optimizer_rules(rules).build());
    for file in 0..4 {
        let sql = format!("SELECT x * 4 + {file} AS k FROM generate_series(0, 999) AS t(x)");
        let path = folder.join(format!("{file}.parquet"));
        let frame = context.sql(&sql).await.unwrap();
        frame.write_parquet(path.to_str().unwrap(), Default::default(), None).await.unwrap();
    }
    context.register_parquet("t", folder.to_str().unwrap(), ParquetReadOptions::new()).await.unwrap();
    context
}

/// A filter is made by one node and used by another of the same instance: after a codec they would be two.
#[tokio::test]
async fn filters_within_a_stage_are_on_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    let context = session(folder.path()).await;
    let plan =
        context.sql("SELECT k FROM t ORDER BY k DESC LIMIT 5").await.unwrap().create_physical_plan().await.unwrap();
    assert!(!text(&plan).contains("DynamicFilter"), "{}", text(&plan));
    let codec = PlanCodec::default();
    let decoded = codec.decode(&codec.encode(&plan).unwrap(), &context.task_ctx()).unwrap();
    let instance = instance_of(&decoded, &[0], context.state().config_options()).unwrap();
    assert!(text(&instance).contains("DynamicFilter [ empty ]"), "{}", text(&instance));
    collect(Arc::clone(&instance), context.task_ctx()).await.unwrap();
    // What the sort learnt is what the scan pruned with.
    let scan = text(&instance).lines().find(|line| line.contains("DataSourceExec")).unwrap().to_owned();
    assert!(scan.contains("DynamicFilter [ k@0 IS NULL OR k@0 >"), "{scan}");

    let probe = context.sql("SELECT k FROM t").await.unwrap().create_physical_plan().await.unwrap();
    let plan = join(PartitionMode::CollectLeft, exchange(0, 1).with_broadcast(), probe);
    let decoded = codec.decode(&codec.encode(&plan).unwrap(), &context.task_ctx()).unwrap();
    let instance = instance_of(&decoded, &[1, 2], context.state().config_options()).unwrap();
    let scan = text(&instance).lines().find(|line| line.contains("DataSourceExec")).unwrap().to_owned();
    assert!(scan.contains("DynamicFilter"), "{scan}");
}

/// DataFusion keeps a join's build side, its filter and counters of partitions in plan nodes.
#[tokio::test]
async fn an_instance_is_made_of_a_plan_decoded_afresh() {
    let folder = tempfile::tempdir().unwrap();
    let context = session(folder.path()).await;
    let sql = "SELECT a.k FROM t a JOIN t b ON a.k = b.k";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let codec = PlanCodec::default();
    let bytes = codec.encode(&plan).unwrap();
    for _ in 0..3 {
        let decoded = codec.decode(&bytes, &context.task_ctx()).unwrap();
        let all: Vec<_> = (0..decoded.properties().output_partitioning().partition_count()).collect();
        let instance = instance_of(&decoded, &all, context.state().config_options()).unwrap();
        let rows = collect(instance, context.task_ctx()).await.unwrap();
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 4000);
    }
}
