// SPDX-License-Identifier: Apache-2.0
//! What scheduler, executor and client know about distributed DataFusion plans.
//!
//! * [`config`]: `ballista.*` keys inside a DataFusion `SessionConfig`, and settings as text.
//! * [`stage`]: [`stage::StagePlan`], what the tasks of a stage run and how their rows are partitioned.
//! * [`reader`]: [`reader::ShuffleReaderExec`], the leaf that stands for an exchange.
//! * [`cached`]: [`cached::CachedExec`], the leaf that stands for rows that another job has kept.
//! * [`memory`]: tables in memory, and rows of the client made one.
//! * [`equivalences`]: what is known to be equal or constant in the rows of an exchange.
//! * [`determinism`]: whether a stage gives the same rows when it runs again.
//! * [`slice`]: restricts a stage's plan to the partitions of one task.
//! * [`task`]: from encoded stage bytes to a plan instance ready to run.
//! * [`functions`]: where functions come from, Spark's among them. [`ipc`]: schemas as bytes.
//! * [`stores`]: object stores by URL and options.
//! * [`codec`]: plans to bytes and back, without the losses of `datafusion-proto` (`lost`) and of any depth (`convert`).
//!
//! *Invariant:* a plan instance is executed at most once. DataFusion keeps state in plan nodes (a hash join's build
//! side, dynamic filters, counters of partitions), so a task decodes its plan afresh, restricts the leaves to its
//! slice and polls every remaining partition to the end.

pub mod cached;
pub mod codec;
#[cfg(test)]
mod codec_tests;
pub mod config;
pub mod context;
mod convert;
pub mod determinism;
pub mod equivalences;
pub mod functions;
pub mod ipc;
mod lost;
pub mod memory;
pub mod reader;
pub mod slice;
#[cfg(test)]
mod slice_tests;
pub mod stage;
pub mod stores;
pub mod task;
#[cfg(test)]
mod task_tests;
pub mod write;
