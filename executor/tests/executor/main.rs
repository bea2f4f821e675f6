// SPDX-License-Identifier: Apache-2.0
//! Executors against a scheduler that launches stages by hand, all in one process, over connections in memory.

mod cluster;
mod exchanges;
mod failures;
mod plans;
mod results;
mod scheduler;
mod sessions;
