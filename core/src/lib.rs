// SPDX-License-Identifier: Apache-2.0
//! What every Ballista crate shares: typed ids, session settings and error classes.
//!
//! * [`ids`]: newtype ids, validated where they enter the system, so that no name ever becomes a path.
//! * [`config`]: the one registry of `ballista.*` session keys.
//! * [`error`]: the error class that decides what the scheduler does about a failure.
//! * [`units`]: bytes and times as people read them.

pub mod config;
pub mod error;
pub mod ids;
pub mod units;

pub use config::BallistaConfig;
pub use error::{ClassifiedError, ErrorClass, UnreadInput};
pub use ids::{ExecutorId, Incarnation, InvalidId, JobId, SchedulerEpoch, StageId, TaskId, TaskKey};

/// Version of the wire protocol; client, scheduler and executor must agree on it.
pub const PROTOCOL_VERSION: u32 = 1;
