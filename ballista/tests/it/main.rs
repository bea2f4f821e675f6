// SPDX-License-Identifier: Apache-2.0
//! End to end: programs and queries on an in-process cluster give what plain DataFusion gives.

#![allow(clippy::unwrap_used)]

mod analyze;
mod cache;
mod client_side;
mod codecs;
mod common;
mod docs;
mod errors;
mod example;
mod explain;
mod functions;
mod memory;
mod object_stores;
mod pair;
mod queries;
mod remote;
mod runtimes;
mod s3;
mod server_sessions;
#[cfg(feature = "spark-compat")]
mod spark;
#[cfg(feature = "substrait")]
mod substrait;
mod tables;
mod traps_codec;
mod traps_flow;
mod traps_slices;
mod upload;
mod writes;
