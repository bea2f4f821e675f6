// SPDX-License-Identifier: Apache-2.0
//! The executor: runs tasks for a scheduler, keeps what they wrote and serves it to other executors and clients.
//!
//! ```text
//!                                    scheduler
//!                                        │ one stream: statuses up, launches down
//!   ┌ executor ──────────────────────────┼───────────────────────────────────────────┐
//!   │  I/O runtime (the caller's)     session ──▶ runner ─────┐   CPU runtime (own)  │
//!   │                                    ▲                    ▼                      │
//!   │                                  outbox ◀── status ── plan instance, one CPU   │
//!   │                                                       task per partition       │
//!   │  Flight ◀── data service ◀── shuffle store, result streams ◀──┘                │
//!   └────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`ExecutorBuilder`] is the way in, for the daemon in this crate, for daemons with an application's own functions,
//! codecs and object stores, and for clusters inside a process:
//!
//! ```no_run
//! # async fn example() -> Result<(), ballista_executor::ExecutorError> {
//! let executor = ballista_executor::ExecutorBuilder::new()
//!     .with_scheduler("localhost", 50050)
//!     .with_slots(8)
//!     .start()
//!     .await?;
//! executor.registered().await?;
//! executor.shutdown().await
//! # }
//! ```
//!
//! A tour:
//! * [`builder`], [`handle`]: configuring, starting, draining, stopping.
//! * [`daemon`]: flags, environment, configuration file and signals of the program `ballista-executor`.
//! * [`provider`]: the sessions that tasks run in.
//! * [`memory`]: how much memory there is. `disk`: likewise. [`size`]: amounts of both, as people write them.
//! * `life`: what ends with an incarnation. `session`: the stream to the scheduler. `outbox`: statuses until they are
//!   acknowledged. `runner`: from a launch to a status. `plans`: stage plans, fetched once. `service`: serving Flight.
//!   `cpu`: the runtime that plans run on.
//!
//! *Invariants.* One memory pool, shared by every operator and the shuffle store. Nothing polls. Every launch is answered
//! by one final status, which is kept until the scheduler has it. What belonged to one incarnation never shows up in
//! the next.

pub mod builder;
mod cpu;
#[cfg(feature = "daemon")]
pub mod daemon;
mod disk;
pub mod error;
pub mod fingerprint;
pub mod handle;
mod life;
pub mod memory;
mod outbox;
mod plans;
pub mod provider;
mod runner;
mod service;
mod session;
pub mod size;
mod stores;
mod writes;

pub use builder::ExecutorBuilder;
pub use error::ExecutorError;
pub use fingerprint::hash_fingerprint;
pub use handle::ExecutorHandle;
pub use provider::{CachedSessions, SessionProvider};
pub use size::Size;
