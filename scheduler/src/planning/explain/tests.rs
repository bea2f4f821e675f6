// SPDX-License-Identifier: Apache-2.0
//! First plans of small tables on two executors.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use ballista_plan::codec::PlanCodec;
use ballista_plan::config::SessionConfigExt;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;
use crate::planning::job::{ClusterShape, ExecutorShape};

fn rows(from: i64) -> RecordBatch {
    let ids = Int64Array::from_iter_values(from..from + 100);
    let kinds = StringArray::from_iter_values((from..from + 100).map(|id| format!("k{}", id % 3)));
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("kind", Arc::new(kinds) as _)]).unwrap()
}

async fn text(sql: &str, settings: &[(&str, &str)], format: ExplainFormat) -> String {
    let mut config = SessionConfig::new().with_target_partitions(2).with_ballista();
    config.options_mut().set("ballista.planner.single_task_bytes", "0").unwrap();
    for (key, value) in settings {
        config.options_mut().set(key, value).unwrap();
    }
    let context = SessionContext::new_with_config(config);
    for table in ["a", "b"] {
        let batches = vec![vec![rows(0)], vec![rows(50)]];
        context.register_table(table, Arc::new(MemTable::try_new(batches[0][0].schema(), batches).unwrap())).unwrap();
    }
    let state = SessionStateBuilder::new_from_existing(context.state()).with_physical_optimizer_rules(vec![]).build();
    let logical = context.state().create_logical_plan(sql).await.unwrap();
    let plan = state.query_planner().create_physical_plan(&state.optimize(&logical).unwrap(), &state).await.unwrap();
    let executors = vec![ExecutorShape { slots: 2, memory_bytes: 1 << 30 }; 2];
    let planner = JobPlanner::new(plan, &context.state(), PlanCodec::default(), ClusterShape { executors });
    explain(planner, &context.task_ctx(), ExplainStyle { format, verbose: false }).unwrap()
}

const JOIN: &str = "SELECT a.kind, count(*) FROM a JOIN b ON a.id = b.id GROUP BY a.kind ORDER BY a.kind";
/// Nothing is small by its estimate.
const SHUFFLED: &[(&str, &str)] = &[("ballista.planner.broadcast_bytes", "0")];

#[tokio::test]
async fn stages_are_shown_in_the_order_in_which_they_run() {
    let text = text(JOIN, SHUFFLED, ExplainFormat::Indent).await;
    let titles: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        titles,
        [
            "2 executors with 4 slots; reads no files",
            "stage 0: 2 partitions; hash by [id@0] into 4 buckets",
            "stage 1: 2 partitions; hash by [id@0] into 4 buckets",
            "stage 2, after stages 0, 1: up to 4 partitions, by size; hash by [kind@0] into 4 buckets",
            "stage 3, after stage 2: up to 4 partitions, by size; each partition into a bucket of its own, 4 in all",
            "stage 4, after stage 3: one task; result for the client",
        ],
        "{text}"
    );
    assert!(text.contains("\n  AggregateExec: mode=Partial"), "{text}");
    assert!(text.contains("\n      ShuffleReaderExec: stage=0, partitions=4, hash=[id@0]"), "{text}");
    assert!(text.contains("note: Inner join on id@0 = id@0: the smaller side becomes the build side"), "{text}");
}

#[tokio::test]
async fn what_sizes_decide_is_said() {
    let sql = "SELECT count(*), max(b.id) FROM a JOIN b ON a.id = b.id";
    let settings = [("ballista.planner.broadcast_bytes", "1000")];
    let shown = text(sql, &settings, ExplainFormat::Indent).await;
    assert!(shown.contains("yields at most 1000 B, it is broadcast, and the rows of stage"), "{shown}");
    let fixed = [settings[0], ("ballista.planner.adaptive", "false")];
    let shown = text(sql, &fixed, ExplainFormat::Indent).await;
    assert!(!shown.contains("note:"), "{shown}");
    let sorted =
        text("SELECT * FROM a ORDER BY id", &[("ballista.planner.range_sort_bytes", "1")], ExplainFormat::Indent).await;
    assert!(sorted.contains("ranges of [id@0 ASC NULLS LAST] into 4 buckets"), "{sorted}");
    assert!(sorted.contains("note: if the rows of stage 0 take at most 1 B, one task sorts them"), "{sorted}");
    assert!(sorted.contains("result for the client, partition by partition"), "{sorted}");
}

#[tokio::test]
async fn a_scalar_subquery_is_a_stage_whose_value_others_name() {
    let sql = "SELECT kind, count(*) FROM a WHERE id > (SELECT avg(id) FROM b) GROUP BY kind";
    let shown = text(sql, SHUFFLED, ExplainFormat::Indent).await;
    let value = shown.lines().find(|line| line.contains("value of a scalar subquery")).expect(&shown);
    let stage = value.split([' ', ',', ':']).nth(1).unwrap();
    assert!(shown.contains(&format!("expr=[value of stage {stage} as")), "{shown}");
}

#[tokio::test]
async fn a_lone_task_says_why() {
    let large = text(JOIN, &[("ballista.planner.single_task_bytes", "1000000")], ExplainFormat::Indent).await;
    assert!(
        large.contains("one task, because that is at most ballista.planner.single_task_bytes=976.6 KiB"),
        "{large}"
    );
    assert!(large.contains("\nstage 0: one task; result for the client\n"), "{large}");
}

#[tokio::test]
async fn trees_and_graphs_hold_every_stage() {
    let tree = text(JOIN, SHUFFLED, ExplainFormat::Tree).await;
    assert_eq!(tree.lines().filter(|line| line.starts_with("stage ")).count(), 5, "{tree}");
    assert!(tree.contains("│     ShuffleReaderExec     │") && tree.contains("HashJoinExec"), "{tree}");
    let graph = text(JOIN, SHUFFLED, ExplainFormat::Graphviz).await;
    assert_eq!(graph.matches("subgraph cluster_stage_").count(), 5, "{graph}");
    assert_eq!(graph.matches("style=dashed, label=exchange").count(), 4, "{graph}");
    assert_eq!(graph.matches('{').count(), graph.matches('}').count(), "{graph}");
}

#[test]
fn text_in_a_graph_cannot_end_its_quotes() {
    assert_eq!(render::quoted("a \"b\" \\ c\nd"), "\"a \\\"b\\\" \\\\ c\\nd\"");
}
