// SPDX-License-Identifier: Apache-2.0
//! The shuffle core: how rows leave a task, bucket by bucket, and how they come back.
//!
//! Arrow in, Arrow out. No network, no async, no query engine: the executor wraps this crate with a store and Arrow
//! Flight, the Spark adapter with JNI, and tests call it as it is.
//!
//! ```text
//!            keys                 ids                       owned batches per bucket
//!   batch ──────────▶ Partitioner ────▶ BatchPartitioner ──────────────────────────▶ PartitionSink
//!     │                                        ▲                                          │
//!     └────────────────────────────────────────┘                        in memory ◀───────┤
//!                                                                                         ▼
//!    batch ◀── BlockDecoder ◀── Block { header, body, rows, crc } ◀── BlockEncoder ◀── batches
//!                                    │          ▲
//!                      Flight ◀──────┤          │ positional reads
//!                                    ▼          │
//!              ┌──────┬─────────────┬─────────────┬───┬──────┐
//!              │ head │ partition 0 │ partition 1 │ … │ tail │   a valid Arrow IPC file, ShuffleFile
//!              └──────┴─────────────┴─────────────┴───┴──────┘
//! ```
//!
//! A tour:
//!
//! * [`partition`], [`range`]: which bucket a row belongs to: hash, round-robin, single, range.
//! * [`repartition`]: moves rows into their buckets.
//! * [`compact`]: what a batch costs in memory, and how to make it cost no more than it should.
//! * [`block`]: the unit that is compressed, checksummed, stored and sent.
//! * [`file`], [`reader`], [`index`]: one indexed file per task.
//! * [`error`]: one error type, with the class that drives retries.
//!
//! *Invariant:* what comes out is what went in, or an error. Every byte that is stored or sent is covered by a check
//! that runs before decoding, and a missing byte, block or row is an error, never an end.
//!
//! *Invariant:* a batch handed to a sink owns its memory: dropping it frees that memory, and
//! [`batch_bytes`] says how much.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::ptr_arg))]

pub mod block;
pub mod compact;
mod dictionary;
pub mod error;
pub mod file;
mod footer;
mod gather;
pub mod index;
pub mod partition;
pub mod range;
pub mod reader;
pub mod repartition;

pub use block::{Block, BlockDecoder, BlockEncoder, TARGET_BLOCK_BYTES, block_crc};
pub use compact::{batch_bytes, compact, used_bytes};
pub use dictionary::{wire_schema, wire_type};
pub use error::{Result, ShuffleError};
pub use file::ShuffleFileWriter;
pub use index::{BlockEntry, FileIdentity, ShuffleFileIndex};
pub use partition::{HashPartitioner, Partitioner, RoundRobinPartitioner, SinglePartitioner};
pub use range::{RangePartitioner, range_bounds};
pub use reader::{BatchIter, BlockIter, ShuffleFile};
pub use repartition::{BatchPartitioner, PartitionSink};
