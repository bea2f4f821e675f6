// SPDX-License-Identifier: Apache-2.0
//! The stages of the 22 TPC-H queries on two executors, as snapshots that are reviewed like code.
//!
//! Finished stages report many rows, so that no build side is broadcast unless its estimate says so: what is shown is
//! the plan with every exchange in it. `INSTA_UPDATE=always cargo test -p ballista-benchmarks --test plans` writes them.

use std::collections::VecDeque;
use std::fmt::Write as _;

use arrow::array::{RecordBatch, new_null_array};
use ballista_benchmarks::data::{register_tables, tpch_dir};
use ballista_benchmarks::queries::Suite;
use ballista_benchmarks::statements;
use ballista_plan::codec::{PlanCodec, encode_batches};
use ballista_plan::config::SessionConfigExt;
use ballista_plan::stage::{StageOutput, StagePlan};
use ballista_scheduler::planning::job::{ClusterShape, ExecutorShape, JobPlanner, PlannedStage, StageResult};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};

const ROWS: u64 = 10_000_000;
const BYTES: u64 = 8 << 30;

/// What the client sends: the physical plan before DataFusion's physical optimizer.
async fn initial_plan(state: &SessionState, logical: &LogicalPlan) -> std::sync::Arc<dyn ExecutionPlan> {
    let optimized = state.optimize(logical).expect("an optimised plan");
    let bare = SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(vec![]).build();
    bare.query_planner().create_physical_plan(&optimized, &bare).await.expect("a physical plan")
}

fn stage_of(planned: &PlannedStage, codec: &PlanCodec, context: &SessionContext) -> StagePlan {
    codec.decode_stage(planned.plan.clone(), &context.task_ctx()).expect("what was encoded")
}

fn result_of(stage: &StagePlan) -> StageResult {
    match &stage.output {
        StageOutput::Exchange { partitioning, .. } => {
            let buckets = partitioning.buckets() as u64;
            StageResult {
                bucket_rows: vec![ROWS / buckets; buckets as usize],
                bucket_bytes: vec![BYTES / buckets; buckets as usize],
                rows: ROWS,
                bytes: BYTES,
                ..StageResult::default()
            }
        }
        _ => {
            let schema = stage.plan.schema();
            let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
            let row = RecordBatch::try_new(schema.clone(), columns).ok();
            let rows = row.into_iter().collect::<Vec<_>>();
            let inline = encode_batches(&schema, &rows).expect("an encoded row");
            StageResult { rows: 1, bytes: 8, inline: Some(inline), ..StageResult::default() }
        }
    }
}

fn show(text: &mut String, planned: &PlannedStage, stage: &StagePlan, data: &str) {
    let inputs: Vec<String> = planned.inputs.iter().map(ToString::to_string).collect();
    let output = match &stage.output {
        StageOutput::Exchange { partitioning, .. } => {
            format!("{} into {}", partitioning.name(), partitioning.buckets())
        }
        StageOutput::Result { ordered } => format!("result{}", if *ordered { ", ordered" } else { "" }),
        StageOutput::Scalar => "scalar".to_owned(),
    };
    let plan = planned.display.replace(data, "");
    writeln!(
        text,
        "stage {} reads [{}], {} partitions, {output}\n{plan}",
        planned.stage,
        inputs.join(", "),
        planned.partitions
    )
    .expect("writing to a string");
}

/// All stages of one query, in the order of planning.
fn stages(plan: std::sync::Arc<dyn ExecutionPlan>, context: &SessionContext, data: &str) -> String {
    let codec = PlanCodec::default();
    let executors = vec![ExecutorShape { slots: 1, memory_bytes: 8 << 30 }; 2];
    let mut planner = JobPlanner::new(plan, &context.state(), codec.clone(), ClusterShape { executors });
    let mut text = String::new();
    let mut running = VecDeque::new();
    let mut step = planner.start().expect("a first step");
    loop {
        for planned in step.stages {
            let stage = stage_of(&planned, &codec, context);
            show(&mut text, &planned, &stage, data);
            running.push_back((planned.stage, result_of(&stage)));
        }
        if step.complete {
            return text;
        }
        let (stage, result) = running.pop_front().expect("a planner that waits for a running stage");
        step = planner.stage_finished(stage, result).expect("a next step");
    }
}

#[tokio::test]
async fn the_stages_of_tpch_are_those_of_the_snapshots() {
    let dir = tpch_dir(0.01).expect("test data");
    let mut config = SessionConfig::new().with_target_partitions(2).with_ballista();
    for (key, value) in [("ballista.planner.single_task_bytes", "0"), ("ballista.planner.broadcast_bytes", "0")] {
        config.options_mut().set(key, value).expect("a known key");
    }
    let context = SessionContext::new_with_config(config);
    register_tables(&context, Suite::Tpch, &dir).await.expect("tables");
    let data = dir.canonicalize().expect("a directory").to_string_lossy().trim_start_matches('/').to_owned();
    for number in Suite::Tpch.numbers() {
        let mut text = String::new();
        for statement in statements::split(Suite::Tpch.query(number).expect("a query")).expect("statements") {
            let logical = context.state().statement_to_plan(statement).await.expect("a logical plan");
            if matches!(logical, LogicalPlan::Ddl(_)) {
                context.execute_logical_plan(logical).await.expect("a view");
                continue;
            }
            let plan = initial_plan(&context.state(), &logical).await;
            text.push_str(&stages(plan, &context, &data));
        }
        insta::assert_snapshot!(format!("tpch_q{number:02}"), text);
    }
}
