// SPDX-License-Identifier: Apache-2.0
//! `EXPLAIN`: the stages of a job as they are first planned, before anything has run.
//!
//! The stages that can run at once are those of [`JobPlanner::start`]. The others are found by cutting the remaining
//! plan on, as if every exchange were complete and nothing were changed; what sizes may change is said with each.
//!
//! * `render`: the stages as indented text, as trees, as one graph.

mod render;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ballista_core::StageId;
use ballista_core::units::Bytes;
use ballista_plan::reader::{ExchangeStatistics, ShuffleReaderExec};
use ballista_plan::slice::probe_decides;
use ballista_plan::stage::{OutputPartitioning, StageOutput};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::sorts::sort::SortExec;

use super::cut::{Cut, CutContext, CutPlan, cut, partitions};
use super::job::{JobPlanner, PlannedSlicing, PlannedStage, inputs_of};
use super::notes::join_in_words;
use super::range::{find_range_sort, replace_range_sort};
pub use render::{ExplainFormat, ExplainStyle, indented, operator_lines};

/// More rounds of cutting than any plan has.
const MAX_ROUNDS: usize = 10_000;

/// The first plan of the job of `planner`, as text.
pub fn explain(mut planner: JobPlanner, context: &TaskContext, style: ExplainStyle) -> Result<String> {
    let first = FirstPlan::of(&mut planner, context)?;
    Ok(render::render(&first, style))
}

/// What a job is first planned as.
struct FirstPlan {
    /// How it is run as a whole, and why so.
    headline: String,
    stages: Vec<Stage>,
}

/// A stage as first planned.
struct Stage {
    id: StageId,
    plan: Arc<dyn ExecutionPlan>,
    output: StageOutput,
    inputs: Vec<StageId>,
    /// Runs at once; otherwise it is planned again when its inputs are complete.
    at_once: bool,
    one_task: bool,
    row_limit: Option<u64>,
    /// What may yet change.
    notes: Vec<String>,
}

impl FirstPlan {
    fn of(planner: &mut JobPlanner, context: &TaskContext) -> Result<Self> {
        let step = planner.start()?;
        let headline = headline(planner);
        let mut stages = Vec::with_capacity(step.stages.len());
        for planned in &step.stages {
            stages.push(Stage::at_once(planned, planner, context)?);
        }
        if !step.complete {
            add_later_stages(planner, &mut stages)?;
        }
        Ok(Self { headline, stages })
    }
}

impl Stage {
    fn at_once(planned: &PlannedStage, planner: &JobPlanner, context: &TaskContext) -> Result<Self> {
        let stage = planner.codec.decode_stage(planned.plan.clone(), context)?;
        Ok(Self {
            id: planned.stage,
            plan: stage.plan,
            output: stage.output,
            inputs: planned.inputs.clone(),
            at_once: true,
            one_task: planned.partitions == 1 || matches!(planned.slicing, PlannedSlicing::Whole { .. }),
            row_limit: planned.row_limit,
            notes: vec![],
        })
    }

    fn later(cut: Cut) -> Result<Self> {
        let inputs = inputs_of(&cut.plan)?;
        let one_task = partitions(&cut.plan) == 1;
        let Cut { stage: id, plan, output, row_limit } = cut;
        Ok(Self { id, plan, output, inputs, at_once: false, one_task, row_limit, notes: vec![] })
    }
}

fn headline(planner: &JobPlanner) -> String {
    let executors = planner.cluster.executors.len();
    let slots: u32 = planner.cluster.executors.iter().map(|executor| executor.slots).sum();
    let cluster = match executors {
        0 => "no executor is connected".to_owned(),
        1 => format!("1 executor with {slots} slots"),
        _ => format!("{executors} executors with {slots} slots"),
    };
    let (reads, limit) = (planner.input_bytes, planner.config.single_task_bytes);
    let reads_text = match reads {
        0 => "no files".to_owned(),
        _ => format!("files of {}", Bytes(reads)),
    };
    if planner.one_task.is_none() {
        return format!("{cluster}; reads {reads_text}");
    }
    let reason = if reads <= limit {
        format!("that is at most ballista.planner.single_task_bytes={}", Bytes(limit))
    } else {
        "one executor has all slots".to_owned()
    };
    format!("{cluster}; reads {reads_text}; one task, because {reason}")
}

/// Cuts what remains as if every exchange were complete and nothing were changed by its size.
fn add_later_stages(planner: &JobPlanner, stages: &mut Vec<Stage>) -> Result<()> {
    let mut preview = Preview::default();
    for stage in stages.iter() {
        preview.made(stage.id, &stage.output);
    }
    let mut remaining = Arc::clone(&planner.remaining);
    for _ in 0..MAX_ROUNDS {
        if let Some((plan, stage)) = range_exchange(&remaining, planner, &mut preview)? {
            remaining = plan;
            stages.push(stage);
        }
        let CutPlan { plan, cuts, ready } = cut(&remaining, &mut preview)?;
        for cut in cuts {
            preview.made(cut.stage, &cut.output);
            stages.push(Stage::later(cut)?);
        }
        remaining = plan;
        if ready {
            let ordered = partitions(&remaining) > 1 && find_sorted_ranges(&remaining);
            let output = StageOutput::Result { ordered };
            let last = Cut { stage: preview.next_stage(), plan: remaining, output, row_limit: None };
            stages.push(Stage::later(last)?);
            note_joins(planner, stages);
            return Ok(());
        }
    }
    Err(DataFusionError::Internal("the plan has no last stage".to_owned()))
}

/// What [`cut`] is told while nothing has run.
#[derive(Default)]
struct Preview {
    next: u32,
    values: BTreeMap<StageId, ScalarValue>,
}

impl Preview {
    fn made(&mut self, stage: StageId, output: &StageOutput) {
        self.next = self.next.max(stage.0 + 1);
        if matches!(output, StageOutput::Scalar) {
            // Never evaluated: it is what people read in the value's place.
            self.values.insert(stage, ScalarValue::from(format!("value of stage {stage}")));
        }
    }
}

impl CutContext for Preview {
    fn is_complete(&self, _: StageId) -> bool {
        true
    }

    fn scalar(&self, stage: StageId) -> Option<&ScalarValue> {
        self.values.get(&stage)
    }

    fn next_stage(&mut self) -> StageId {
        self.next += 1;
        StageId(self.next - 1)
    }

    fn set_parallelism(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan)
    }

    fn wait_for_build_bytes(&self) -> Option<usize> {
        None
    }
}

/// The second exchange of a global sort whose input lies in the executors, and the plan behind it.
fn range_exchange(
    remaining: &Arc<dyn ExecutionPlan>,
    planner: &JobPlanner,
    preview: &mut Preview,
) -> Result<Option<(Arc<dyn ExecutionPlan>, Stage)>> {
    let Some(sort) = find_range_sort(remaining) else { return Ok(None) };
    let Some(sampled) = sort.input().downcast_ref::<ShuffleReaderExec>() else { return Ok(None) };
    let (input, ordering, id) = (Arc::clone(sort.input()), sort.ordering().clone(), preview.next_stage());
    let buckets = planner.cluster.slots();
    let partitioning = OutputPartitioning::Range { keys: ordering.clone(), bounds: vec![], buckets };
    let unknown = ExchangeStatistics { rows: None, bytes: None, exact: false };
    let ranges = (0..buckets as u32).map(|bucket| bucket..bucket + 1).collect();
    let reader = ShuffleReaderExec::new(id, input.schema(), ranges, unknown);
    let sorted = SortExec::new(ordering, Arc::new(reader)).with_preserve_partitioning(true);
    let limit = Bytes(planner.config.range_sort_bytes);
    let note = format!(
        "if the rows of stage {} take at most {limit}, one task sorts them and this exchange is left out; \
         otherwise there are as many ranges as their size asks for",
        sampled.stage()
    );
    let output = StageOutput::Exchange { partitioning, sample: vec![] };
    let mut stage = Stage::later(Cut { stage: id, plan: input, output, row_limit: None })?;
    stage.notes.push(note);
    Ok(Some((replace_range_sort(remaining, Arc::new(sorted))?, stage)))
}

fn find_sorted_ranges(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.children().as_slice() {
        [child] if !plan.is::<SortExec>() => find_sorted_ranges(child),
        _ => plan.is::<SortExec>(),
    }
}

/// Says of every join of two exchanges what their sizes decide.
fn note_joins(planner: &JobPlanner, stages: &mut [Stage]) {
    if !planner.config.adaptive {
        return;
    }
    let at_once: BTreeSet<StageId> = stages.iter().filter(|stage| stage.at_once).map(|stage| stage.id).collect();
    let limit = planner.broadcast.usual();
    for stage in stages.iter_mut().filter(|stage| !stage.at_once) {
        let mut notes = vec![];
        joins(&stage.plan, &mut |join| notes.extend(note_of_join(join, &at_once, limit)));
        stage.notes.extend(notes);
    }
}

fn note_of_join(join: &HashJoinExec, at_once: &BTreeSet<StageId>, limit: usize) -> Option<String> {
    let side = |plan: &Arc<dyn ExecutionPlan>| {
        let reader = plan.downcast_ref::<ShuffleReaderExec>()?;
        (!reader.is_broadcast()).then(|| reader.stage())
    };
    let (left, right) = (side(join.left())?, side(join.right())?);
    let join_type = *join.join_type();
    let swappable = join_type.supports_swap();
    // What is known before the other side is moved need not be moved by hash, nor need the other side.
    let may_stay = |stage: StageId| limit > 0 && !at_once.contains(&stage);
    let left_broadcast = may_stay(right) && probe_decides(join_type);
    let right_broadcast = may_stay(left) && swappable && probe_decides(join_type.swap());
    let on = join_in_words(join);
    let limit = Bytes(limit as u64);
    let broadcast = |small: StageId, other: StageId| {
        format!("if stage {small} yields at most {limit}, it is broadcast, and the rows of stage {other} stay in place")
    };
    let rule = match (left_broadcast, right_broadcast) {
        (true, false) => broadcast(left, right),
        (false, true) => broadcast(right, left),
        (true, true) => format!(
            "whichever of stages {left} and {right} is complete first is broadcast if it yields at most {limit}, and \
             the rows of the other stay in place"
        ),
        (false, false) if swappable => "the smaller side becomes the build side".to_owned(),
        (false, false) => return None,
    };
    Some(format!("{on}: {rule}"))
}

fn joins(plan: &Arc<dyn ExecutionPlan>, look: &mut dyn FnMut(&HashJoinExec)) {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && *join.partition_mode() == PartitionMode::Partitioned
        && !join.null_aware
    {
        look(join);
    }
    plan.children().into_iter().for_each(|child| joins(child, look));
}
