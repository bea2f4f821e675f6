// SPDX-License-Identifier: Apache-2.0
//! The exchange: how rows get from the tasks of one stage to the tasks of the next, and to the client.
//!
//! ```text
//!   task ─▶ TaskSink ─▶ OutputWriter ─▶ ShuffleStore ◀── ExchangeServer ◀──Flight── ExchangeClient ─▶ task
//!                                        memory │ file                                   │
//!                                               └───────────── same executor ────────────┘
//!   final task ─▶ ResultSender ─▶ ResultStreams ◀── ExchangeServer ◀──Flight── read_result ─▶ client
//! ```
//!
//! A tour:
//! * [`store`]: what the tasks of an executor have written, in memory or in files.
//! * [`memory`]: the executor's one memory pool.
//! * [`results`]: streams of running final tasks.
//! * [`server`]: both of them over Arrow Flight.
//! * [`ticket`], [`wire`]: who may read what; typed mirrors of the messages.
//! * [`client`]: fetching, with a bound on bytes in flight that cannot deadlock.
//! * [`error`], [`status`]: errors and the class that decides about a retry, also across DataFusion and gRPC.
//!
//! *Invariant:* a stream that ends without an error has delivered every row. Rows are counted against what the
//! producers reported, blocks are checked before they are decoded, and every stream ends with an explicit marker.

pub mod client;
pub mod error;
mod frame;
pub mod memory;
pub mod results;
pub mod server;
pub mod status;
pub mod store;
pub mod ticket;
pub mod wire;

pub use client::{
    BatchStream, ConnectionPool, Connector, ExchangeClient, FetchConfig, FetchMetrics, FetchOptions, LocalConnector,
    TcpConnector, read_result,
};
pub use error::{ExchangeError, class_of, classify};
pub use memory::executor_pool;
pub use results::{ResultSender, ResultStreams};
pub use server::{ExchangeServer, tune};
pub use store::{
    OutputOptions, OutputSummary, OutputWriter, ShuffleStore, StoreConfig, StoreStats, TaskSink, prepare_work_dir,
};
pub use ticket::TicketKey;
pub use wire::{ExecutorAddress, InputSource, StageInputs, Ticket};
