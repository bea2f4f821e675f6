// SPDX-License-Identifier: Apache-2.0
//! Error classes: what went wrong, as far as the decision about a retry needs to know.

use std::fmt;

use crate::ids::{ExecutorId, Incarnation, JobId, StageId};

/// Decides what the scheduler does about a failed task or job. Carried over the wire as a number, never inferred
/// from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The query or its data is at fault; running it again gives the same error.
    User,
    /// The engine is at fault in a repeatable way: an internal error or a panic.
    Deterministic,
    /// An I/O or object-store fault that may pass.
    Transient,
    /// Shuffle data of a producer is lost, corrupt or unreachable.
    Fetch,
    /// Memory or disk ran out.
    Resource,
    /// The executor or scheduler was lost, or the work was cancelled from outside.
    Infra,
    /// The message belongs to an attempt, incarnation or epoch that is over.
    Fenced,
}

impl ErrorClass {
    const ALL: [Self; 7] =
        [Self::User, Self::Deterministic, Self::Transient, Self::Fetch, Self::Resource, Self::Infra, Self::Fenced];

    /// The number used on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::User => 1,
            Self::Deterministic => 2,
            Self::Transient => 3,
            Self::Fetch => 4,
            Self::Resource => 5,
            Self::Infra => 6,
            Self::Fenced => 7,
        }
    }

    /// The class of a number read from the wire; a number of a later version counts as `Deterministic`.
    pub fn from_code(code: u32) -> Self {
        Self::ALL.into_iter().find(|class| class.code() == code).unwrap_or(Self::Deterministic)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user error",
            Self::Deterministic => "internal error",
            Self::Transient => "transient error",
            Self::Fetch => "shuffle fetch error",
            Self::Resource => "resources exhausted",
            Self::Infra => "infrastructure error",
            Self::Fenced => "fenced",
        })
    }
}

/// An error that has crossed a process boundary: its class and its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClassifiedError {
    /// Decides about retries.
    pub class: ErrorClass,
    /// What happened, where, and what to do.
    pub message: String,
    /// The input that could not be read, if that was it and it is known.
    pub unread: Option<Box<UnreadInput>>,
}

/// Outputs of a stage that a task could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadInput {
    /// The job that wrote them.
    pub job: JobId,
    /// The stage that wrote them.
    pub stage: StageId,
    /// Who should hold them.
    pub executor: ExecutorId,
    /// The holder's life.
    pub incarnation: Incarnation,
    /// They are lost or damaged there, as their holder or a checksum says. Otherwise nobody answered.
    pub gone: bool,
}

impl ClassifiedError {
    /// An error of `class` with this text.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), unread: None }
    }

    /// The same error, about an input.
    pub fn with_unread(self, unread: Option<UnreadInput>) -> Self {
        Self { unread: unread.map(Box::new), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_unknown_ones_are_never_retried() {
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::from_code(class.code()), class);
        }
        assert_eq!(ErrorClass::from_code(999), ErrorClass::Deterministic);
    }
}
