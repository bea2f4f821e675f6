// SPDX-License-Identifier: Apache-2.0
//! The whole shell over in-memory connections, with scripted planners and executors.
#![allow(clippy::unwrap_used)]

mod analysis;
mod failures;
mod flow;
mod harness;
mod plans;
#[cfg(feature = "journal")]
mod restart;
mod scale;
mod sessions;
