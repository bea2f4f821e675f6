// SPDX-License-Identifier: Apache-2.0
//! What `EXPLAIN ANALYZE` wants to know of a job: kept while it runs, sent to its client before the end.
//!
//! ```text
//! executors ── metrics of each finished task ──► per stage: tasks, and per operator sum, min, median, max
//! planners  ── what was changed, and why ──────► notes
//! ```
//!
//! *Invariant:* a stage takes memory for its operators and its tasks, never for operators times tasks: medians over
//! more than [`Spread::SAMPLE`] tasks are those of an even selection of them. Jobs that nobody analyses keep nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use ballista_core::{StageId, TaskKey};
use ballista_proto as proto;

use super::executors::Life;
use crate::planning::job::PlannedStage;

/// Kinds of metrics that are kept of one operator; operators have about twenty at most.
const MAX_METRICS: usize = 64;
/// Bytes of a metric's name.
const MAX_NAME: usize = 128;
/// Metrics of which it matters how they are spread over tasks.
const SPREAD: [&str; 3] = ["output_rows", "output_bytes", "elapsed_compute"];

/// Figures of a job.
#[derive(Default)]
pub(crate) struct Analysis {
    stages: BTreeMap<StageId, StageAnalysis>,
    notes: Vec<String>,
}

struct StageAnalysis {
    inputs: Vec<StageId>,
    partitions: u32,
    output: String,
    operators: Vec<Operator>,
    started: Option<Instant>,
    ended: Option<Instant>,
    rows: Spread,
    bytes: Spread,
    nanos: Spread,
    read_local_bytes: u64,
    read_remote_bytes: u64,
    tasks: Vec<proto::TaskAnalysis>,
}

struct Operator {
    depth: u32,
    line: String,
    metrics: BTreeMap<String, (proto::MetricKind, Spread)>,
}

impl Analysis {
    /// A stage was planned.
    pub(crate) fn add_stage(&mut self, planned: &PlannedStage) {
        let operator = |line: &str| {
            let operator = line.trim_start_matches(' ');
            let depth = (line.len() - operator.len()) / 2;
            Operator { depth: depth as u32, line: operator.to_owned(), metrics: BTreeMap::new() }
        };
        let stage = StageAnalysis {
            inputs: planned.inputs.clone(),
            partitions: planned.partitions,
            output: planned.output.clone(),
            operators: planned.display.lines().map(operator).collect(),
            started: None,
            ended: None,
            rows: Spread::default(),
            bytes: Spread::default(),
            nanos: Spread::default(),
            read_local_bytes: 0,
            read_remote_bytes: 0,
            tasks: vec![],
        };
        self.stages.insert(planned.stage, stage);
    }

    /// Planning changed something.
    pub(crate) fn add_notes(&mut self, notes: Vec<String>) {
        self.notes.extend(notes);
    }

    /// A task of `stage` was launched.
    pub(crate) fn launched(&mut self, stage: StageId) {
        if let Some(stage) = self.stages.get_mut(&stage) {
            stage.started.get_or_insert_with(Instant::now);
        }
    }

    /// A task that counts has finished.
    pub(crate) fn finished(&mut self, key: &TaskKey, life: &Life, output: &mut proto::TaskOutput) {
        let Some(stage) = self.stages.get_mut(&key.stage) else { return };
        let metrics = output.metrics.take().unwrap_or_default();
        stage.ended = Some(Instant::now());
        stage.rows.add(output.rows);
        stage.bytes.add(output.bytes);
        stage.nanos.add(metrics.nanos);
        stage.read_local_bytes += output.read_local_bytes;
        stage.read_remote_bytes += output.read_remote_bytes;
        let all = metrics.operators.iter().flat_map(|operator| &operator.metrics);
        let spilled = all.filter(|metric| metric.name == "spilled_bytes").map(|metric| metric.value);
        stage.tasks.push(proto::TaskAnalysis {
            task: key.task.0,
            attempt: key.attempt,
            executor: life.0.to_string(),
            rows: output.rows,
            bytes: output.bytes,
            nanos: metrics.nanos,
            spilled_bytes: spilled.sum(),
        });
        for reported in metrics.operators {
            if let Some(operator) = stage.operators.get_mut(reported.operator as usize) {
                reported.metrics.into_iter().for_each(|metric| operator.add(metric));
            }
        }
    }

    /// Everything, for the client.
    pub(crate) fn to_proto(&self) -> proto::JobAnalysis {
        let stages = self.stages.iter().map(|(id, stage)| stage.to_proto(*id));
        proto::JobAnalysis { stages: stages.collect(), notes: self.notes.clone() }
    }
}

impl StageAnalysis {
    fn to_proto(&self, id: StageId) -> proto::StageAnalysis {
        let time = self.started.zip(self.ended).map(|(started, ended)| ended.saturating_duration_since(started));
        let operators = self.operators.iter().map(|operator| proto::OperatorAnalysis {
            depth: operator.depth,
            operator: operator.line.clone(),
            metrics: operator.metrics.iter().map(|(name, (kind, spread))| metric(name, *kind, spread)).collect(),
        });
        proto::StageAnalysis {
            stage: id.0,
            inputs: self.inputs.iter().map(|input| input.0).collect(),
            partitions: self.partitions,
            output: self.output.clone(),
            nanos: time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            rows: Some(self.rows.to_proto()),
            bytes: Some(self.bytes.to_proto()),
            task_nanos: Some(self.nanos.to_proto()),
            read_local_bytes: self.read_local_bytes,
            read_remote_bytes: self.read_remote_bytes,
            operators: operators.collect(),
            tasks: self.tasks.clone(),
        }
    }
}

impl Operator {
    fn add(&mut self, metric: proto::Metric) {
        let kind = metric.kind();
        if let Some((_, spread)) = self.metrics.get_mut(&metric.name) {
            spread.add(metric.value);
            return;
        }
        if self.metrics.len() < MAX_METRICS && metric.name.len() <= MAX_NAME {
            let is_spread = SPREAD.contains(&metric.name.as_str());
            let mut spread = if is_spread { Spread::default() } else { Spread::without_median() };
            spread.add(metric.value);
            self.metrics.insert(metric.name, (kind, spread));
        }
    }
}

fn metric(name: &str, kind: proto::MetricKind, spread: &Spread) -> proto::MetricAnalysis {
    proto::MetricAnalysis { name: name.to_owned(), kind: kind.into(), values: Some(spread.to_proto()) }
}

/// How a figure is spread over tasks.
struct Spread {
    sum: u64,
    min: u64,
    max: u64,
    count: usize,
    /// Every `stride`th value.
    sample: Vec<u64>,
    /// Zero: no sample is taken.
    stride: usize,
}

impl Default for Spread {
    fn default() -> Self {
        Self { stride: 1, ..Self::without_median() }
    }
}

impl Spread {
    /// Values that the median is taken of, at most.
    const SAMPLE: usize = 128;

    fn without_median() -> Self {
        Self { sum: 0, min: u64::MAX, max: 0, count: 0, sample: Vec::new(), stride: 0 }
    }

    fn add(&mut self, value: u64) {
        self.sum = self.sum.saturating_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if self.stride > 0 && self.count.is_multiple_of(self.stride) {
            if self.sample.len() == Self::SAMPLE {
                let mut index = 0;
                self.sample.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.stride *= 2;
            }
            if self.count.is_multiple_of(self.stride) {
                self.sample.push(value);
            }
        }
        self.count += 1;
    }

    /// The upper of two middle values.
    fn median(&self) -> u64 {
        let mut sorted = self.sample.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    fn to_proto(&self) -> proto::Spread {
        let min = if self.count == 0 { 0 } else { self.min };
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        proto::Spread { count, sum: self.sum, min, median: self.median(), max: self.max }
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::{ExecutorId, Incarnation, JobId, TaskId};

    use super::*;
    use crate::planning::job::PlannedSlicing;

    #[test]
    fn medians_of_few_values_are_exact_and_of_many_are_close() {
        let mut few = Spread::default();
        [7, 1, 5].into_iter().for_each(|value| few.add(value));
        let few = few.to_proto();
        assert_eq!((few.count, few.sum, few.min, few.median, few.max), (3, 13, 1, 5, 7));
        let mut many = Spread::default();
        // Neighbours differ, so that the order of arrival says nothing.
        (0..100_000u64).for_each(|i| many.add(i * 7919 % 100_000));
        assert!(many.sample.len() <= Spread::SAMPLE);
        let many = many.to_proto();
        assert_eq!((many.min, many.max, many.sum), (0, 99_999, 99_999 * 50_000));
        assert!(many.median.abs_diff(50_000) < 15_000, "{}", many.median);
        assert_eq!(Spread::default().to_proto(), proto::Spread::default());
    }

    fn planned() -> PlannedStage {
        PlannedStage {
            stage: StageId(1),
            plan: Default::default(),
            display: "FilterExec: a\n  ShuffleReaderExec: stage=0\n".to_owned(),
            output: String::new(),
            partitions: 4,
            slicing: PlannedSlicing::PerSlot { max_partitions: 1 },
            inputs: vec![StageId(0)],
            row_limit: None,
            is_final: true,
            commits: false,
            ordered: false,
            deterministic: true,
        }
    }

    fn report(analysis: &mut Analysis, task: u32, rows: u64, operator: u32) {
        let job = JobId::new("j").unwrap();
        let key = TaskKey { job, stage: StageId(1), stage_attempt: 0, task: TaskId(task), attempt: 0 };
        let life = (ExecutorId::new("e").unwrap(), Incarnation(1));
        let metric = proto::Metric { name: "output_rows".into(), kind: proto::MetricKind::Rows.into(), value: rows };
        let operators = vec![proto::OperatorMetrics { operator, metrics: vec![metric] }];
        let metrics = Some(proto::TaskMetrics { nanos: 10, operators });
        let mut output = proto::TaskOutput { rows, metrics, ..Default::default() };
        analysis.finished(&key, &life, &mut output);
        assert_eq!(output.metrics, None);
    }

    #[test]
    fn figures_are_those_of_the_operator_they_were_reported_for() {
        let mut analysis = Analysis::default();
        analysis.add_stage(&planned());
        analysis.launched(StageId(1));
        for (task, rows) in [(0, 4), (1, 2), (2, 9)] {
            report(&mut analysis, task, rows, 1);
        }
        // Of no operator that the plan has.
        report(&mut analysis, 3, 1, 7);
        let stage = &analysis.to_proto().stages[0];
        assert_eq!(stage.tasks.len(), 4);
        assert_eq!(stage.rows, Some(proto::Spread { count: 4, sum: 16, min: 1, median: 4, max: 9 }));
        let [filter, reader] = stage.operators.as_slice() else { panic!("{:?}", stage.operators) };
        assert_eq!((filter.depth, filter.operator.as_str(), filter.metrics.len()), (0, "FilterExec: a", 0));
        assert_eq!((reader.depth, reader.operator.as_str()), (1, "ShuffleReaderExec: stage=0"));
        let values = Some(proto::Spread { count: 3, sum: 15, min: 2, median: 4, max: 9 });
        assert_eq!(reader.metrics[0].values, values);
    }

    #[test]
    fn an_executor_cannot_fill_the_schedulers_memory_with_names() {
        let mut operator = Operator { depth: 0, line: String::new(), metrics: BTreeMap::new() };
        for number in 0..1000 {
            operator.add(proto::Metric { name: format!("m{number}"), kind: 0, value: 1 });
        }
        operator.add(proto::Metric { name: "x".repeat(1000), kind: 0, value: 1 });
        assert_eq!(operator.metrics.len(), MAX_METRICS);
    }
}
