// SPDX-License-Identifier: Apache-2.0
//! The whole shell over in-memory connections, with scripted planners and executors.

mod failures;
mod flow;
mod harness;
mod scale;
mod sessions;
