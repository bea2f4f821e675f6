// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in a scheduler as a whole, or with one message to it.
//!
//! What goes wrong in a *job* never gets here: it becomes a [`ClassifiedError`](ballista_core::ClassifiedError) in the
//! job's last event. `Display` says what happened; the cause is reachable through `source()`.

use std::io;

use ballista_core::{ClassifiedError, ErrorClass, InvalidId};
use ballista_exchange::ExchangeError;
use ballista_exchange::status::{ERROR_CLASS_KEY, to_status};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Result of an operation of this crate.
pub type Result<T, E = SchedulerError> = std::result::Result<T, E>;

/// A scheduler could not start or serve, or a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// A setting that makes no sense, and what would.
    #[error("invalid scheduler configuration: {0}")]
    Config(String),
    /// The address is taken or not this host's.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address that was tried.
        address: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A resource of the operating system was refused.
    #[error("cannot {action}")]
    Io {
        /// Verb phrase: `start a planning thread`, …
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The state directory cannot be used, and what to do about it.
    #[error("state directory {dir}: {problem}")]
    State {
        /// The directory.
        dir: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A scheduler was built outside a tokio runtime.
    #[error("a scheduler must be built inside a tokio runtime")]
    NoRuntime,
    /// The server ended by itself.
    #[error("the scheduler's server failed")]
    Serve(#[source] tonic::transport::Error),
    /// Client, scheduler and executors are of versions that do not go together.
    #[error(
        "{who} speaks {what} {theirs}, this scheduler {ours}; all must have the same version of DataFusion, and protocol \
         versions that are at most 1 apart"
    )]
    Incompatible {
        /// Who sent the message.
        who: String,
        /// What differs.
        what: &'static str,
        /// The sender's version.
        theirs: String,
        /// The scheduler's version.
        ours: String,
    },
    /// An executor may not join.
    #[error("executor refused: {0}")]
    Refused(String),
    /// A message that does not follow the protocol.
    #[error("protocol violated: {0}")]
    Protocol(String),
    /// The job or stage asked for is not, or no longer, known.
    #[error("{0} is not known, or over")]
    Gone(String),
    /// The session is not open: it was closed, or nobody used it for too long.
    #[error("the session is not open: it was closed, or not used for too long")]
    NoSession,
    /// There are as many sessions as there may be.
    #[error("all {most} sessions of this scheduler are taken; close some, or come back later")]
    TooManySessions {
        /// How many there may be.
        most: usize,
    },
    /// The scheduler was told to take no SQL.
    #[error("this scheduler takes no SQL (--no-sql-sessions); plan in the client instead")]
    NoSqlSessions,
    /// A session that could not be made.
    #[error("{0}")]
    Session(ClassifiedError),
    /// The scheduler is being stopped.
    #[error("the scheduler is stopping")]
    Stopped,
}

impl SchedulerError {
    /// What the other side should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_) | Self::Incompatible { .. } | Self::Refused(_) | Self::NoSqlSessions => ErrorClass::User,
            Self::TooManySessions { .. } => ErrorClass::Resource,
            Self::Session(error) => error.class,
            Self::NoRuntime | Self::Protocol(_) => ErrorClass::Deterministic,
            Self::Bind { .. } | Self::Io { .. } | Self::State { .. } | Self::Serve(_) | Self::Stopped => {
                ErrorClass::Infra
            }
            Self::Gone(_) | Self::NoSession => ErrorClass::Fenced,
        }
    }

    /// The error as the answer to a gRPC call, with its class, see [`ballista_exchange::status`].
    pub(crate) fn to_status(&self) -> Status {
        let code = match self {
            Self::Session(error) => return to_status(&ExchangeError::Remote(error.clone())),
            Self::Incompatible { .. } | Self::Refused(_) | Self::NoSqlSessions => Code::FailedPrecondition,
            Self::TooManySessions { .. } => Code::ResourceExhausted,
            Self::Config(_) | Self::Protocol(_) => Code::InvalidArgument,
            Self::Gone(_) | Self::NoSession => Code::NotFound,
            Self::Stopped => Code::Unavailable,
            Self::NoRuntime | Self::Bind { .. } | Self::Io { .. } | Self::State { .. } | Self::Serve(_) => {
                Code::Internal
            }
        };
        let mut status = Status::new(code, self.to_string());
        status.metadata_mut().insert(ERROR_CLASS_KEY, MetadataValue::from(self.class().code()));
        status
    }
}

impl From<InvalidId> for SchedulerError {
    fn from(error: InvalidId) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<ExchangeError> for SchedulerError {
    fn from(error: ExchangeError) -> Self {
        Self::Protocol(error.full_text())
    }
}
