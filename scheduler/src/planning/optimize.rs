// SPDX-License-Identifier: Apache-2.0
//! DataFusion's physical optimizer, as far as it belongs before the cut.
//!
//! Left to the tasks: the late filter push-down (a dynamic filter must not cross an exchange) and what makes leaves
//! cooperative. Everything else runs on the whole plan in DataFusion's order.

use std::sync::Arc;

use ballista_plan::slice::probe_decides;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};

use super::adapt::BroadcastLimit;

/// Width of rows of which only the number is known.
const ASSUMED_ROW_BYTES: usize = 128;

/// Build sides estimated up to this are broadcast without waiting for their measured size.
const TRUSTED_ESTIMATE_BYTES: usize = 4 << 20;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// The rules of one job, with the configuration they run under.
#[derive(Debug)]
pub struct Optimizer {
    before_join_selection: Vec<Rule>,
    join_selection: Vec<Rule>,
    after_join_selection: Vec<Rule>,
    options: ConfigOptions,
    distributed: bool,
}

impl Optimizer {
    /// Rules that spread work over `partitions` partitions. `distributed`: its exchanges go between executors, so that
    /// joins which only one task could run are partitioned, and build sides are broadcast up to `broadcast`.
    pub fn new(session: &ConfigOptions, broadcast: &BroadcastLimit, partitions: usize, distributed: bool) -> Self {
        let mut options = session.clone();
        options.execution.target_partitions = partitions.max(1);
        if distributed {
            // Estimates are often far off; what is larger waits for its measured size.
            let bytes = broadcast.bytes.min(broadcast.most()).min(TRUSTED_ESTIMATE_BYTES);
            options.optimizer.hash_join_single_partition_threshold = bytes;
            options.optimizer.hash_join_single_partition_threshold_rows = bytes / ASSUMED_ROW_BYTES;
            // An exchange costs more than uneven work; what a user asks for by `repartition` still happens.
            options.optimizer.enable_round_robin_repartition = false;
        }
        let mut rules = PhysicalOptimizer::new().rules;
        rules.retain(|rule| !belongs_to_tasks(rule.name()));
        let selection = rules.iter().position(|rule| rule.name() == "join_selection").unwrap_or(0);
        let after_join_selection = rules.split_off((selection + 1).min(rules.len()));
        let join_selection = rules.split_off(selection);
        Self { before_join_selection: rules, join_selection, after_join_selection, options, distributed }
    }

    /// The configuration that the rules run under.
    pub fn options(&self) -> &ConfigOptions {
        &self.options
    }

    /// The first planning: every rule.
    pub fn optimize(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.apply(&self.before_join_selection, plan)?;
        let plan = self.apply(&self.join_selection, plan)?;
        let plan = if self.distributed { partition_unsafe_broadcasts(plan)? } else { plan };
        self.apply(&self.after_join_selection, plan)
    }

    /// Enforces requirements again after `plan` was changed.
    pub fn reoptimize(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        // The output requirement protects a root ordering while distribution is enforced.
        let plan = self.apply(&self.before_join_selection[..1], plan)?;
        self.apply(&self.after_join_selection, plan)
    }

    fn apply(&self, rules: &[Rule], mut plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        for rule in rules {
            plan = rule
                .optimize(plan, &self.options)
                .map_err(|error| DataFusionError::Context(rule.name().to_owned(), Box::new(error)))?;
        }
        Ok(plan)
    }
}

fn belongs_to_tasks(rule: &str) -> bool {
    matches!(rule, "FilterPushdown(Post)" | "EnsureCooperative")
}

/// A collected build side whose unmatched or once-only rows are emitted is right only if one task sees the whole probe
/// side; partitioning both sides is right in any number of tasks. A null-aware anti join cannot be partitioned and
/// stays one task.
fn partition_unsafe_broadcasts(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
        let unsafe_broadcast =
            *join.partition_mode() == PartitionMode::CollectLeft && !probe_decides(*join.join_type());
        if !unsafe_broadcast || join.null_aware || join.on().is_empty() {
            return Ok(Transformed::no(node));
        }
        let partitioned = join.builder().with_partition_mode(PartitionMode::Partitioned).build()?;
        Ok(Transformed::yes(Arc::new(partitioned)))
    })
    .data()
}
