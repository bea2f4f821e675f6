// SPDX-License-Identifier: Apache-2.0
//! Executors against a scheduler that launches stages by hand, all in one process, over connections in memory.
#![allow(clippy::unwrap_used)]
// `[0..10]` is a table of one partition here.
#![allow(clippy::single_range_in_vec_init)]

mod cluster;
mod exchanges;
mod failures;
mod metrics;
mod plans;
mod results;
mod scheduler;
mod sessions;
