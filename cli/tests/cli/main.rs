// SPDX-License-Identifier: Apache-2.0
//! The real binary, as people and scripts use it: on a cluster inside it, on one beside it, at a terminal.

#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod docs;
mod scripts;
mod shell;
mod stores;
mod terminal;
