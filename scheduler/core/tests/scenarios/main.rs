// SPDX-License-Identifier: Apache-2.0
//! One promise per test, on a cluster small enough to follow by hand.

#![allow(clippy::unwrap_used)]

mod cluster;
mod jobs;
mod recovery;
