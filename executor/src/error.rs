// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in an executor as a whole, with the class that decides about a retry.
//!
//! What goes wrong in a *task* never gets here: it becomes a [`ClassifiedError`](ballista_core::ClassifiedError) in
//! the task's status. `Display` says what happened; the cause is reachable through `source()`.

use std::io;

use ballista_core::ErrorClass;
use ballista_exchange::ExchangeError;
use datafusion::error::DataFusionError;

/// Result of an operation of this crate.
pub type Result<T, E = ExecutorError> = std::result::Result<T, E>;

/// An executor could not be configured, could not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// A setting that makes no sense, and what would.
    #[error("invalid executor configuration: {0}")]
    Config(String),
    /// The data service's address is taken or not this host's.
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
        /// Verb phrase: `start the CPU runtime`, …
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The shuffle store or the data service failed.
    #[error("exchange failed")]
    Exchange(#[from] ExchangeError),
    /// DataFusion's runtime environment could not be built.
    #[error("cannot set up the query engine")]
    Engine(#[from] DataFusionError),
    /// The scheduler will not have this executor, now or later.
    #[error("the scheduler refused this executor: {0}")]
    Refused(String),
    /// The executor was stopped while somebody waited for it.
    #[error("the executor was stopped")]
    Stopped,
    /// A task that was cancelled computed on, so that only the end of the process could stop it.
    #[error("a cancelled task could not be stopped; the process has to be started again")]
    Stuck,
    /// The executor ended although nobody had asked for it: an invariant is broken.
    #[error("the executor's main loop died: {0}")]
    Died(String),
}

impl ExecutorError {
    /// What whoever started the executor should think of it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_) | Self::Bind { .. } | Self::Refused(_) => ErrorClass::User,
            Self::Io { .. } => ErrorClass::Transient,
            Self::Exchange(error) => error.class(),
            Self::Engine(error) => ballista_exchange::class_of(error),
            Self::Stopped | Self::Stuck => ErrorClass::Infra,
            Self::Died(_) => ErrorClass::Deterministic,
        }
    }

    /// The error's text with the texts of its causes.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
