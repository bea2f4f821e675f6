// SPDX-License-Identifier: Apache-2.0
//! Typed ids. Textual ids hold only `[A-Za-z0-9_-]{1,64}`, checked by their only constructor.

use std::fmt;
use std::sync::Arc;

/// A textual id that is empty, too long or holds a character outside `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} id: expected 1 to 64 characters of [A-Za-z0-9_-]")]
pub struct InvalidId {
    kind: &'static str,
}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let valid =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if valid { Ok(()) } else { Err(InvalidId { kind }) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps `text`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                check($kind, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// A fresh random id.
            pub fn random() -> Self {
                Self(Arc::from(uuid::Uuid::new_v4().simple().to_string()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", $kind, self.0)
            }
        }
    };
}

text_id! {
    /// A query accepted by the scheduler, which alone generates these ids.
    JobId, "job"
}
text_id! {
    /// An executor as configured or generated; stable over restarts if configured.
    ExecutorId, "executor"
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// A stage of a job, counted from 0 in the order of planning.
    StageId(u32)
}
number_id! {
    /// A task of a stage, counted from 0 in the order of launching.
    TaskId(u32)
}
number_id! {
    /// One life of an executor process; random per process start.
    Incarnation(u64)
}
number_id! {
    /// One life of a scheduler over its state; grows by one at each start.
    SchedulerEpoch(u64)
}

impl Incarnation {
    /// A fresh random incarnation.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().0)
    }
}

/// What a task run is fenced by, and at the same time the identity of its shuffle output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// The job.
    pub job: JobId,
    /// The stage within the job.
    pub stage: StageId,
    /// How often the stage as a whole was started before.
    pub stage_attempt: u32,
    /// The task within the stage.
    pub task: TaskId,
    /// How often this task was started before.
    pub attempt: u32,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}/{}.{}", self.job, self.stage, self.stage_attempt, self.task, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_become_a_path() {
        for bad in ["", "..", "a/b", "a\\b", "a b", "é", &"x".repeat(65)] {
            assert!(JobId::new(bad).is_err(), "{bad:?} accepted");
        }
        assert_eq!(ExecutorId::new("executor-1_a").unwrap().as_str(), "executor-1_a");
    }

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (JobId::random(), JobId::random());
        assert_ne!(a, b);
        assert_eq!(JobId::new(a.as_str()).unwrap(), a);
    }
}
