// SPDX-License-Identifier: Apache-2.0
//! What the operators of a finished task did, for `EXPLAIN ANALYZE`.
//!
//! A task runs an instance of its stage's plan, restricted to its slice: inputs of a union that it does not read are
//! not there. So operators are numbered as in the stage's plan, which is walked beside the instance.

use std::sync::Arc;
use std::time::Duration;

use ballista_proto as proto;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Metric, MetricCategory, MetricType, MetricValue, MetricsSet};
use proto::MetricKind;

/// The metrics of `instance`, which was made of the plan `stage` and has run for `elapsed`. Only those of `types`.
pub(super) fn of_task(
    stage: &Arc<dyn ExecutionPlan>,
    instance: &Arc<dyn ExecutionPlan>,
    elapsed: Duration,
    types: &[MetricType],
) -> proto::TaskMetrics {
    let mut walk = Walk { next: 0, types, operators: vec![] };
    walk.visit(stage, Some(instance));
    let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    proto::TaskMetrics { nanos, operators: walk.operators }
}

struct Walk<'a> {
    next: u32,
    types: &'a [MetricType],
    operators: Vec<proto::OperatorMetrics>,
}

impl Walk<'_> {
    fn visit(&mut self, stage: &Arc<dyn ExecutionPlan>, instance: Option<&Arc<dyn ExecutionPlan>>) {
        let operator = self.next;
        self.next += 1;
        let (planned, ran) = (stage.children(), instance.map(|instance| instance.children()).unwrap_or_default());
        let same = instance.filter(|instance| instance.name() == stage.name() && ran.len() == planned.len());
        if let Some(metrics) = same.and_then(|instance| instance.metrics()) {
            let metrics = figures(metrics, self.types);
            if !metrics.is_empty() {
                self.operators.push(proto::OperatorMetrics { operator, metrics });
            }
        }
        for (index, child) in planned.into_iter().enumerate() {
            self.visit(child, same.and_then(|_| ran.get(index).copied()));
        }
    }
}

/// The metrics of one operator, added up over its partitions. What is zero is left out, but for rows and time.
fn figures(metrics: MetricsSet, types: &[MetricType]) -> Vec<proto::Metric> {
    let metrics = metrics.filter_by_metric_types(types).aggregate_by_name().sorted_for_display();
    let mut figures = vec![];
    for metric in metrics.iter() {
        add(metric, &mut figures);
    }
    figures
}

fn add(metric: &Metric, figures: &mut Vec<proto::Metric>) {
    let mut push = |name: String, kind: MetricKind, value: usize, always: bool| {
        if value > 0 || always {
            figures.push(proto::Metric { name, kind: kind.into(), value: value as u64 });
        }
    };
    let value = metric.value();
    let (name, count) = (value.name().to_owned(), value.as_usize());
    match value {
        MetricValue::OutputRows(_) => push(name, MetricKind::Rows, count, true),
        MetricValue::ElapsedCompute(_) => push(name, MetricKind::Nanos, count, true),
        MetricValue::SpilledRows(_) | MetricValue::OutputBatches(_) | MetricValue::SpillCount(_) => {
            push(name, MetricKind::Rows, count, false);
        }
        MetricValue::OutputBytes(_) | MetricValue::SpilledBytes(_) => push(name, MetricKind::Bytes, count, false),
        MetricValue::CurrentMemoryUsage(_) | MetricValue::PeakMemoryUsage { .. } => {
            push(name, MetricKind::PeakBytes, count, false);
        }
        MetricValue::Time { .. } => push(name, MetricKind::Nanos, count, false),
        MetricValue::PruningMetrics { pruning_metrics, .. } => {
            push(format!("{name}_pruned"), MetricKind::Rows, pruning_metrics.pruned(), false);
            push(format!("{name}_matched"), MetricKind::Rows, pruning_metrics.matched(), false);
        }
        // A ratio says nothing that rows in and out do not; a timestamp is another executor's clock.
        MetricValue::Ratio { .. } | MetricValue::StartTimestamp(_) | MetricValue::EndTimestamp(_) => {}
        MetricValue::Count { .. } | MetricValue::Gauge { .. } | MetricValue::Custom { .. } => {
            let kind = match metric.metric_category() {
                Some(MetricCategory::Bytes) => MetricKind::Bytes,
                Some(MetricCategory::Rows) => MetricKind::Rows,
                Some(MetricCategory::Timing) => MetricKind::Nanos,
                _ if name.starts_with("bytes_") || name.ends_with("_bytes") => MetricKind::Bytes,
                _ => MetricKind::Count,
            };
            push(name, kind, count, false);
        }
    }
}
