// SPDX-License-Identifier: Apache-2.0
//! What every Ballista crate shares: typed ids, session settings and error classes.
//!
//! * [`ids`]: newtype ids, validated where they enter the system, so that no name ever becomes a path.
//! * [`config`]: the one registry of `ballista.*` session keys.
//! * [`error`]: the error class that decides what the scheduler does about a failure.
//! * [`fault`]: places at which tests make a process fail.
//! * [`units`]: bytes and times as people read them.

pub mod config;
pub mod error;
pub mod fault;
pub mod ids;
pub mod units;

pub use config::BallistaConfig;
pub use error::{ClassifiedError, ErrorClass, UnreadInput};
pub use ids::{ExecutorId, Incarnation, InvalidId, JobId, SchedulerEpoch, StageId, TaskId, TaskKey};

/// Version of the wire protocol. Each version speaks with the one before it and the one after it, so that a cluster is
/// upgraded one process after the other.
pub const PROTOCOL_VERSION: u32 = 2;

/// Whether a process of this version speaks with one of version `theirs`.
pub const fn speaks_protocol(theirs: u32) -> bool {
    PROTOCOL_VERSION.abs_diff(theirs) <= 1
}
