// SPDX-License-Identifier: Apache-2.0
//! Takes the exchanges that can run now out of the remaining plan.
//!
//! An operator that moves rows between partitions becomes an exchange: its input becomes the plan of a stage, and it
//! becomes a reader of that stage. The same goes for the build side of a collected join, which every task of the probe
//! side reads. An exchange can run now if nothing below it waits for another.
//!
//! ```text
//! RepartitionExec(hash)     → reader, buckets by hash
//! RepartitionExec(rr)       → reader, rows in turn
//! … that keep the order     → the same, sorted again
//! CoalescePartitionsExec    → reader of one bucket (+ limit)
//! SortPreservingMergeExec   → itself over a reader with one sorted run per partition
//! collected build side      → broadcast reader
//! scalar subquery           → a stage whose value is reported to the scheduler
//! ```
//!
//! The probe side of a join waits for the build side if that may turn out small enough to be broadcast, because then
//! the probe side need not be moved at all.

use std::sync::Arc;

use ballista_core::StageId;
use ballista_plan::determinism::is_volatile;
use ballista_plan::equivalences::across_exchange;
use ballista_plan::reader::{ExchangeStatistics, ShuffleReaderExec};
use ballista_plan::slice::{ChildSlice, child_slices, file_scan};
use ballista_plan::stage::{OutputPartitioning, StageOutput};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::{LexOrdering, OrderingRequirements, Partitioning, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::adapt::estimate;
use super::range::RangeSortExec;
use super::scalar::{SubqueryScope, references_unresolved, resolved_scope, value_plan};

/// A build side up to this size may be scanned by every task instead of being broadcast.
const REPEATED_SCAN_BYTES: usize = 1 << 20;

/// A stage that can run now.
#[derive(Debug)]
pub struct Cut {
    /// Its number.
    pub stage: StageId,
    /// What it runs.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What becomes of its rows.
    pub output: StageOutput,
    /// So many rows are enough.
    pub row_limit: Option<u64>,
}

/// What cutting needs to know of the job.
pub trait CutContext {
    /// Whether the stage has finished.
    fn is_complete(&self, stage: StageId) -> bool;
    /// The value of a finished scalar subquery stage.
    fn scalar(&self, stage: StageId) -> Option<&datafusion::common::ScalarValue>;
    /// Number of the next stage.
    fn next_stage(&mut self) -> StageId;
    /// Sets the parallelism of a fragment whose inputs are complete.
    fn set_parallelism(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>;
    /// Build sides estimated above this are not waited for; `None`: never wait.
    fn wait_for_build_bytes(&self) -> Option<usize>;
}

/// The remaining plan after a cut.
#[derive(Debug)]
pub struct CutPlan {
    /// With readers in place of what was cut out.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The stages to run now.
    pub cuts: Vec<Cut>,
    /// Nothing in the plan waits for anything: it is the final stage.
    pub ready: bool,
}

/// Cuts `plan`.
pub fn cut(plan: &Arc<dyn ExecutionPlan>, context: &mut dyn CutContext) -> Result<CutPlan> {
    let mut cutter = Cutter { context, cuts: Vec::new(), scopes: Vec::new(), in_order: false };
    let (plan, ready) = cutter.visit(plan)?;
    Ok(CutPlan { plan, cuts: cutter.cuts, ready })
}

struct Cutter<'a> {
    context: &'a mut dyn CutContext,
    cuts: Vec<Cut>,
    /// Scalar subqueries of the plan levels around the node that is visited, innermost last.
    scopes: Vec<SubqueryScope>,
    /// Somebody above the node that is visited needs its rows in their order.
    in_order: bool,
}

type Visited = (Arc<dyn ExecutionPlan>, bool);

impl Cutter<'_> {
    fn visit(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Visited> {
        if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() {
            return Ok((Arc::clone(node), self.context.is_complete(reader.stage())));
        }
        if let Some(subquery) = node.downcast_ref::<ScalarSubqueryExec>() {
            return self.visit_scalar_subquery(node, subquery);
        }
        let (node, ready) = self.visit_children(node)?;
        let ready = ready && !references_unresolved(&node, &self.scopes)?;
        if let Some(sort) = node.downcast_ref::<RangeSortExec>() {
            return self.exchange_range(sort, ready).map(|visited| visited.unwrap_or((Arc::clone(&node), false)));
        }
        match exchange_of(&node, self.in_order)? {
            Some(exchange) if ready => self.exchange(exchange),
            Some(_) => Ok((node, false)),
            None => Ok((node, ready)),
        }
    }

    fn visit_children(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Visited> {
        if node.children().is_empty() {
            return Ok((Arc::clone(node), true));
        }
        let probe_waits = self.probe_waits(node);
        let collected = collected_children(node);
        let mut children = Vec::new();
        let mut ready = true;
        let in_order = self.in_order;
        for (index, child) in node.children().into_iter().enumerate() {
            self.in_order = needs_order(node, index, in_order);
            let (visited, child_ready) = if collected.contains(&index) {
                self.visit_collected(child)?
            } else if probe_waits && index == 1 {
                self.visit_waiting(child)?
            } else {
                self.visit(child)?
            };
            ready &= child_ready;
            children.push(visited);
        }
        self.in_order = in_order;
        Ok((replace(node, children)?, ready))
    }

    /// Whether the probe side of the join `node` should not be moved before the size of the build side is known.
    fn probe_waits(&self, node: &Arc<dyn ExecutionPlan>) -> bool {
        let Some(limit) = self.context.wait_for_build_bytes() else { return false };
        let Some(join) = node.downcast_ref::<HashJoinExec>() else { return false };
        if *join.partition_mode() != PartitionMode::Partitioned || join.null_aware {
            return false;
        }
        let build = join.left();
        let undecided = match build.downcast_ref::<ShuffleReaderExec>() {
            Some(reader) => !self.context.is_complete(reader.stage()),
            None => build.is::<RepartitionExec>(),
        };
        undecided && join.right().is::<RepartitionExec>() && estimate(build).bytes.is_none_or(|bytes| bytes <= limit)
    }

    /// Visits what is below an exchange, but leaves the exchange itself for later.
    fn visit_waiting(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Visited> {
        let (node, _) = self.visit_children(node)?;
        Ok((node, false))
    }

    /// Visits the build side of a join whose probe side runs as several tasks: each reads all of it.
    fn visit_collected(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Visited> {
        if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() {
            return Ok((Arc::clone(node), self.context.is_complete(reader.stage())));
        }
        // What collects the rows of all partitions is the exchange itself.
        let merges = node.is::<CoalescePartitionsExec>() && fetch_of(node).is_none();
        let input = if merges { Arc::clone(node.children()[0]) } else { Arc::clone(node) };
        let (input, ready) = self.visit(&input)?;
        let ready = ready && !references_unresolved(&input, &self.scopes)?;
        if !ready {
            let kept = if merges { replace(node, vec![input])? } else { input };
            return Ok((kept, false));
        }
        if let Some(reader) = input.downcast_ref::<ShuffleReaderExec>() {
            return Ok((Arc::new(reader.clone().with_broadcast()), true));
        }
        if partitions(&input) == 1 && is_cheap_to_repeat(&input) {
            return Ok((input, true));
        }
        let reader = self.cut_exchange(input, OutputPartitioning::Single, vec![], None)?;
        Ok((Arc::new(reader.with_broadcast()), false))
    }

    fn exchange(&mut self, exchange: Exchange) -> Result<Visited> {
        let plan: Arc<dyn ExecutionPlan> = match exchange {
            Exchange::Hash { input, keys, buckets, ordering } => {
                let partitioning = OutputPartitioning::Hash { keys: keys.clone(), buckets };
                sorted(self.cut_exchange(input, partitioning, vec![], None)?.with_hash_keys(keys), ordering)
            }
            Exchange::RoundRobin { input, buckets, ordering } => {
                let partitioning = OutputPartitioning::RoundRobin { buckets };
                sorted(self.cut_exchange(input, partitioning, vec![], None)?, ordering)
            }
            Exchange::Coalesce { input, fetch } => {
                let limit = fetch.map(|fetch| fetch as u64);
                let reader = Arc::new(self.cut_exchange(input, OutputPartitioning::Single, vec![], limit)?);
                match fetch {
                    Some(fetch) => Arc::new(GlobalLimitExec::new(reader, 0, Some(fetch))),
                    None => reader,
                }
            }
            Exchange::Merge { merge, input } => {
                // Without an ordering, the sort keys are constant.
                let ordering = input.output_ordering().cloned();
                let mut reader = self.cut_passthrough(input, vec![])?;
                if let Some(ordering) = ordering {
                    reader = reader.with_ordering(ordering);
                }
                replace(&merge, vec![Arc::new(reader)])?
            }
        };
        Ok((plan, false))
    }

    /// A global sort of many rows: first the rows stay where they are and report samples, then they move to the range
    /// that they belong to. `None` while it waits.
    fn exchange_range(&mut self, sort: &RangeSortExec, ready: bool) -> Result<Option<Visited>> {
        if !ready {
            return Ok(None);
        }
        let sample: Vec<PhysicalSortExpr> = sort.ordering().iter().cloned().collect();
        let reader = self.cut_passthrough(Arc::clone(sort.input()), sample)?;
        let waiting = RangeSortExec::new(Arc::new(reader), sort.ordering().clone());
        Ok(Some((Arc::new(waiting), false)))
    }

    fn cut_passthrough(
        &mut self,
        input: Arc<dyn ExecutionPlan>,
        sample: Vec<PhysicalSortExpr>,
    ) -> Result<ShuffleReaderExec> {
        let input = self.context.set_parallelism(input)?;
        let partitioning = OutputPartitioning::Passthrough { buckets: partitions(&input) };
        self.cut_prepared(input, partitioning, sample, None)
    }

    fn cut_exchange(
        &mut self,
        input: Arc<dyn ExecutionPlan>,
        partitioning: OutputPartitioning,
        sample: Vec<PhysicalSortExpr>,
        row_limit: Option<u64>,
    ) -> Result<ShuffleReaderExec> {
        let input = self.context.set_parallelism(input)?;
        self.cut_prepared(input, partitioning, sample, row_limit)
    }

    fn cut_prepared(
        &mut self,
        input: Arc<dyn ExecutionPlan>,
        partitioning: OutputPartitioning,
        sample: Vec<PhysicalSortExpr>,
        row_limit: Option<u64>,
    ) -> Result<ShuffleReaderExec> {
        let stage = self.context.next_stage();
        let statistics = ExchangeStatistics { exact: false, ..estimate(&input) };
        let ranges = (0..partitioning.buckets() as u32).map(|bucket| bucket..bucket + 1).collect();
        let reader = ShuffleReaderExec::new(stage, input.schema(), ranges, statistics)
            .with_equivalences(across_exchange(&input)?);
        let plan = resolved_scope(input, &self.scopes)?;
        self.cuts.push(Cut { stage, plan, output: StageOutput::Exchange { partitioning, sample }, row_limit });
        Ok(reader)
    }

    fn visit_scalar_subquery(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        subquery: &ScalarSubqueryExec,
    ) -> Result<Visited> {
        let mut children = vec![Arc::clone(subquery.input())];
        let mut resolved = true;
        for link in subquery.subqueries() {
            let (plan, has_value) = self.visit_subquery_plan(&link.plan)?;
            resolved &= has_value;
            children.push(plan);
        }
        let links = subquery.subqueries().iter().zip(&children[1..]).map(|(link, plan)| (link.index, Arc::clone(plan)));
        self.scopes.push(SubqueryScope::new(subquery.results().clone(), links.collect(), resolved));
        let visited = self.visit(&children[0]);
        self.scopes.pop();
        let (input, ready) = visited?;
        children[0] = input;
        Ok((replace(node, children)?, ready && resolved))
    }

    /// The plan that yields the value of a subquery, and whether it is known.
    fn visit_subquery_plan(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Visited> {
        if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>()
            && self.has_or_awaits_value(reader.stage())
        {
            let stage = reader.stage();
            return match self.context.scalar(stage) {
                Some(value) => Ok((value_plan(&plan.schema(), value)?, true)),
                None => Ok((Arc::clone(plan), false)),
            };
        }
        if is_value(plan) {
            return Ok((Arc::clone(plan), true));
        }
        let one: Arc<dyn ExecutionPlan> = match partitions(plan) {
            1 => Arc::clone(plan),
            _ => Arc::new(CoalescePartitionsExec::new(Arc::clone(plan))),
        };
        let (visited, ready) = self.visit(&one)?;
        if !ready {
            return Ok((visited, false));
        }
        let stage = self.context.next_stage();
        let statistics = ExchangeStatistics { rows: Some(1), bytes: None, exact: false };
        let reader = ShuffleReaderExec::new(stage, visited.schema(), std::iter::once(0..1).collect(), statistics);
        let plan = resolved_scope(self.context.set_parallelism(visited)?, &self.scopes)?;
        self.cuts.push(Cut { stage, plan, output: StageOutput::Scalar, row_limit: None });
        Ok((Arc::new(reader), false))
    }

    /// Whether a subquery whose plan is a reader of `stage` needs no stage of its own: it has one, or must wait.
    fn has_or_awaits_value(&self, stage: StageId) -> bool {
        self.context.scalar(stage).is_some() || !self.context.is_complete(stage)
    }
}

/// What an operator does with rows, if it moves them between partitions. Within a process, an operator can keep the
/// order of rows on the way; between executors they are sorted again where they arrive.
enum Exchange {
    Hash {
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn datafusion::physical_expr::PhysicalExpr>>,
        buckets: usize,
        ordering: Option<LexOrdering>,
    },
    RoundRobin {
        input: Arc<dyn ExecutionPlan>,
        buckets: usize,
        ordering: Option<LexOrdering>,
    },
    Coalesce {
        input: Arc<dyn ExecutionPlan>,
        fetch: Option<usize>,
    },
    Merge {
        merge: Arc<dyn ExecutionPlan>,
        input: Arc<dyn ExecutionPlan>,
    },
}

/// Whether rows of the child `index` of `node` must arrive in the order that the child claims. `in_order`: somebody
/// above needs those of `node` so. Whoever only works faster in order is served without.
fn needs_order(node: &Arc<dyn ExecutionPlan>, index: usize, in_order: bool) -> bool {
    let required = node.required_input_ordering().into_iter().nth(index).flatten();
    let maintains = node.maintains_input_order().get(index).copied().unwrap_or(false);
    matches!(required, Some(OrderingRequirements::Hard(_))) || (in_order && maintains)
}

/// `in_order`: its rows are needed in their order.
fn exchange_of(node: &Arc<dyn ExecutionPlan>, in_order: bool) -> Result<Option<Exchange>> {
    if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
        let input = Arc::clone(repartition.input());
        let ordering = if in_order { node.output_ordering().cloned() } else { None };
        return match repartition.partitioning() {
            Partitioning::Hash(keys, buckets) => {
                Ok(Some(Exchange::Hash { input, keys: keys.clone(), buckets: *buckets, ordering }))
            }
            Partitioning::RoundRobinBatch(buckets) => {
                Ok(Some(Exchange::RoundRobin { input, buckets: *buckets, ordering }))
            }
            other => Err(DataFusionError::NotImplemented(format!("distributing rows by {other}"))),
        };
    }
    let Some(input) = node.children().first().map(|child| Arc::clone(child)) else { return Ok(None) };
    // One partition, or a reader of an exchange already made: merging happens within the task.
    if partitions(&input) == 1 || input.is::<ShuffleReaderExec>() {
        return Ok(None);
    }
    if let Some(coalesce) = node.downcast_ref::<CoalescePartitionsExec>() {
        return Ok(Some(Exchange::Coalesce { input, fetch: coalesce.fetch() }));
    }
    if node.is::<SortPreservingMergeExec>() {
        return Ok(Some(Exchange::Merge { merge: Arc::clone(node), input }));
    }
    Ok(None)
}

/// `reader` with every partition sorted by `ordering`, if there is one.
fn sorted(reader: ShuffleReaderExec, ordering: Option<LexOrdering>) -> Arc<dyn ExecutionPlan> {
    match ordering {
        Some(ordering) => Arc::new(SortExec::new(ordering, Arc::new(reader)).with_preserve_partitioning(true)),
        None => Arc::new(reader),
    }
}

/// Which children every task of `node` reads as a whole; empty if `node` runs as one task anyway.
fn collected_children(node: &Arc<dyn ExecutionPlan>) -> Vec<usize> {
    if node.is::<ScalarSubqueryExec>() || partitions(node) == 1 {
        return vec![];
    }
    let slices = child_slices(node).unwrap_or_default();
    slices.iter().enumerate().filter(|(_, slice)| **slice == ChildSlice::Whole).map(|(index, _)| index).collect()
}

fn is_cheap_to_repeat(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.is::<PlaceholderRowExec>() || plan.is::<datafusion::physical_plan::empty::EmptyExec>() {
        return true;
    }
    if let Some(scan) = file_scan(plan).filter(|_| !is_volatile(plan)) {
        let bytes: u64 =
            scan.file_groups.iter().flat_map(|group| group.files()).map(|file| file.object_meta.size).sum();
        return bytes as usize <= REPEATED_SCAN_BYTES;
    }
    let row_wise = plan.is::<FilterExec>() || plan.is::<ProjectionExec>();
    // Tasks must not see different rows.
    row_wise && !is_volatile(plan) && plan.children().into_iter().all(is_cheap_to_repeat)
}

fn is_value(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<ProjectionExec>() && plan.children()[0].is::<PlaceholderRowExec>()
}

fn fetch_of(node: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    node.fetch()
}

pub(super) fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.output_partitioning().partition_count()
}

pub(super) fn replace(
    plan: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let same = plan.children().iter().zip(&children).all(|(old, new)| Arc::ptr_eq(old, new));
    if same {
        return Ok(Arc::clone(plan));
    }
    Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}
