// SPDX-License-Identifier: Apache-2.0
//! A line per file, the failures, and at the end sums and skips.

use std::time::Duration;

use crate::engine::EngineKind;
use crate::script::Outcome;

/// A file on all engines.
#[derive(Debug, Default)]
pub(crate) struct FileReport {
    pub(crate) failures: Vec<String>,
    statements: usize,
    skips: Vec<String>,
    distributed: [u64; 3],
    times: Vec<String>,
}

impl FileReport {
    /// A file that could not be run.
    pub(crate) fn failure(text: String) -> Self {
        Self { failures: vec![text], ..Self::default() }
    }

    /// Adds what came of it on one engine.
    pub(crate) fn add(&mut self, engine: EngineKind, outcome: Outcome, time: Duration) {
        self.statements = outcome.statements;
        self.failures.extend(outcome.failures);
        if !outcome.skips.is_empty() {
            self.skips = outcome.skips;
        }
        for (sum, count) in self.distributed.iter_mut().zip(outcome.distributed) {
            *sum += count;
        }
        self.times.push(format!("{engine} {:.1}", time.as_secs_f64()));
    }
}

/// All files.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: Vec<String>,
    statements: usize,
    skips: Vec<String>,
    distributed: [u64; 3],
}

impl Report {
    /// Prints and adds a file.
    pub(crate) fn add(&mut self, name: &str, file: FileReport) {
        let verdict = if file.failures.is_empty() { "ok  " } else { "FAIL" };
        println!("{verdict} {name}: {} statements; {} s", file.statements, file.times.join(", "));
        for failure in &file.failures {
            println!("{}\n", indented(failure));
        }
        if file.failures.is_empty() {
            self.passed += 1;
        } else {
            self.failed.push(format!("{name} ({})", file.failures.len()));
        }
        self.statements += file.statements;
        self.skips.extend(file.skips.into_iter().map(|reason| format!("{name}: {reason}")));
        for (sum, count) in self.distributed.iter_mut().zip(file.distributed) {
            *sum += count;
        }
    }

    /// Prints the end; whether all is well.
    pub(crate) fn finish(mut self, time: Duration) -> bool {
        self.skips.sort();
        println!("\nskipped on the cluster: {}", self.skips.len());
        for skip in &self.skips {
            println!("  {skip}");
        }
        self.failed.sort();
        if !self.failed.is_empty() {
            println!("failed: {}", self.failed.join(", "));
        }
        let [distributed, exchanging, tasks] = self.distributed;
        println!(
            "{} statements; {distributed} queries computed by the cluster, {exchanging} with an exchange, {tasks} \
             tasks; {:.0} s",
            self.statements,
            time.as_secs_f64()
        );
        println!("{} passed, {} failed", self.passed, self.failed.len());
        self.failed.is_empty() && self.passed > 0
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}
