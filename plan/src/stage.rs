// SPDX-License-Identifier: Apache-2.0
//! A stage: the plan that its tasks run a slice of, and what becomes of the rows.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;

use crate::write::WriteExec;

/// How a stage's rows are partitioned into the buckets of its exchange.
#[derive(Debug, Clone)]
pub enum OutputPartitioning {
    /// Bucket = hash of the keys modulo the number of buckets, with DataFusion's hash and seed.
    Hash {
        /// Expressions over the stage's rows.
        keys: Vec<Arc<dyn PhysicalExpr>>,
        /// Number of buckets.
        buckets: usize,
    },
    /// Rows in turn; deterministic in the order of a partition's rows.
    RoundRobin {
        /// Number of buckets.
        buckets: usize,
    },
    /// One bucket.
    Single,
    /// Bucket i holds the stage's partition i, in its order.
    Passthrough {
        /// Number of partitions of the stage.
        buckets: usize,
    },
    /// Bucket i holds the rows between bound i-1 and bound i.
    Range {
        /// Sort keys over the stage's rows.
        keys: LexOrdering,
        /// One array per key with `buckets - 1` rows, ascending in the order of `keys`.
        bounds: Vec<ArrayRef>,
        /// Number of buckets.
        buckets: usize,
    },
}

impl OutputPartitioning {
    /// Number of buckets written by each task.
    pub fn buckets(&self) -> usize {
        match self {
            Self::Hash { buckets, .. }
            | Self::RoundRobin { buckets }
            | Self::Passthrough { buckets }
            | Self::Range { buckets, .. } => *buckets,
            Self::Single => 1,
        }
    }

    /// Short name for plans and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hash { .. } => "hash",
            Self::RoundRobin { .. } => "round-robin",
            Self::Single => "single",
            Self::Passthrough { .. } => "passthrough",
            Self::Range { .. } => "range",
        }
    }

    /// In words, for people who read plans.
    pub fn describe(&self) -> String {
        let buckets = self.buckets();
        match self {
            Self::Hash { keys, .. } => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                format!("hash by [{}] into {buckets} buckets", keys.join(", "))
            }
            Self::RoundRobin { .. } => format!("rows in turn into {buckets} buckets"),
            Self::Single => "everything into one bucket".to_owned(),
            Self::Passthrough { .. } => format!("each partition into a bucket of its own, {buckets} in all"),
            Self::Range { keys, .. } => format!("ranges of [{keys}] into {buckets} buckets"),
        }
    }
}

/// What becomes of a stage's rows.
#[derive(Debug, Clone)]
pub enum StageOutput {
    /// Into the buckets of an exchange.
    Exchange {
        /// How rows find their bucket.
        partitioning: OutputPartitioning,
        /// Keys of which every task reports a sample of rows, for the bounds of a range exchange; mostly empty.
        sample: Vec<PhysicalSortExpr>,
    },
    /// To the client, while the stage runs.
    Result {
        /// Rows must arrive in the order of the partitions.
        ordered: bool,
    },
    /// At most one row, reported to the scheduler in the task's status: the value of a scalar subquery.
    Scalar,
}

impl StageOutput {
    /// In words, for people who read plans.
    pub fn describe(&self) -> String {
        match self {
            Self::Exchange { partitioning, .. } => partitioning.describe(),
            Self::Result { ordered: false } => "result for the client".to_owned(),
            Self::Result { ordered: true } => "result for the client, partition by partition".to_owned(),
            Self::Scalar => "value of a scalar subquery".to_owned(),
        }
    }
}

/// What the tasks of a stage run, each a slice of the plan's partitions.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// The stage's operators; exchanges are [`crate::reader::ShuffleReaderExec`] leaves.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What becomes of the rows.
    pub output: StageOutput,
}

/// Whether it matters which partition of a stage a row is in, and not only which bucket.
pub fn keeps_partitions(plan: &Arc<dyn ExecutionPlan>, output: &StageOutput) -> bool {
    match output {
        StageOutput::Exchange { partitioning, .. } => matches!(partitioning, OutputPartitioning::Passthrough { .. }),
        // Files are named by their partition.
        StageOutput::Result { ordered } => *ordered || WriteExec::is_in(plan),
        StageOutput::Scalar => false,
    }
}
