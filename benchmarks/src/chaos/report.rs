// SPDX-License-Identifier: Apache-2.0
//! The table: a line for each scenario.

use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::error::Result;

use super::Scenario;
use super::run::Outcome;
use super::tally::{Counts, Tally};

/// Prints what the columns are.
pub fn print_head(seed: u64) {
    println!(
        "scenario   faults  right  wrong  failed  hung  again  lost  longest [s]  recovery [s]  seconds  (seed {seed})"
    );
}

/// Prints what came of a scenario: its figures, with a note if they are strange, or why it did not run.
///
/// * `again` are tasks that were launched before, `lost` those and outputs that went with an executor.
/// * `recovery` is the longest time from a fault to the end of a query that ran when it happened.
pub fn print_row(scenario: Scenario, outcome: &Result<Outcome>, tally: &Tally, elapsed: Duration) {
    if let Ok(Outcome::LeftOut(reason)) = outcome {
        println!("{:<10} was left out: {reason}", scenario.name());
        return;
    }
    let (fired, again) = match outcome {
        Ok(Outcome::Ran { fired, again }) => (Some(*fired), *again),
        _ => (None, None),
    };
    let number = |number: Option<u64>, unknown: &str| number.map_or_else(|| unknown.to_owned(), |n| n.to_string());
    let Counts { right, wrong, failed, hung } = tally.counts();
    println!(
        "{:<10} {:>6} {right:>6} {wrong:>6} {failed:>7} {hung:>5} {:>6} {:>5} {:>12.1} {:>13} {:>8.0}",
        scenario.name(),
        number(fired, "?"),
        number(again.map(|again| again.again), "-"),
        number(again.map(|again| again.lost), "-"),
        tally.longest_millis.load(Ordering::Relaxed) as f64 / 1000.0,
        tally.recovery().map_or_else(|| "-".to_owned(), |time| format!("{:.1}", time.as_secs_f64())),
        elapsed.as_secs_f64(),
    );
    if let Some(again) = again.filter(|again| again.is_unexplained(fired.unwrap_or_default())) {
        println!("note: {again}, {} faults fired", fired.unwrap_or_default());
    }
}
