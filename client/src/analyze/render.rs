// SPDX-License-Identifier: Apache-2.0
//! The stages of a job that ran, as text.
//!
//! ```text
//!   stage 1, after stage 0: 4 tasks on 2 executors, 12.3 ms; result for the client: 7 rows, 340 B
//!     per task: rows min 1, median 2, max 3; bytes …; time …
//!     AggregateExec: …, metrics=[output_rows=7 (min 1, median 2, max 3), elapsed_compute=1.20 ms (…), …]
//!   adaptivity:
//!     after stage 0: …
//! ```

use ballista_core::units::{Bytes, Time};
use ballista_proto as proto;
use datafusion::common::format::MetricCategory;
use proto::MetricKind;

/// Metrics that come first, in this order.
const FIRST: [&str; 6] =
    ["output_rows", "output_bytes", "elapsed_compute", "spill_count", "spilled_bytes", "spilled_rows"];

/// What is shown of it.
pub(super) struct Shown<'a> {
    /// All of them, if `None`.
    pub(super) categories: Option<&'a [MetricCategory]>,
    /// A line for each task.
    pub(super) tasks: bool,
}

impl Shown<'_> {
    fn has(&self, category: MetricCategory) -> bool {
        self.categories.is_none_or(|categories| categories.contains(&category))
    }

    fn has_kind(&self, kind: MetricKind) -> bool {
        self.has(match kind {
            MetricKind::Rows => MetricCategory::Rows,
            MetricKind::Bytes | MetricKind::PeakBytes => MetricCategory::Bytes,
            MetricKind::Nanos => MetricCategory::Timing,
            MetricKind::Count => MetricCategory::Uncategorized,
        })
    }
}

/// All stages, in the order in which they were planned, and what was changed meanwhile.
pub(super) fn stages(job: &proto::JobAnalysis, shown: &Shown<'_>) -> String {
    let mut text = String::new();
    for stage in &job.stages {
        line(&mut text, 1, &title(stage, shown));
        if let Some(spread) = spread_over_tasks(stage, shown) {
            line(&mut text, 2, &format!("per task: {spread}"));
        }
        for operator in &stage.operators {
            let metrics = metrics(operator, stage.tasks.len(), shown);
            line(&mut text, 2 + operator.depth as usize, &format!("{}, metrics=[{metrics}]", operator.operator));
        }
        if shown.tasks {
            stage.tasks.iter().for_each(|task| line(&mut text, 2, &of_task(task, shown)));
        }
    }
    if !job.notes.is_empty() {
        line(&mut text, 1, "adaptivity:");
        job.notes.iter().for_each(|note| line(&mut text, 2, note));
    }
    text
}

fn line(text: &mut String, depth: usize, line: &str) {
    text.push_str(&format!("{:indent$}{line}\n", "", indent = 2 * depth));
}

fn title(stage: &proto::StageAnalysis, shown: &Shown<'_>) -> String {
    let mut title = format!("stage {}", stage.stage);
    if !stage.inputs.is_empty() {
        let inputs: Vec<String> = stage.inputs.iter().map(ToString::to_string).collect();
        let word = if inputs.len() == 1 { "stage" } else { "stages" };
        title.push_str(&format!(", after {word} {}", inputs.join(", ")));
    }
    if stage.tasks.is_empty() {
        title.push_str(&format!(": no task of it counts; {}", stage.output));
        return title;
    }
    let mut executors: Vec<&str> = stage.tasks.iter().map(|task| task.executor.as_str()).collect();
    executors.sort_unstable();
    executors.dedup();
    title.push_str(&format!(": {} on {}", counted(stage.tasks.len(), "task"), counted(executors.len(), "executor")));
    if stage.partitions as usize != stage.tasks.len() {
        title.push_str(&format!(", {}", counted(stage.partitions as usize, "partition")));
    }
    if shown.has(MetricCategory::Timing) {
        title.push_str(&format!(", {}", Time::from_nanos(stage.nanos)));
    }
    title.push_str(&format!("; {}", stage.output));
    let sum = |spread: &Option<proto::Spread>| spread.as_ref().map_or(0, |spread| spread.sum);
    let mut yields = vec![];
    if shown.has(MetricCategory::Rows) {
        yields.push(counted(sum(&stage.rows) as usize, "row"));
    }
    if shown.has(MetricCategory::Bytes) {
        yields.push(Bytes(sum(&stage.bytes)).to_string());
    }
    if !yields.is_empty() {
        title.push_str(&format!(": {}", yields.join(", ")));
    }
    let (local, remote) = (stage.read_local_bytes, stage.read_remote_bytes);
    if shown.has(MetricCategory::Bytes) && local + remote > 0 {
        title.push_str(&format!("; read {} of its own executor, {} of others", Bytes(local), Bytes(remote)));
    }
    title
}

fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// How evenly the work of a stage was shared, if several tasks shared it.
fn spread_over_tasks(stage: &proto::StageAnalysis, shown: &Shown<'_>) -> Option<String> {
    let figures = [
        ("rows", &stage.rows, MetricKind::Rows),
        ("bytes", &stage.bytes, MetricKind::Bytes),
        ("time", &stage.task_nanos, MetricKind::Nanos),
    ];
    let figures = figures.iter().filter(|(_, _, kind)| shown.has_kind(*kind));
    let parts = figures.filter_map(|(name, spread, kind)| {
        let spread = spread.as_ref().filter(|spread| spread.count > 1)?;
        Some(format!("{name} {}", spread_of(spread, *kind)))
    });
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn spread_of(spread: &proto::Spread, kind: MetricKind) -> String {
    let show = |value| value_of(value, kind);
    format!("min {}, median {}, max {}", show(spread.min), show(spread.median), show(spread.max))
}

fn metrics(operator: &proto::OperatorAnalysis, tasks: usize, shown: &Shown<'_>) -> String {
    let mut metrics: Vec<_> = operator.metrics.iter().filter(|metric| shown.has_kind(metric.kind())).collect();
    let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
    metrics.sort_by(|a, b| (rank(&a.name), &a.name).cmp(&(rank(&b.name), &b.name)));
    let parts = metrics.into_iter().map(|metric| {
        let spread = metric.values.unwrap_or_default();
        let (kind, name) = (metric.kind(), &metric.name);
        let total = if kind == MetricKind::PeakBytes { spread.max } else { spread.sum };
        let value = value_of(total, kind);
        // Where the median is not known, neither is it said to be zero.
        let is_spread = tasks > 1 && spread.count > 1 && spread.median >= spread.min;
        if is_spread { format!("{name}={value} ({})", spread_of(&spread, kind)) } else { format!("{name}={value}") }
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn value_of(value: u64, kind: MetricKind) -> String {
    match kind {
        MetricKind::Count | MetricKind::Rows => value.to_string(),
        MetricKind::Bytes | MetricKind::PeakBytes => Bytes(value).to_string(),
        MetricKind::Nanos => Time::from_nanos(value).to_string(),
    }
}

fn of_task(task: &proto::TaskAnalysis, shown: &Shown<'_>) -> String {
    let mut parts = vec![];
    if shown.has(MetricCategory::Rows) {
        parts.push(format!("rows={}", task.rows));
    }
    if shown.has(MetricCategory::Bytes) {
        parts.push(format!("bytes={}", Bytes(task.bytes)));
        if task.spilled_bytes > 0 {
            parts.push(format!("spilled={}", Bytes(task.spilled_bytes)));
        }
    }
    if shown.has(MetricCategory::Timing) {
        parts.push(format!("time={}", Time::from_nanos(task.nanos)));
    }
    let attempt = if task.attempt > 0 { format!(", attempt {}", task.attempt) } else { String::new() };
    format!("task {}{attempt} on executor {}: {}", task.task, task.executor, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[u64]) -> proto::Spread {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let (min, median, max) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        proto::Spread { count: values.len() as u32, sum: values.iter().sum(), min, median, max }
    }

    fn metric(name: &str, kind: MetricKind, values: &[u64]) -> proto::MetricAnalysis {
        proto::MetricAnalysis { name: name.into(), kind: kind.into(), values: Some(spread(values)) }
    }

    fn job() -> proto::JobAnalysis {
        let rows = [5, 1, 3];
        let task = |(task, rows): (usize, &u64)| proto::TaskAnalysis {
            task: task as u32,
            executor: if task == 0 { "a" } else { "b" }.into(),
            rows: *rows,
            bytes: rows * 1024,
            nanos: 1_500_000,
            spilled_bytes: if task == 1 { 2048 } else { 0 },
            ..Default::default()
        };
        let metrics = vec![
            metric("build_mem_used", MetricKind::PeakBytes, &[1024, 4096]),
            metric("elapsed_compute", MetricKind::Nanos, &[1_000_000, 2_000_000, 9_000_000]),
            metric("output_rows", MetricKind::Rows, &rows),
        ];
        let operators = vec![
            proto::OperatorAnalysis { depth: 0, operator: "FilterExec: a > 1".into(), metrics },
            proto::OperatorAnalysis { depth: 1, operator: "ShuffleReaderExec: stage=0".into(), metrics: vec![] },
        ];
        let stage = proto::StageAnalysis {
            stage: 1,
            inputs: vec![0],
            partitions: 3,
            output: "result for the client".into(),
            nanos: 12_345_678,
            rows: Some(spread(&rows)),
            bytes: Some(spread(&rows.map(|rows| rows * 1024))),
            task_nanos: Some(spread(&[1_500_000; 3])),
            read_local_bytes: 10,
            read_remote_bytes: 2048,
            operators,
            tasks: rows.iter().enumerate().map(task).collect(),
        };
        proto::JobAnalysis { stages: vec![stage], notes: vec!["after stage 0: sides swapped".into()] }
    }

    #[test]
    fn a_stage_shows_its_tasks_its_operators_and_how_even_they_were() {
        let text = stages(&job(), &Shown { categories: None, tasks: true });
        let expected = "  \
  stage 1, after stage 0: 3 tasks on 2 executors, 12.3 ms; result for the client: 9 rows, 9.0 KiB; \
read 10 B of its own executor, 2.0 KiB of others
    per task: rows min 1, median 3, max 5; bytes min 1.0 KiB, median 3.0 KiB, max 5.0 KiB; \
time min 1.50 ms, median 1.50 ms, max 1.50 ms
    FilterExec: a > 1, metrics=[output_rows=9 (min 1, median 3, max 5), \
elapsed_compute=12.0 ms (min 1.00 ms, median 2.00 ms, max 9.00 ms), \
build_mem_used=4.0 KiB (min 1.0 KiB, median 4.0 KiB, max 4.0 KiB)]
      ShuffleReaderExec: stage=0, metrics=[]
    task 0 on executor a: rows=5, bytes=5.0 KiB, time=1.50 ms
    task 1 on executor b: rows=1, bytes=1.0 KiB, spilled=2.0 KiB, time=1.50 ms
    task 2 on executor b: rows=3, bytes=3.0 KiB, time=1.50 ms
  adaptivity:
    after stage 0: sides swapped
";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_the_categories_asked_for_are_shown() {
        let rows = [MetricCategory::Rows];
        let text = stages(&job(), &Shown { categories: Some(&rows), tasks: false });
        assert!(text.contains("output_rows=9") && text.contains(": 9 rows\n"), "{text}");
        for other in ["KiB", " ms", "build_mem_used"] {
            assert!(!text.contains(other), "{other} in {text}");
        }
    }

    #[test]
    fn a_stage_whose_tasks_came_to_nothing_says_so() {
        let stage = proto::StageAnalysis { output: "result for the client".into(), ..Default::default() };
        let job = proto::JobAnalysis { stages: vec![stage], notes: vec![] };
        let text = stages(&job, &Shown { categories: None, tasks: true });
        assert_eq!(text, "  stage 0: no task of it counts; result for the client\n");
    }
}
