// SPDX-License-Identifier: Apache-2.0
//! Plans one job, a step at a time.
//!
//! [`JobPlanner::start`] gives the first stages; every finished stage brings more through
//! [`JobPlanner::stage_finished`], until a step is `complete`: the final stage is among those given.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Array;
use ballista_core::{BallistaConfig, StageId, units};
use ballista_plan::cached::CachedExec;
use ballista_plan::codec::{PlanCodec, decode_batches};
use ballista_plan::config::ballista_config;
use ballista_plan::determinism::is_deterministic;
use ballista_plan::reader::{ExchangeStatistics, ShuffleReaderExec};
use ballista_plan::slice::can_slice;
use ballista_plan::stage::{OutputPartitioning, StageOutput, StagePlan};
use ballista_plan::stores::planning_context;
use ballista_plan::write::WriteExec;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;

use super::adapt::{BroadcastLimit, adapt, with_exact_statistics};
use super::cut::{Cut, CutContext, CutPlan, cut, partitions};
use super::explain::{indented, operator_lines};
use super::fragment::{Parallelism, scanned_bytes, set_parallelism};
use super::notes;
use super::optimize::Optimizer;
use super::range::{bounds_of, find_range_sort, mark_range_sort, replace_range_sort};
use super::size::Size;

/// A build side estimated at so many times what could be broadcast may still turn out to be small enough.
const WAIT_FACTOR: usize = 2;

/// What a partition reads should be at most this part of a slot's memory: operators keep it, and more beside it.
const PARTITION_SHARE: u64 = 8;

/// Most buckets of one exchange.
const MAX_BUCKETS: usize = 512;

/// One executor, as far as planning is concerned.
#[derive(Debug, Clone, Copy)]
pub struct ExecutorShape {
    /// Task slots.
    pub slots: u32,
    /// Memory pool in bytes.
    pub memory_bytes: u64,
}

/// The executors that a job is planned for.
#[derive(Debug, Clone, Default)]
pub struct ClusterShape {
    /// Those connected when the job was accepted.
    pub executors: Vec<ExecutorShape>,
}

impl ClusterShape {
    pub(super) fn slots(&self) -> usize {
        self.executors.iter().map(|executor| executor.slots as usize).sum::<usize>().max(1)
    }

    fn least_memory(&self) -> usize {
        self.executors.iter().map(|executor| executor.memory_bytes as usize).min().unwrap_or(0)
    }

    /// The least memory that a slot has for itself; `None` if no executor says.
    fn slot_memory(&self) -> Option<u64> {
        let known = self.executors.iter().filter(|executor| executor.memory_bytes > 0);
        known.map(|executor| executor.memory_bytes / u64::from(executor.slots.max(1))).min()
    }

    fn most_slots(&self) -> usize {
        self.executors.iter().map(|executor| executor.slots as usize).max().unwrap_or(1).max(1)
    }
}

/// What a finished stage reported, summed over its tasks.
#[derive(Debug, Clone, Default)]
pub struct StageResult {
    /// Rows per bucket.
    pub bucket_rows: Vec<u64>,
    /// Bytes in memory per bucket.
    pub bucket_bytes: Vec<u64>,
    /// Rows in all.
    pub rows: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// The rows themselves, as an Arrow IPC stream: of a scalar subquery.
    pub inline: Option<Bytes>,
    /// Sampled sort keys, each with the number of rows it stands for.
    pub samples: Vec<(u64, Bytes)>,
}

/// How the partitions of a stage are handed to tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedSlicing {
    /// Several tasks, each with at most this many partitions.
    PerSlot {
        /// At most so many partitions per task.
        max_partitions: u32,
    },
    /// One task with all partitions, that can use this many slots.
    Whole {
        /// Slots of which it can make use.
        slots: u32,
    },
}

/// A stage to run.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// Its number.
    pub stage: StageId,
    /// Encoded [`StagePlan`].
    pub plan: Bytes,
    /// For people: the plan as text, a line per operator, inputs two spaces deeper than what reads them.
    pub display: String,
    /// For people: what becomes of the rows.
    pub output: String,
    /// Partitions of the plan.
    pub partitions: u32,
    /// How they are handed to tasks.
    pub slicing: PlannedSlicing,
    /// Stages whose output it reads; all finished.
    pub inputs: Vec<StageId>,
    /// So many rows are enough.
    pub row_limit: Option<u64>,
    /// Its rows are the result.
    pub is_final: bool,
    /// What its tasks write is published when all of them have succeeded.
    pub commits: bool,
    /// Result rows must arrive in the order of the partitions.
    pub ordered: bool,
    /// Its tasks give the same rows in the same buckets whenever they run.
    pub deterministic: bool,
}

/// What to run next.
#[derive(Debug, Clone, Default)]
pub struct PlanStep {
    /// Stages whose inputs are complete.
    pub stages: Vec<PlannedStage>,
    /// The job reads little.
    pub small: bool,
    /// The job is one task; should that run out of memory, [`JobPlanner::spread`] plans it again.
    pub one_task: bool,
    /// The final stage is among those given so far.
    pub complete: bool,
    /// What was changed because of what is known by now, and why, for people.
    pub notes: Vec<String>,
    /// Finished stages that stand for rows which other jobs have kept; only in the first step.
    pub imports: Vec<(StageId, String)>,
}

/// Plans one job.
#[derive(Debug)]
pub struct JobPlanner {
    pub(super) remaining: Arc<dyn ExecutionPlan>,
    pub(super) codec: PlanCodec,
    pub(super) config: BallistaConfig,
    pub(super) cluster: ClusterShape,
    optimizer: Optimizer,
    pub(super) input_bytes: u64,
    /// The plan as it came, if it is to run as one task.
    pub(super) one_task: Option<Arc<dyn ExecutionPlan>>,
    pub(super) broadcast: BroadcastLimit,
    stages: Stages,
    size: Size,
    complete: bool,
    /// What was changed since the last step, and why.
    notes: Vec<String>,
    /// Rows that other jobs have kept, until the first step.
    imports: Vec<(StageId, String)>,
    keeps_rows: bool,
}

/// The stages made so far.
#[derive(Debug)]
struct Stages {
    next: u32,
    bucket_bytes: BTreeMap<StageId, Vec<u64>>,
    scalars: BTreeMap<StageId, ScalarValue>,
    finished: BTreeMap<StageId, ()>,
    parallelism: Parallelism,
    wait_for_build_bytes: Option<usize>,
}

impl CutContext for Stages {
    fn is_complete(&self, stage: StageId) -> bool {
        self.finished.contains_key(&stage)
    }

    fn scalar(&self, stage: StageId) -> Option<&ScalarValue> {
        self.scalars.get(&stage)
    }

    fn next_stage(&mut self) -> StageId {
        self.next += 1;
        StageId(self.next - 1)
    }

    fn set_parallelism(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        set_parallelism(&plan, &self.bucket_bytes, &self.parallelism)
    }

    fn wait_for_build_bytes(&self) -> Option<usize> {
        self.wait_for_build_bytes
    }
}

impl JobPlanner {
    /// A planner for the encoded `plan`, for a session and the executors of now.
    pub fn try_new(plan: &[u8], session: &SessionState, codec: PlanCodec, cluster: ClusterShape) -> Result<Self> {
        let remaining = codec.decode(plan, &planning_context(TaskContext::from(session)))?;
        Ok(Self::new(remaining, session, codec, cluster))
    }

    /// A planner for a decoded plan.
    pub fn new(plan: Arc<dyn ExecutionPlan>, session: &SessionState, codec: PlanCodec, cluster: ClusterShape) -> Self {
        let Imported { plan, jobs: imports, partition_bytes } = import(plan);
        let options = session.config_options();
        let mut config = ballista_config(options);
        if let Some(memory) = cluster.slot_memory() {
            let share = (memory / PARTITION_SHARE).max(1);
            config.bucket_bytes = config.bucket_bytes.min(share);
            config.read_bytes = config.read_bytes.min(share);
        }
        let cached_bytes: u64 = partition_bytes.values().flatten().sum();
        let input_bytes = scanned_bytes(&plan).saturating_add(cached_bytes);
        let fits_one_task = input_bytes <= config.single_task_bytes || cluster.most_slots() == cluster.slots();
        let one_task = (config.single_task_bytes > 0 && fits_one_task).then(|| Arc::clone(&plan));
        let slots = cluster.slots();
        let broadcast = BroadcastLimit {
            bytes: config.broadcast_bytes as usize,
            executors: cluster.executors.len(),
            memory: cluster.least_memory(),
        };
        let optimizer = match one_task {
            Some(_) => Optimizer::new(options, &broadcast, cluster.most_slots(), false),
            None => Optimizer::new(options, &broadcast, buckets(input_bytes, &config, slots), true),
        };
        let waits = config.adaptive && config.broadcast_bytes > 0;
        let stages = Stages {
            next: imports.len() as u32,
            finished: partition_bytes.keys().map(|stage| (*stage, ())).collect(),
            bucket_bytes: partition_bytes,
            scalars: BTreeMap::new(),
            parallelism: Parallelism { slots, read_bytes: config.read_bytes, scan_bytes: config.bucket_bytes },
            wait_for_build_bytes: waits.then_some(WAIT_FACTOR * broadcast.most()),
        };
        Self {
            remaining: plan,
            codec,
            config,
            cluster,
            optimizer,
            input_bytes,
            one_task,
            broadcast,
            stages,
            size: Size::default(),
            complete: false,
            notes: vec![],
            imports,
            keeps_rows: false,
        }
    }

    /// The rows stay in the executors, each partition of the final stage in a bucket of its own.
    pub fn keeping_rows(self) -> Self {
        Self { keeps_rows: true, ..self }
    }

    /// The first stages.
    pub fn start(&mut self) -> Result<PlanStep> {
        let plan = self.optimizer.optimize(Arc::clone(&self.remaining))?;
        if self.one_task.is_some() {
            self.remaining = plan;
            let last = self.final_stage(true)?;
            self.complete = true;
            let small = self.input_bytes <= self.config.single_task_bytes;
            let notes = std::mem::take(&mut self.notes);
            let imports = std::mem::take(&mut self.imports);
            return Ok(PlanStep { stages: vec![last], small, one_task: true, complete: true, notes, imports });
        }
        self.remaining = mark_range_sort(&plan, self.config.range_sort_bytes as usize)?;
        self.next_step()
    }

    /// The first stages of the plan that [`start`](Self::start) gave as one task, spread over many.
    pub fn spread(&mut self) -> Result<PlanStep> {
        let Some(plan) = self.one_task.take() else {
            return Err(DataFusionError::Internal("the job was not planned as one task".into()));
        };
        let buckets = buckets(self.input_bytes, &self.config, self.stages.parallelism.slots);
        self.optimizer = Optimizer::new(self.optimizer.options(), &self.broadcast, buckets, true);
        self.remaining = plan;
        self.complete = false;
        self.notes.push("planned again as many tasks, because one task ran out of memory".to_owned());
        self.start()
    }

    /// The stages that became possible because `stage` has finished.
    pub fn stage_finished(&mut self, stage: StageId, result: StageResult) -> Result<PlanStep> {
        if self.complete {
            return Ok(PlanStep { complete: true, ..PlanStep::default() });
        }
        let plan = Arc::clone(&self.remaining);
        if let Some(inline) = &result.inline {
            let value = scalar_of(inline, &reader_schema(&plan, stage)?)?;
            self.stages.scalars.insert(stage, value);
        }
        self.stages.bucket_bytes.insert(stage, result.bucket_bytes);
        self.stages.finished.insert(stage, ());
        self.remaining = with_exact_statistics(plan, stage, result.rows, result.bytes)?;
        if self.config.adaptive {
            let mut notes = vec![];
            let (adapted, changed) = adapt(Arc::clone(&self.remaining), &self.broadcast, &mut notes)?;
            self.notes.extend(notes.into_iter().map(|note| format!("after stage {stage}: {note}")));
            if changed {
                self.remaining = self.optimizer.reoptimize(adapted)?;
            }
        }
        let range_input = find_range_sort(&self.remaining)
            .and_then(|sort| sort.input().downcast_ref::<ShuffleReaderExec>())
            .is_some_and(|reader| reader.stage() == stage);
        if range_input {
            return self.plan_range_exchange(result.bytes, &result.samples);
        }
        self.next_step()
    }

    fn next_step(&mut self) -> Result<PlanStep> {
        let CutPlan { plan, cuts, ready } = cut(&self.remaining, &mut self.stages)?;
        self.remaining = plan;
        let mut stages = cuts.into_iter().map(|cut| self.planned(cut)).collect::<Result<Vec<_>>>()?;
        if ready {
            stages.push(self.final_stage(false)?);
            self.complete = true;
        }
        let (notes, imports) = (std::mem::take(&mut self.notes), std::mem::take(&mut self.imports));
        Ok(PlanStep { stages, complete: self.complete, notes, imports, ..PlanStep::default() })
    }

    /// The input of the global sort lies in the executors: move it into ranges, or sort it in one task if it is small.
    fn plan_range_exchange(&mut self, bytes: u64, samples: &[(u64, Bytes)]) -> Result<PlanStep> {
        let Some(sort) = find_range_sort(&self.remaining) else { return self.next_step() };
        let ordering = sort.ordering().clone();
        if bytes <= self.config.range_sort_bytes || self.stages.parallelism.slots == 1 {
            let limit = units::Bytes(self.config.range_sort_bytes);
            self.notes.push(format!("one task sorts {}; ranges are made of more than {limit}", units::Bytes(bytes)));
            self.remaining = replace_range_sort(&self.remaining, sort.merged())?;
            return self.next_step();
        }
        let input = Arc::clone(sort.input());
        let by_size = bytes.div_ceil(self.config.read_bytes.max(1)) as usize;
        let slots = self.stages.parallelism.slots;
        let wanted = by_size.clamp(slots, MAX_BUCKETS.max(slots));
        let bounds = bounds_of(&ordering, &input.schema(), samples, wanted)?;
        let buckets = bounds.first().map_or(0, |column| column.len()) + 1;
        let stage = self.stages.next_stage();
        self.notes.push(format!("stage {stage} moves {} into {buckets} sorted ranges", units::Bytes(bytes)));
        let partitioning = OutputPartitioning::Range { keys: ordering.clone(), bounds, buckets };
        let statistics = ExchangeStatistics { rows: None, bytes: None, exact: false };
        let ranges = (0..buckets as u32).map(|bucket| bucket..bucket + 1).collect();
        let reader = ShuffleReaderExec::new(stage, input.schema(), ranges, statistics);
        let sorted = SortExec::new(ordering, Arc::new(reader)).with_preserve_partitioning(true);
        self.remaining = replace_range_sort(&self.remaining, Arc::new(sorted))?;
        let output = StageOutput::Exchange { partitioning, sample: vec![] };
        let planned = self.planned(Cut { stage, plan: input, output, row_limit: None })?;
        let notes = std::mem::take(&mut self.notes);
        Ok(PlanStep { stages: vec![planned], notes, ..PlanStep::default() })
    }

    fn final_stage(&mut self, whole: bool) -> Result<PlannedStage> {
        let stage = self.stages.next_stage();
        let plan = if whole {
            Arc::clone(&self.remaining)
        } else {
            self.stages.set_parallelism(Arc::clone(&self.remaining))?
        };
        // Several sorted partitions at the root only come from a range exchange.
        let ordered = !self.keeps_rows && !whole && partitions(&plan) > 1 && ends_in_range_sort(&plan);
        let output = if self.keeps_rows {
            let partitioning = OutputPartitioning::Passthrough { buckets: partitions(&plan) };
            StageOutput::Exchange { partitioning, sample: vec![] }
        } else {
            StageOutput::Result { ordered }
        };
        let commits = WriteExec::is_in(&plan);
        let mut planned = self.planned(Cut { stage, plan, output, row_limit: None })?;
        planned.commits = commits;
        if whole {
            planned.slicing = PlannedSlicing::Whole { slots: self.cluster.most_slots() as u32 };
        }
        planned.is_final = true;
        planned.ordered = ordered;
        Ok(planned)
    }

    fn planned(&mut self, cut: Cut) -> Result<PlannedStage> {
        self.notes.extend(notes::joined_buckets(cut.stage, &cut.plan, &self.stages.bucket_bytes));
        let slicing = if can_slice(&cut.plan) {
            PlannedSlicing::PerSlot { max_partitions: u32::MAX }
        } else {
            PlannedSlicing::Whole { slots: self.cluster.most_slots() as u32 }
        };
        let (buckets, own) = match &cut.output {
            StageOutput::Exchange { partitioning, .. } => {
                (partitioning.buckets(), matches!(partitioning, OutputPartitioning::Passthrough { .. }))
            }
            StageOutput::Result { .. } | StageOutput::Scalar => (1, false),
        };
        let partitions = self.size.add(partitions(&cut.plan), buckets, own)?;
        let deterministic = cut.row_limit.is_none() && is_deterministic(&cut.plan, &cut.output);
        let inputs = inputs_of(&cut.plan)?;
        let (display, output) = (indented(&operator_lines(&cut.plan, false)), cut.output.describe());
        let plan = self.codec.encode_stage(&StagePlan { plan: cut.plan, output: cut.output })?;
        Ok(PlannedStage {
            stage: cut.stage,
            plan,
            display,
            output,
            partitions,
            slicing,
            inputs,
            row_limit: cut.row_limit,
            is_final: false,
            commits: false,
            ordered: false,
            deterministic,
        })
    }
}

/// A plan whose cached rows are read like the output of finished stages.
struct Imported {
    plan: Arc<dyn ExecutionPlan>,
    /// The stages, and the jobs that keep their rows.
    jobs: Vec<(StageId, String)>,
    partition_bytes: BTreeMap<StageId, Vec<u64>>,
}

fn import(plan: Arc<dyn ExecutionPlan>) -> Imported {
    let mut imported = Imported { plan: Arc::clone(&plan), jobs: vec![], partition_bytes: BTreeMap::new() };
    let (jobs, partition_bytes) = (&mut imported.jobs, &mut imported.partition_bytes);
    let read = plan.transform_up(|node| {
        let Some(cached) = node.downcast_ref::<CachedExec>() else { return Ok(Transformed::no(node)) };
        let known = jobs.iter().find(|(_, job)| job == cached.job()).map(|(stage, _)| *stage);
        let stage = known.unwrap_or_else(|| {
            let stage = StageId(jobs.len() as u32);
            jobs.push((stage, cached.job().to_owned()));
            partition_bytes.insert(stage, cached.partition_bytes().to_vec());
            stage
        });
        let is_known = !cached.is_pending();
        let statistics = ExchangeStatistics {
            rows: is_known.then_some(cached.rows() as usize),
            bytes: is_known.then(|| cached.partition_bytes().iter().sum::<u64>() as usize),
            exact: is_known,
        };
        let ranges = (0..partitions(&node) as u32).map(|partition| partition..partition + 1).collect();
        let reader = ShuffleReaderExec::new(stage, cached.schema(), ranges, statistics);
        Ok(Transformed::yes(Arc::new(reader) as Arc<dyn ExecutionPlan>))
    });
    // Nothing in there fails but the making of nodes over new children, which optimising would do in the same way.
    if let Ok(read) = read {
        imported.plan = read.data;
    }
    imported
}

/// How many buckets an exchange of a job that reads `input_bytes` has: a multiple of the slots.
fn buckets(input_bytes: u64, config: &BallistaConfig, slots: usize) -> usize {
    let by_size = input_bytes.div_ceil(config.bucket_bytes.max(1)) as usize;
    by_size.clamp(slots, MAX_BUCKETS.max(slots)).next_multiple_of(slots)
}

fn ends_in_range_sort(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.is::<datafusion::physical_plan::projection::ProjectionExec>() {
        return ends_in_range_sort(plan.children()[0]);
    }
    plan.is::<SortExec>()
}

pub(super) fn inputs_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<StageId>> {
    let mut stages = std::collections::BTreeSet::new();
    plan.apply(|node| {
        if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() {
            stages.insert(reader.stage());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(stages.into_iter().collect())
}

fn reader_schema(plan: &Arc<dyn ExecutionPlan>, stage: StageId) -> Result<arrow::datatypes::SchemaRef> {
    let mut schema = None;
    plan.apply(|node| {
        if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>()
            && reader.stage() == stage
        {
            schema = Some(node.schema());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    schema.ok_or_else(|| DataFusionError::Internal(format!("no reader of stage {stage} in the remaining plan")))
}

/// The one value of a scalar subquery; NULL if it has no row.
fn scalar_of(inline: &[u8], schema: &arrow::datatypes::SchemaRef) -> Result<ScalarValue> {
    let rows = decode_batches(inline)?.into_iter().find(|batch| batch.num_rows() > 0);
    match rows {
        Some(batch) => ScalarValue::try_from_array(batch.column(0), 0),
        None => ScalarValue::try_from(schema.field(0).data_type()),
    }
}
