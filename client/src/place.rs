// SPDX-License-Identifier: Apache-2.0
//! Where the nodes of an initial plan run if not all of them can, or should, leave the client.
//!
//! A node stays if it cannot be encoded, if it is a recursive query (all of it), or a table in memory that is too large
//! to be carried around in a plan. The others may go. Neighbours that go make a *region*, one query of the cluster; the
//! rows that it reads of the client are uploaded before it runs.
//!
//! ```text
//! AggregateExec                        DistributedQueryExec          AggregateExec
//!   HashJoinExec                         RecursiveQueryExec     of     HashJoinExec
//!     DataSourceExec: of files    ─►                                     DataSourceExec: of files
//!     RecursiveQueryExec                                                 CachedExec: upload 0
//! ```
//!
//! A region goes only if that is worth a job and the way of the rows:
//!
//! * The cluster has something to read by itself (files, cached rows, a series, leaves of the application), or is given
//!   a large table.
//! * It has something to do: rows are combined (an aggregate, a join, a sort, a write, …) or, if none are uploaded,
//!   filtered.
//! * Uploaded rows are combined on their way. What would come back as it went, a row for a row, stays; so a union of
//!   files and a table of the client is made in the client.
//!
//! Everything else runs in the client, as it would without a cluster. So does the whole query if a cut would part a
//! scalar subquery from those who read its value, or rows would be uploaded that have no end.

use std::sync::Arc;

use ballista_plan::cached::CachedExec;
use ballista_plan::codec::PlanCodec;
use ballista_plan::memory::{has_bytes, is_memory_scan};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::exec::DistributedQueryExec;
use crate::explain::find_query;
use crate::split::with_children;
use crate::upload::upload_name;

/// A table in memory of this many bytes is uploaded. A plan carries smaller ones: that saves a job, but every task
/// decodes them.
pub(crate) const UPLOAD_BYTES: usize = 8 << 20;

/// Why a query is run in the client.
#[derive(Debug, Clone)]
pub(crate) struct Unshippable {
    /// The node that cannot leave.
    pub(crate) node: String,
    pub(crate) reason: String,
}

impl Unshippable {
    /// Because `node` cannot, as `error` says.
    pub(crate) fn new(node: &str, error: &DataFusionError) -> Self {
        Self { node: node.to_owned(), reason: shortened(error.strip_backtrace()) }
    }
}

/// DataFusion quotes whole plans in its errors.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Makes a query of a region and the plans whose rows it is given.
pub(crate) trait Ship {
    /// `region` has a pending [`CachedExec`] named [`upload_name`] for each of `uploads`.
    fn ship(
        &self,
        region: &Arc<dyn ExecutionPlan>,
        uploads: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>, Unshippable>;
}

/// Whether a table in memory is among the leaves of `plan` that does not travel with it.
pub(crate) fn has_large_tables(plan: &Arc<dyn ExecutionPlan>) -> bool {
    has_bytes(plan, UPLOAD_BYTES) || plan.children().into_iter().any(has_large_tables)
}

/// What becomes of a plan.
pub(crate) enum Placed {
    /// The client runs this, which is not optimised yet; some regions are queries of the cluster.
    Plan(Arc<dyn ExecutionPlan>),
    /// All of it runs in the client.
    Here(Unshippable),
}

/// Divides `plan` between client and cluster. An error if it cannot be divided.
pub(crate) fn place(plan: &Arc<dyn ExecutionPlan>, codec: &PlanCodec, ship: &dyn Ship) -> Result<Placed, Unshippable> {
    let root = Part::new(plan, codec);
    let division = Division {
        ship,
        codec,
        has_subqueries: plan.exists(|node| Ok(node.is::<ScalarSubqueryExec>())).unwrap_or(true),
    };
    let placed = root.place(&division)?;
    if find_query(placed.as_ref()).is_some() {
        division.check_subqueries(&placed)?;
        return Ok(Placed::Plan(placed));
    }
    let idle = "nothing is computed of it but row by row";
    let nothing = || Unshippable { node: plan.name().to_owned(), reason: idle.to_owned() };
    Ok(Placed::Here(root.first_reason().cloned().unwrap_or_else(nothing)))
}

/// How a plan is divided.
struct Division<'a> {
    ship: &'a dyn Ship,
    codec: &'a PlanCodec,
    has_subqueries: bool,
}

/// A node of a plan and what is below it.
struct Part {
    node: Arc<dyn ExecutionPlan>,
    /// Why it does not go.
    stays: Option<Unshippable>,
    /// The region below it, if it goes.
    region: Region,
    inputs: Vec<Part>,
}

/// What is known of a region.
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    /// The cluster reads some of the rows by itself.
    reads: bool,
    /// It is given rows.
    uploads: bool,
    /// Among them those of a large table.
    uploads_table: bool,
    /// Some of the rows that it is given reach its root as they are.
    passes_on: bool,
    combines: bool,
    filters: bool,
}

impl Region {
    fn is_worthwhile(self) -> bool {
        let works = self.combines || (self.filters && !self.uploads);
        (self.reads || self.uploads_table) && works && !self.passes_on
    }

    /// What an input that stays is to the region above it.
    fn upload(node: &Arc<dyn ExecutionPlan>) -> Self {
        Self { uploads: true, uploads_table: is_memory_scan(node), passes_on: true, ..Self::default() }
    }

    fn and(self, other: Self) -> Self {
        Self {
            reads: self.reads || other.reads,
            uploads: self.uploads || other.uploads,
            uploads_table: self.uploads_table || other.uploads_table,
            passes_on: self.passes_on || other.passes_on,
            combines: self.combines || other.combines,
            filters: self.filters || other.filters,
        }
    }

    /// With `node` above what is known of the regions of its inputs.
    fn of(node: &Arc<dyn ExecutionPlan>, inputs: &[Self]) -> Self {
        let Some(first) = inputs.first() else {
            let has_rows = !is_memory_scan(node) && !node.is::<EmptyExec>() && !node.is::<PlaceholderRowExec>();
            return Self { reads: has_rows, ..Self::default() };
        };
        let all = inputs.iter().copied().fold(Self::default(), Self::and);
        if node.is::<FilterExec>() {
            return Self { filters: true, ..all };
        }
        if node.is::<ScalarSubqueryExec>() {
            // Of the others, a value is read.
            return Self { passes_on: first.passes_on, ..all };
        }
        if is_row_wise(node) { all } else { Self { combines: true, passes_on: false, ..all } }
    }
}

/// Whether a row of an input becomes a row of its own, or none.
fn is_row_wise(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<ProjectionExec>()
        || node.is::<UnionExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<CoalescePartitionsExec>()
        || node.is::<RepartitionExec>()
        || node.is::<CooperativeExec>()
        || node.is::<UnnestExec>()
}

impl Part {
    fn new(node: &Arc<dyn ExecutionPlan>, codec: &PlanCodec) -> Self {
        // Its terms hand rows to each other.
        let is_whole = node.is::<RecursiveQueryExec>();
        let children = if is_whole { vec![] } else { node.children() };
        let inputs: Vec<Part> = children.into_iter().map(|child| Self::new(child, codec)).collect();
        let regions = inputs.iter().map(|input| match input.stays {
            Some(_) => Region::upload(&input.node),
            None => input.region,
        });
        let region = Region::of(node, &regions.collect::<Vec<_>>());
        Self { node: Arc::clone(node), stays: reason_to_stay(node, codec), region, inputs }
    }

    fn place(&self, division: &Division<'_>) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        if self.stays.is_none() && self.region.is_worthwhile() {
            let mut uploads = vec![];
            let region = self.region(&mut uploads)?;
            division.check_subqueries(&region)?;
            let uploads = uploads.into_iter().map(|upload| upload.place(division)).collect::<Result<_, _>>()?;
            return division.ship.ship(&region, uploads);
        }
        let inputs = self.inputs.iter().map(|input| input.place(division)).collect::<Result<_, _>>()?;
        self.over(inputs)
    }

    /// The plan of the region that this is the root of. Adds what it reads of the client to `uploads`.
    fn region<'a>(&'a self, uploads: &mut Vec<&'a Part>) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        if self.stays.is_some() {
            if self.node.boundedness().is_unbounded() {
                let reason = "its rows have no end".to_owned();
                return Err(Unshippable { node: self.node.name().to_owned(), reason });
            }
            uploads.push(self);
            return Ok(Arc::new(CachedExec::pending(upload_name(uploads.len() - 1), self.node.schema())));
        }
        let inputs = self.inputs.iter().map(|input| input.region(uploads)).collect::<Result<_, _>>()?;
        self.over(inputs)
    }

    /// The node over other inputs.
    fn over(&self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        if self.inputs.iter().zip(&inputs).all(|(old, new)| Arc::ptr_eq(&old.node, new)) {
            return Ok(Arc::clone(&self.node));
        }
        let replaced = with_children(Arc::clone(&self.node), inputs);
        replaced.map_err(|error| Unshippable::new(self.node.name(), &error))
    }

    fn first_reason(&self) -> Option<&Unshippable> {
        self.inputs.iter().find_map(Self::first_reason).or(self.stays.as_ref())
    }
}

fn reason_to_stay(node: &Arc<dyn ExecutionPlan>, codec: &PlanCodec) -> Option<Unshippable> {
    let because = |reason: &str| Some(Unshippable { node: node.name().to_owned(), reason: reason.to_owned() });
    if node.is::<RecursiveQueryExec>() {
        return because("a recursive query runs in one place");
    }
    if has_bytes(node, UPLOAD_BYTES) {
        return because("a large table in memory of which nothing is computed but row by row");
    }
    codec.check_node(node).err().map(|error| Unshippable::new(node.name(), &error))
}

impl Division<'_> {
    /// An error if an expression of `plan` reads the value of a scalar subquery that is not part of the plan, or may do
    /// so. What is below a query of the cluster is a plan by itself.
    fn check_subqueries(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<(), Unshippable> {
        if !self.has_subqueries {
            return Ok(());
        }
        match self.reads_unknown_value(plan, false) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let reason = "a scalar subquery and its readers would run in two places".to_owned();
                Err(Unshippable { node: plan.name().to_owned(), reason })
            }
            Err(error) => Err(Unshippable::new(plan.name(), &error)),
        }
    }

    fn reads_unknown_value(&self, plan: &Arc<dyn ExecutionPlan>, is_known: bool) -> Result<bool> {
        if let Some(subqueries) = plan.downcast_ref::<ScalarSubqueryExec>() {
            if self.reads_unknown_value(subqueries.input(), true)? {
                return Ok(true);
            }
            for link in subqueries.subqueries() {
                if self.reads_unknown_value(&link.plan, false)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if !is_known && (self.hides_expressions(plan) || reads_value(plan)?) {
            return Ok(true);
        }
        let is_known = is_known && !plan.is::<DistributedQueryExec>();
        for child in plan.children() {
            if self.reads_unknown_value(child, is_known)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `node` may have other expressions than those that it shows. Filters of windows are such; what can be
    /// encoded has none.
    fn hides_expressions(&self, node: &Arc<dyn ExecutionPlan>) -> bool {
        let has_some =
            !node.children().is_empty() && !node.is::<RecursiveQueryExec>() && !node.is::<DistributedQueryExec>();
        has_some && self.codec.check_node(node).is_err()
    }
}

fn reads_value(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        found |= expr.exists(|part| Ok(part.is::<ScalarSubqueryExpr>()))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
