// SPDX-License-Identifier: Apache-2.0
//! End to end: programs and queries on an in-process cluster give what plain DataFusion gives.

#![allow(clippy::unwrap_used)]

mod client_side;
mod common;
mod errors;
mod example;
mod functions;
mod queries;
mod remote;
mod runtimes;
mod tables;
