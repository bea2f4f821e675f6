// SPDX-License-Identifier: Apache-2.0
//! What the scheduler's log tells of tasks: which were launched, which ended, which were lost and launched again.
//!
//! A task is written `job/stage.stage attempt/task.attempt`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// The lines that end a job.
const ENDS: [&str; 3] = ["job finished", "job failed", "job cancelled"];

/// Outputs that were complete at the end of `log`, of jobs that were not over.
pub(super) fn finished_outputs(log: &str) -> BTreeSet<String> {
    let is_end = |line: &&str| ENDS.iter().any(|end| line.contains(end));
    let over: BTreeSet<String> = log.lines().filter(is_end).filter_map(|line| field(line, "job=")).collect();
    let is_output = |line: &&str| {
        [": task finished ", "task taken over"].iter().any(|text| line.contains(text))
            && !line.contains("finished=false")
    };
    let outputs = log.lines().filter(is_output).filter_map(|line| field(line, "task="));
    outputs.filter(|task| !over.contains(task.split('/').next().unwrap_or_default())).collect()
}

/// Outputs that the scheduler found again when it was started again.
pub(super) fn taken_over(log: &str) -> BTreeSet<String> {
    let taken = log.lines().filter(|line| line.contains("task taken over") && line.contains("finished=true"));
    taken.filter_map(|line| field(line, "task=")).collect()
}

fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// How much was done more than once, and why it had to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Again {
    /// Launches of tasks that had been launched before.
    pub again: u64,
    /// Tasks that ran on an executor when it was lost, and outputs that were on it while their job lived. Some of these
    /// nobody may have needed any more.
    pub lost: u64,
    /// Launches while another attempt of the task ran.
    pub speculative: u64,
    /// Launches of tasks of a stage that was started over as a whole.
    pub reset: u64,
    /// Tasks that failed, because of what they could not read, or by themselves.
    pub failed: u64,
}

impl Again {
    /// Reads a log from its beginning.
    pub fn of(log: &str) -> Self {
        let mut tasks = Tasks::default();
        log.lines().for_each(|line| tasks.read(line));
        tasks.again
    }

    /// Whether what was launched again is more than what was lost, hurried and started over, and one task for each of
    /// `faults`.
    pub fn is_unexplained(&self, faults: u64) -> bool {
        self.again > self.lost + self.speculative + self.reset + faults
    }
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { again, lost, speculative, reset, failed } = self;
        write!(
            f,
            "{again} launches again: {lost} tasks and outputs were lost, {speculative} launches were speculative, {reset} \
             of stages that were started over, {failed} tasks failed"
        )
    }
}

/// An attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    job: String,
    stage: u32,
    stage_attempt: u32,
    task: u32,
    attempt: u32,
}

impl Attempt {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let job = parts.next()?.to_owned();
        let mut pair = || {
            let (first, second) = parts.next()?.split_once('.')?;
            Some((first.parse().ok()?, second.parse().ok()?))
        };
        let ((stage, stage_attempt), (task, attempt)) = (pair()?, pair()?);
        Some(Self { job, stage, stage_attempt, task, attempt })
    }
}

/// Tasks as far as the log was read. Those of jobs that are over are forgotten.
#[derive(Debug, Default)]
struct Tasks {
    /// The stage attempt that a task was launched in last; by job, then stage and task.
    launched: HashMap<String, HashMap<(u32, u32), u32>>,
    /// Which executor an attempt runs on, or its output is on.
    running: HashMap<Attempt, String>,
    finished: HashMap<Attempt, String>,
    again: Again,
}

impl Tasks {
    fn read(&mut self, line: &str) {
        let (task, executor) = (|| Attempt::parse(&field(line, "task=")?), || field(line, "executor="));
        if line.contains(": task launched ") {
            if let (Some(task), Some(executor)) = (task(), executor()) {
                self.launched(task, executor);
            }
        } else if line.contains(": task finished ") {
            if let Some((task, executor)) = task().and_then(|task| self.running.remove_entry(&task)) {
                self.finished.insert(task, executor);
            }
        } else if line.contains(": task failed ") {
            if let Some(task) = task() {
                self.running.remove(&task);
                self.again.failed += 1;
            }
        } else if line.contains(": executor lost ") {
            let Some(executor) = executor() else { return };
            for of in [&mut self.running, &mut self.finished] {
                let before = of.len();
                of.retain(|_, on| *on != executor);
                self.again.lost += (before - of.len()) as u64;
            }
        } else if ENDS.iter().any(|end| line.contains(end)) {
            let Some(job) = field(line, "job=") else { return };
            self.launched.remove(&job);
            self.running.retain(|task, _| task.job != job);
            self.finished.retain(|task, _| task.job != job);
        }
    }

    fn launched(&mut self, task: Attempt, executor: String) {
        let job = self.launched.entry(task.job.clone()).or_default();
        match job.insert((task.stage, task.task), task.stage_attempt) {
            None => {}
            Some(before) if before < task.stage_attempt => {
                self.again.again += 1;
                self.again.reset += 1;
            }
            Some(_) => {
                let is_other =
                    |other: &Attempt| other.job == task.job && (other.stage, other.task) == (task.stage, task.task);
                self.again.again += 1;
                self.again.speculative += u64::from(self.running.keys().any(is_other));
            }
        }
        if task.stage_attempt > 0 {
            let is_old = |other: &Attempt| {
                other.job == task.job && other.stage == task.stage && other.stage_attempt < task.stage_attempt
            };
            self.running.retain(|other, _| !is_old(other));
            self.finished.retain(|other, _| !is_old(other));
        }
        self.running.insert(task, executor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(lines: &[&str]) -> [u64; 5] {
        let log: Vec<String> =
            lines.iter().map(|line| format!("2026 DEBUG ballista_scheduler::shell: {line}")).collect();
        let Again { again, lost, speculative, reset, failed } = Again::of(&log.join("\n"));
        [again, lost, speculative, reset, failed]
    }

    #[test]
    fn what_an_executor_had_is_lost_with_it_unless_its_job_is_over() {
        let lines = [
            "task launched task=j/1.0/0.0 executor=a partitions=1",
            "task launched task=j/1.0/1.0 executor=a partitions=1",
            "task launched task=k/1.0/0.0 executor=a partitions=1",
            "task finished task=j/1.0/0.0 executor=a rows=1 bytes=1",
            "task finished task=k/1.0/0.0 executor=a rows=1 bytes=1",
            "job finished job=k stages=1 tasks=1 rows=1",
            "executor lost executor=a reason=\"gone\"",
            "task launched task=j/1.0/0.1 executor=b partitions=1",
            "task launched task=j/1.0/1.1 executor=b partitions=1",
        ];
        assert_eq!(again(&lines), [2, 2, 0, 0, 0]);
        let lost = Again::of("");
        assert!(!lost.is_unexplained(0) && Again { again: 2, lost: 1, ..lost }.is_unexplained(0));
        assert!(!Again { again: 2, lost: 1, ..lost }.is_unexplained(1));
    }

    #[test]
    fn second_attempts_failures_and_stages_that_start_over_are_told_apart() {
        let lines = [
            "task launched task=j/1.0/0.0 executor=a partitions=1",
            "task launched task=j/1.0/0.1 executor=b partitions=1",
            "task launched task=j/1.0/1.0 executor=b partitions=1",
            "task failed task=j/1.0/1.0 executor=b class=fetch message=gone",
            "task launched task=j/1.0/1.1 executor=a partitions=1",
            "task launched task=j/1.1/0.0 executor=a partitions=1",
        ];
        assert_eq!(again(&lines), [3, 0, 1, 1, 1]);
    }
}
