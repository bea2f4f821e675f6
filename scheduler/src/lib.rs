// SPDX-License-Identifier: Apache-2.0
//! The scheduler: planning, the shell around the pure core, and the services.
//!
//! ```text
//!   client ──Execute──► ClientStream ◄───────────┐
//!                        │ Submit, ClientGone    │ events, progress
//!                        ▼                       │
//!                    ┌───────────── shell: one task ─────────────┐
//!                    │  Message ─► Event ─► State::step ─► Effect│──Plan──► planning threads ─┐
//!                    └───────▲───────────────────────────┬───────┘◄───────── Planned ─────────┘
//!             statuses,      │                           │ Launch, CancelTask, Free…
//!             heartbeats     │                           ▼
//!                    executor session streams, one per executor incarnation
//! ```
//!
//! A tour:
//! * [`builder`]: [`SchedulerBuilder`], the way in, and [`Scheduler`], what it builds.
//! * [`server`]: serving it over TCP or any other transport; clean shutdown.
//! * [`session`]: where planning gets its functions and settings from.
//! * [`planning`]: from a physical plan to stages.
//! * `planner`: the seam between shell and planning, replaced by a script in tests.
//! * `journal`: what survives the scheduler's death.
//! * `shell`: the one task that owns all state and does the I/O that the core asks for.
//! * `sql`: sessions that live here, for clients that send text.
//! * `service`: the gRPC methods; they validate, translate and pass on.
//! * [`daemon`]: flags, environment, configuration file and signals of the program `ballista-scheduler`.
//!
//! *Invariant:* the shell's task never waits for anything but its own queue of messages. Clients and executors are
//! reached through queues that take a message at once or not at all; planning happens on threads of its own. So
//! neither a slow client, nor a stuck executor, nor a hard query delays anybody else.

pub mod builder;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod error;
mod journal;
mod planner;
pub mod planning;
pub mod server;
mod service;
pub mod session;
mod shell;
mod sql;
#[cfg(test)]
mod tests;

pub use ballista_scheduler_core::Limits;
pub use builder::{Scheduler, SchedulerBuilder};
pub use error::SchedulerError;
pub use server::SchedulerHandle;
pub use service::SchedulerServer;
pub use session::{CachedSessions, SessionProvider};
