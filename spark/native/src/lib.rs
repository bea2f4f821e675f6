// SPDX-License-Identifier: Apache-2.0
//! The native side of "Ballista in Spark": columnar shuffle and Arrow FFI inside Spark's own executors.
//!
//! ```text
//!   Spark task (JVM)                         │ native
//!   rows in pages ── writeSortedFileNative ──┼─▶ writer ─▶ row ─▶ block ─▶ file, checksum
//!   fetched blocks ── decodeShuffleBlock ────┼─▶ block ──▶ ffi ─▶ ColumnarBatch
//!   iterators ── C Stream, createPlan ───────┼─▶ exec: ScanExec ─▶ filter, project …
//!   ColumnarBatch ◀── executePlan, C Data ───┼── ffi ◀──┘
//! ```
//!
//! A tour:
//!
//! * [`murmur3`]: the hash that agrees with Spark's, and the partitioner made of it.
//! * [`row`]: unsafe rows, and how they become columns.
//! * [`block`]: what lies in shuffle files. The content is made by the core that all of Ballista shares
//!   (`ballista-shuffle`); frame, compression and the lack of a schema are Spark's business.
//! * [`checksum`], [`writer`]: rows to files.
//! * [`ffi`]: Arrow's C interfaces, in both directions.
//! * [`exec`], [`plan`]: native plans, and how they get at the JVM's batches.
//! * [`config`]: what the JVM sends as bytes instead of as twenty arguments.
//! * [`handles`]: objects that the JVM holds by number.
//! * [`jvm`]: the only module that knows JNI: entry points, exceptions.
//! * [`error`]: one error type, and the Java class of each.
//!
//! *Invariant:* nothing outside [`jvm`] needs a JVM; all of it is tested without one.
//!
//! *Invariant:* no entry point unwinds into the JVM, and none trusts a handle, a length or a byte it is given. Addresses
//! it has to trust; where that happens is `unsafe`, with the promise that the JVM side makes.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(target_endian = "big")]
compile_error!("Spark's rows are in the machine's byte order, Arrow's hashes and blocks are not: only little-endian");

pub mod block;
pub mod checksum;
pub mod config;
pub mod error;
pub mod exec;
pub mod ffi;
pub mod handles;
pub mod jvm;
pub mod murmur3;
pub mod plan;
pub mod row;
#[cfg(test)]
mod testing;
pub mod writer;

pub use error::{Result, SparkError};
