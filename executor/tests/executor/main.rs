// SPDX-License-Identifier: Apache-2.0
//! Executors against a scheduler that launches stages by hand: in one process, over connections in memory, and the
//! daemon as a process of its own.
#![allow(clippy::unwrap_used)]
// `[0..10]` is a table of one partition here.
#![allow(clippy::single_range_in_vec_init)]

mod cluster;
#[cfg(feature = "daemon")]
mod daemon;
mod exchanges;
mod failures;
mod metrics;
mod plans;
// The same for both daemons.
#[cfg(feature = "daemon")]
#[path = "../../../scheduler/tests/daemon/process.rs"]
mod process;
mod results;
mod round_trip;
mod scheduler;
mod sessions;
