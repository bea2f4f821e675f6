// SPDX-License-Identifier: Apache-2.0
//! Stages that the planner makes of queries for two executors of two slots, without running them.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use ballista_plan::codec::{PlanCodec, encode_batches};
use ballista_plan::config::SessionConfigExt;
use ballista_plan::reader::ShuffleReaderExec;
use ballista_plan::stage::{OutputPartitioning, StageOutput, StagePlan};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

use crate::planning::job::{ClusterShape, ExecutorShape, JobPlanner, PlannedSlicing, PlannedStage, StageResult};

const DISTRIBUTED: &[(&str, &str)] = &[("ballista.planner.single_task_bytes", "0")];
const SHUFFLED: &[(&str, &str)] =
    &[("ballista.planner.single_task_bytes", "0"), ("ballista.planner.broadcast_bytes", "0")];

struct Tables {
    folder: tempfile::TempDir,
    shape: ClusterShape,
}

type Stages = Vec<(PlannedStage, StagePlan)>;

fn executors(count: usize, slots: u32) -> ClusterShape {
    ClusterShape { executors: vec![ExecutorShape { slots, memory_bytes: 1 << 30 }; count] }
}

impl Tables {
    /// `many` and `few`, with columns `id`, `k` and `name`, in four files each.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let context = SessionContext::new();
        for (table, rows) in [("many", 2000), ("few", 20)] {
            for file in 0..4 {
                let path = folder.path().join(table).join(format!("{file}.parquet"));
                let sql = format!(
                    "SELECT x AS id, nullif(x % 13, 5) AS k, 'name ' || x AS name FROM generate_series(1, {rows}) AS t(x)"
                );
                let frame = context.sql(&sql).await.unwrap();
                frame.write_parquet(path.to_str().unwrap(), Default::default(), None).await.unwrap();
            }
        }
        Self { folder, shape: executors(2, 2) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The stages of a query. Finished ones report what `result` says.
    async fn stages_with(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
        result: impl Fn(&StagePlan) -> StageResult,
    ) -> Stages {
        self.planned(&self.session(settings).await, sql, result).await
    }

    async fn session(&self, settings: &[(&str, &str)]) -> SessionContext {
        let mut config = SessionConfig::new().with_target_partitions(4).with_ballista();
        for (key, value) in settings {
            config.options_mut().set(key, value).unwrap();
        }
        let context = SessionContext::new_with_config(config);
        for table in ["many", "few"] {
            let location = self.path().join(table);
            context.register_parquet(table, location.to_str().unwrap(), ParquetReadOptions::new()).await.unwrap();
        }
        context
    }

    async fn planned(&self, context: &SessionContext, sql: &str, result: impl Fn(&StagePlan) -> StageResult) -> Stages {
        // What the client sends: the plan before the physical optimizer.
        let logical = context.state().create_logical_plan(sql).await.unwrap();
        let optimized = context.state().optimize(&logical).unwrap();
        let bare =
            SessionStateBuilder::new_from_existing(context.state()).with_physical_optimizer_rules(vec![]).build();
        let plan = bare.query_planner().create_physical_plan(&optimized, &bare).await.unwrap();

        let codec = PlanCodec::default();
        let mut planner = JobPlanner::new(plan, &context.state(), codec.clone(), self.shape.clone());
        let (mut stages, mut running) = (Stages::new(), VecDeque::new());
        let mut step = planner.start().unwrap();
        loop {
            for planned in step.stages {
                let stage = codec.decode_stage(planned.plan.clone(), &context.task_ctx()).unwrap();
                running.push_back((planned.stage, result(&stage)));
                stages.push((planned, stage));
            }
            if step.complete {
                return stages;
            }
            let (stage, result) = running.pop_front().expect("the planner waits for a running stage");
            step = planner.stage_finished(stage, result).unwrap();
        }
    }

    async fn stages(&self, sql: &str, settings: &[(&str, &str)]) -> Stages {
        self.stages_with(sql, settings, |stage| reports(stage, 1000)).await
    }
}

/// A stage that wrote so many rows, of a KiB each, evenly into its buckets.
fn reports(stage: &StagePlan, rows: u64) -> StageResult {
    if let StageOutput::Exchange { partitioning, .. } = &stage.output {
        let buckets = partitioning.buckets();
        let each = rows / buckets as u64;
        let bucket_bytes = vec![each << 10; buckets];
        return StageResult {
            bucket_rows: vec![each; buckets],
            bucket_bytes,
            rows,
            bytes: rows << 10,
            ..Default::default()
        };
    }
    let schema = stage.plan.schema();
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let row = RecordBatch::try_new(schema.clone(), columns).into_iter().collect::<Vec<_>>();
    StageResult { rows: 1, bytes: 8, inline: Some(encode_batches(&schema, &row).unwrap()), ..Default::default() }
}

fn nodes(plan: &Arc<dyn ExecutionPlan>, mut look: impl FnMut(&Arc<dyn ExecutionPlan>)) {
    plan.apply(|node| {
        look(node);
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
}

fn joins(stages: &Stages) -> Vec<(&PlannedStage, Arc<dyn ExecutionPlan>)> {
    let mut joins = vec![];
    for (planned, stage) in stages {
        nodes(&stage.plan, |node| {
            if node.is::<HashJoinExec>() {
                joins.push((planned, Arc::clone(node)));
            }
        });
    }
    joins
}

fn readers(stage: &StagePlan) -> Vec<ShuffleReaderExec> {
    let mut readers = vec![];
    nodes(&stage.plan, |node| readers.extend(node.downcast_ref::<ShuffleReaderExec>().cloned()));
    readers
}

fn text(stages: &Stages) -> String {
    stages.iter().map(|(_, stage)| displayable(stage.plan.as_ref()).indent(true).to_string()).collect()
}

/// A filter made in one stage cannot be used in another: whoever waited for it would wait for ever. Nor may a stage
/// hash rows in-process: its tasks would each hold a part of every partition.
#[tokio::test]
async fn no_dynamic_filter_and_no_repartitioning_crosses_a_cut() {
    let tables = Tables::new().await;
    for sql in [
        "SELECT m.id FROM many m JOIN few f ON m.k = f.id",
        "SELECT m.id FROM many m JOIN (SELECT k, max(id) AS id FROM few GROUP BY k) f ON m.k = f.id AND m.id = f.k",
        "SELECT id FROM many WHERE k IN (SELECT k FROM few) ORDER BY id LIMIT 3",
        "SELECT k, max(id) FROM many GROUP BY k ORDER BY max(id) DESC LIMIT 2",
        "SELECT max(id + k), min(k) FROM many",
        "SELECT a.id FROM many a JOIN many b ON a.id = b.id JOIN few f ON f.id = b.k",
    ] {
        for settings in [DISTRIBUTED, SHUFFLED] {
            let stages = tables.stages(sql, settings).await;
            assert!(stages.len() > 1, "{sql}");
            assert!(!text(&stages).contains("DynamicFilter"), "{sql}\n{}", text(&stages));
            for (_, join) in joins(&stages) {
                assert!(join.dynamic_expressions_produced().is_empty(), "{sql}");
            }
            for (_, stage) in &stages {
                nodes(&stage.plan, |node| assert!(!node.is::<RepartitionExec>(), "{sql}\n{}", text(&stages)));
            }
        }
    }
}

/// `NOT IN` has to know of every NULL and of every probe row.
#[tokio::test]
async fn a_null_aware_anti_join_is_one_task() {
    let tables = Tables::new().await;
    for settings in [DISTRIBUTED, SHUFFLED] {
        for sql in [
            "SELECT id FROM many WHERE k NOT IN (SELECT k FROM few)",
            "SELECT id FROM few WHERE k NOT IN (SELECT k FROM many)",
            "SELECT k, count(*) FROM many WHERE k NOT IN (SELECT k FROM few) GROUP BY k",
        ] {
            let stages = tables.stages(sql, settings).await;
            let joins = joins(&stages);
            assert_eq!(joins.len(), 1, "{sql}\n{}", text(&stages));
            let (planned, join) = &joins[0];
            assert!(join.downcast_ref::<HashJoinExec>().unwrap().null_aware, "{sql}");
            let one_task = planned.partitions == 1 || matches!(planned.slicing, PlannedSlicing::Whole { .. });
            assert!(one_task, "{sql}: {:?} of {}", planned.slicing, planned.partitions);
        }
    }
}

/// A build side that every task reads may only be one whose rows no task emits by themselves.
#[tokio::test]
async fn only_build_sides_that_emit_nothing_are_broadcast() {
    let tables = Tables::new().await;
    let mut broadcast = vec![];
    for join in [
        "JOIN",
        "LEFT JOIN",
        "RIGHT JOIN",
        "FULL JOIN",
        "LEFT SEMI JOIN",
        "RIGHT SEMI JOIN",
        "LEFT ANTI JOIN",
        "RIGHT ANTI JOIN",
    ] {
        for (left, right) in [("many", "few"), ("few", "many")] {
            // What was estimated too large turns out small, too.
            for rows in [8, 100_000] {
                let select = if join.contains("SEMI") || join.contains("ANTI") { "*" } else { "l.id, r.id" };
                let sql = format!("SELECT {select} FROM {left} l {join} {right} r ON l.k = r.id");
                let stages = tables.stages_with(&sql, DISTRIBUTED, |stage| reports(stage, rows)).await;
                for (planned, node) in joins(&stages) {
                    let join = node.downcast_ref::<HashJoinExec>().unwrap();
                    if *join.partition_mode() == PartitionMode::CollectLeft && planned.partitions > 1 {
                        use datafusion::common::JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
                        let safe = [Inner, Right, RightSemi, RightAnti, RightMark].contains(join.join_type());
                        assert!(safe, "{sql}\n{}", text(&stages));
                        broadcast.push(*join.join_type());
                    }
                }
            }
        }
    }
    broadcast.sort_by_key(|join_type| join_type.to_string());
    broadcast.dedup();
    assert!(broadcast.len() >= 4, "only {broadcast:?} were broadcast");
}

#[tokio::test]
async fn a_scalar_subquery_is_a_stage_whose_value_the_others_hold() {
    let tables = Tables::new().await;
    let sql = "SELECT k, count(*) FROM many WHERE id > (SELECT avg(id) FROM few) GROUP BY k \
               HAVING count(*) > (SELECT sum(id) FROM few)";
    let stages = tables.stages(sql, SHUFFLED).await;
    let values = stages.iter().filter(|(_, stage)| matches!(stage.output, StageOutput::Scalar)).count();
    assert_eq!(values, 2, "{}", text(&stages));
    for (planned, stage) in &stages {
        let plan = displayable(stage.plan.as_ref()).indent(true).to_string();
        if plan.contains("scalar_subquery") && !matches!(stage.output, StageOutput::Scalar) {
            // The value is in the plan: nothing but a literal is run for it.
            assert!(plan.contains("ScalarSubqueryExec") && plan.contains("PlaceholderRowExec"), "{plan}");
        }
        let scalars: Vec<_> = stages.iter().filter(|(_, s)| matches!(s.output, StageOutput::Scalar)).collect();
        assert!(planned.inputs.iter().all(|input| scalars.iter().all(|(scalar, _)| scalar.stage != *input)), "{plan}");
    }
}

/// Every sorted partition of the producer is a run of its own at the merge.
#[tokio::test]
async fn a_merge_reads_one_run_per_producing_partition() {
    let tables = Tables::new().await;
    let stages = tables.stages("SELECT id, name FROM many ORDER BY name LIMIT 10", DISTRIBUTED).await;
    let (producer, merge) = (&stages[0], &stages[1]);
    let StageOutput::Exchange { partitioning, .. } = &producer.1.output else { panic!("{}", text(&stages)) };
    assert!(matches!(partitioning, OutputPartitioning::Passthrough { .. }));
    assert!(producer.0.partitions > 1);
    assert_eq!(partitioning.buckets(), producer.0.partitions as usize);
    let mut merges = 0;
    nodes(&merge.1.plan, |node| merges += usize::from(node.is::<SortPreservingMergeExec>()));
    assert_eq!((merges, merge.0.partitions), (1, 1));
    let reader = &readers(&merge.1)[0];
    assert_eq!(reader.ranges().len(), producer.0.partitions as usize);
    assert!(reader.ranges().iter().all(|range| range.len() == 1));
    assert!(reader.properties().output_ordering().is_some());
}

/// Operators may keep the order of rows that they hash in-process. Rows that come from several executors are sorted for
/// an operator that cannot do without, and only for such a one.
#[tokio::test]
async fn rows_that_must_stay_sorted_are_sorted_behind_an_exchange() {
    let tables = Tables::new().await;
    let context = tables.session(SHUFFLED).await;
    let location = tables.path().join("many");
    let sql = format!(
        "CREATE EXTERNAL TABLE sorted (id BIGINT NOT NULL, k BIGINT) STORED AS PARQUET WITH ORDER (id) LOCATION '{}/'",
        location.display()
    );
    context.sql(&sql).await.unwrap();
    let queries = [
        ("SELECT id, count(*) FROM sorted GROUP BY id", 0),
        ("SELECT id, sum(k) OVER (PARTITION BY id ORDER BY k) FROM sorted", 1),
    ];
    for (sql, sorts) in queries {
        let stages = tables.planned(&context, sql, |stage| reports(stage, 1000)).await;
        assert_eq!(stages.len(), 2, "{}", text(&stages));
        let exchange = &stages[0].1.output;
        assert!(matches!(exchange, StageOutput::Exchange { partitioning: OutputPartitioning::Hash { .. }, .. }));
        let (_, last) = &stages[1];
        let mut sorted = 0;
        nodes(&last.plan, |node| {
            sorted += usize::from(node.is::<SortExec>() && node.children()[0].is::<ShuffleReaderExec>());
        });
        assert_eq!(sorted, sorts, "{}", text(&stages));
    }
}

/// Both inputs of a join are read in the same ranges of buckets, whatever their sizes.
#[tokio::test]
async fn joined_buckets_stay_co_partitioned() {
    let tables = Tables::new().await;
    let settings =
        [SHUFFLED, &[("ballista.shuffle.bucket_bytes", "500"), ("ballista.shuffle.read_bytes", "1000000")]].concat();
    let sql = "SELECT l.id FROM many l LEFT JOIN few r ON l.id = r.id";
    let stages = tables.stages_with(sql, &settings, |stage| reports(stage, 10_000)).await;
    let (planned, last) = stages.last().unwrap();
    let readers = readers(last);
    let buckets = |stage: &StagePlan| match &stage.output {
        StageOutput::Exchange { partitioning, .. } => partitioning.buckets(),
        _ => 0,
    };
    assert!(buckets(&stages[0].1) >= 32 && buckets(&stages[0].1) == buckets(&stages[1].1));
    assert_eq!(readers.len(), 2);
    assert_eq!(readers[0].ranges(), readers[1].ranges());
    assert_eq!(planned.partitions as usize, readers[0].ranges().len());
    assert!(planned.partitions > 1 && (planned.partitions as usize) < buckets(&stages[0].1), "{}", planned.partitions);
}

#[tokio::test]
async fn small_queries_and_lone_executors_have_no_exchange() {
    let mut tables = Tables::new().await;
    let sql = "SELECT l.k, count(*) FROM many l JOIN many r ON l.id = r.id GROUP BY l.k ORDER BY l.k";
    let large = [("ballista.planner.single_task_bytes", "1")];
    let one_task = |stages: &Stages| stages.len() == 1 && matches!(stages[0].0.slicing, PlannedSlicing::Whole { .. });
    assert!(one_task(&tables.stages(sql, &[]).await));
    assert!(!one_task(&tables.stages(sql, &large).await));
    tables.shape = executors(1, 4);
    let stages = tables.stages(sql, &large).await;
    assert!(one_task(&stages));
    // Its own repartitioning uses all of the slots.
    let mut widest = 0;
    nodes(&stages[0].1.plan, |node| widest = widest.max(node.output_partitioning().partition_count()));
    assert_eq!((stages[0].0.slicing, widest), (PlannedSlicing::Whole { slots: 4 }, 4));
    // A cluster of many small executors never ends up on one core.
    tables.shape = executors(50, 1);
    assert!(tables.stages(sql, &large).await.len() > 1);
    // Exchanges have at least as many buckets as there are slots.
    let stages = tables.stages(sql, SHUFFLED).await;
    let buckets = stages.iter().filter_map(|(_, stage)| match &stage.output {
        StageOutput::Exchange { partitioning: OutputPartitioning::Hash { buckets, .. }, .. } => Some(*buckets),
        _ => None,
    });
    assert_eq!(buckets.min(), Some(50));
}

/// What other engines switch off to be able to cut plans.
#[tokio::test]
async fn views_hash_joins_and_scalar_subqueries_are_on() {
    let tables = Tables::new().await;
    let sql = "SELECT l.name FROM many l JOIN few r ON l.name = r.name WHERE l.id < (SELECT sum(id) FROM few)";
    let stages = tables.stages(sql, SHUFFLED).await;
    let plans = text(&stages);
    assert!(plans.contains("HashJoinExec") && plans.contains("ScalarSubqueryExec"), "{plans}");
    assert!(!plans.contains("SortMergeJoinExec"), "{plans}");
    for (_, stage) in &stages {
        for reader in readers(stage) {
            let schema = reader.schema();
            if let Ok(name) = schema.field_with_name("name") {
                assert_eq!(*name.data_type(), arrow::datatypes::DataType::Utf8View);
            }
        }
    }
}
