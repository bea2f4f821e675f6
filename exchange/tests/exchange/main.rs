// SPDX-License-Identifier: Apache-2.0
//! The exchange from writer to reader, over every way that rows can take.
#![allow(clippy::unwrap_used)]

mod data;
mod faults;
mod fetch;
mod flight;
mod node;
mod property;
mod results;
mod store;
