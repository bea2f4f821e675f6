// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in the exchange, and the class that decides about a retry.
//!
//! An [`ExchangeError`] travels through DataFusion as [`DataFusionError::External`]; [`class_of`] finds it again
//! however deeply it was wrapped, so that a lost shuffle output never looks like an error of the query. No decision
//! is ever made on the text of an error.
//!
//! `Display` of an error does not print its source; [`ExchangeError::full_text`] does, for texts that leave the
//! process.

use std::error::Error;
use std::io;
use std::sync::Arc;

use arrow::error::ArrowError;
use ballista_core::{ClassifiedError, ErrorClass, InvalidId, JobId, StageId, TaskKey, UnreadInput};
use ballista_shuffle::ShuffleError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;

use crate::wire::ExecutorAddress;

/// Result of an operation of this crate.
pub type Result<T, E = ExchangeError> = std::result::Result<T, E>;

/// What went wrong in the shuffle store, the data service or the fetch client.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Shuffle data of a producer is lost, corrupt, cut short or unreachable.
    #[error("cannot fetch shuffle data from {producer}: {message}")]
    Fetch {
        /// The producer as text: `executor@host:port`, or the output where the executor itself reports it.
        producer: String,
        /// What was seen.
        message: String,
        /// The producer, as far as the reader knows it.
        address: Option<Box<ExecutorAddress>>,
        /// The job and the stage that wrote it, as far as the reader knows them.
        stage: Option<(JobId, StageId)>,
        /// It is lost or damaged there. Otherwise the producer did not answer.
        gone: bool,
    },
    /// A remote peer failed; its class is kept.
    #[error("{0}")]
    Remote(ClassifiedError),
    /// A ticket that is malformed or was not signed by this cluster.
    #[error("ticket refused: {0}")]
    Ticket(String),
    /// The attempt, incarnation or job that this belongs to is over.
    #[error("fenced: {0}")]
    Fenced(String),
    /// A message that does not follow the protocol, or a caller that does not follow the API.
    #[error("exchange protocol violated: {0}")]
    Protocol(String),
    /// Memory or disk ran out.
    #[error("resources exhausted: {0}")]
    Resource(String),
    /// The other side went away: a result's consumer, or a task before its result was complete.
    #[error("{0}")]
    Gone(String),
    /// The work directory cannot be used.
    #[error("work directory refused: {0}")]
    WorkDir(String),
    /// Reading or writing local files failed.
    #[error("{context}")]
    Io {
        /// What was being done to which file.
        context: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The shuffle core failed: codec or file.
    #[error("{context}")]
    Shuffle {
        /// What was being done.
        context: String,
        /// Why it failed.
        #[source]
        source: ShuffleError,
    },
    /// A thread of ours panicked or was cancelled.
    #[error("background work failed: {0}")]
    Background(String),
}

impl ExchangeError {
    /// A [`ExchangeError::Fetch`] of data that the executor at `address` should have, and that cannot be reached.
    pub fn unreachable(address: &ExecutorAddress, message: impl ToString) -> Self {
        Self::Fetch {
            producer: address.to_string(),
            message: message.to_string(),
            address: Some(Box::new(address.clone())),
            stage: None,
            gone: false,
        }
    }

    /// A [`ExchangeError::Fetch`] of data that the executor at `address` should have, and that is lost or damaged.
    pub fn gone(address: &ExecutorAddress, message: impl ToString) -> Self {
        match Self::unreachable(address, message) {
            Self::Fetch { producer, message, address, stage, .. } => {
                Self::Fetch { producer, message, address, stage, gone: true }
            }
            other => other,
        }
    }

    /// A [`ExchangeError::Fetch`] of an output that this executor should have.
    pub fn lost(output: &TaskKey, message: impl ToString) -> Self {
        Self::Fetch {
            producer: format!("output {output}"),
            message: message.to_string(),
            address: None,
            stage: Some((output.job.clone(), output.stage)),
            gone: true,
        }
    }

    /// The same error, of data that the stage of `output` wrote.
    pub(crate) fn of_stage(mut self, output: &TaskKey) -> Self {
        if let Self::Fetch { stage, .. } = &mut self {
            *stage = Some((output.job.clone(), output.stage));
        }
        self
    }

    /// What could not be read, for the scheduler.
    fn unread(&self) -> Option<UnreadInput> {
        match self {
            Self::Fetch { address: Some(address), stage: Some((job, stage)), gone, .. } => Some(UnreadInput {
                job: job.clone(),
                stage: *stage,
                executor: address.executor.clone(),
                incarnation: address.incarnation,
                gone: *gone,
            }),
            _ => None,
        }
    }

    /// What the scheduler should do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Fetch { .. } => ErrorClass::Fetch,
            Self::Remote(error) => error.class,
            Self::Ticket(_) | Self::Fenced(_) => ErrorClass::Fenced,
            Self::Protocol(_) | Self::Background(_) | Self::WorkDir(_) => ErrorClass::Deterministic,
            Self::Resource(_) => ErrorClass::Resource,
            Self::Gone(_) => ErrorClass::Infra,
            Self::Io { source, .. } => io_class(source),
            Self::Shuffle { source, .. } => source.class(),
        }
    }

    /// The error's text with the texts of its sources.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    pub(crate) fn shuffle(context: impl Into<String>) -> impl FnOnce(ShuffleError) -> Self {
        move |source| Self::Shuffle { context: context.into(), source }
    }

    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { context: context.into(), source }
    }
}

impl From<InvalidId> for ExchangeError {
    fn from(error: InvalidId) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<tokio::task::JoinError> for ExchangeError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Background(error.to_string())
    }
}

impl From<ExchangeError> for DataFusionError {
    fn from(error: ExchangeError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<&ExchangeError> for ClassifiedError {
    fn from(error: &ExchangeError) -> Self {
        ClassifiedError::new(error.class(), error.full_text()).with_unread(error.unread())
    }
}

/// The class and text of an error that ended a task.
pub fn classify(error: &DataFusionError) -> ClassifiedError {
    let text = match find::<ExchangeError>(error) {
        Some(exchange) => exchange.full_text(),
        None => error.strip_backtrace(),
    };
    let unread = find::<ExchangeError>(error).and_then(ExchangeError::unread);
    ClassifiedError::new(class_of(error), text).with_unread(unread)
}

/// The class of an error that came out of a plan.
pub fn class_of(error: &DataFusionError) -> ErrorClass {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => class_of(inner),
        DataFusionError::Shared(inner) => class_of(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(ErrorClass::User, class_of),
        DataFusionError::External(inner) => class_of_any(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => class_of_any(inner.as_ref()),
        DataFusionError::ParquetError(inner) => class_of_any(inner.as_ref()),
        DataFusionError::ObjectStore(inner) => class_of_any(inner.as_ref()),
        DataFusionError::ExecutionJoin(inner) => class_of_any(inner.as_ref()),
        DataFusionError::IoError(inner) => class_of_any(inner),
        DataFusionError::ResourcesExhausted(_) => ErrorClass::Resource,
        DataFusionError::Internal(_) => ErrorClass::Deterministic,
        _ => ErrorClass::User,
    }
}

/// The class of any error: known types by their meaning, wrappers by what they wrap, everything else the query's.
fn class_of_any(error: &(dyn Error + 'static)) -> ErrorClass {
    if let Some(error) = error.downcast_ref::<ExchangeError>() {
        error.class()
    } else if let Some(error) = error.downcast_ref::<ClassifiedError>() {
        error.class
    } else if let Some(error) = error.downcast_ref::<ShuffleError>() {
        error.class()
    } else if let Some(error) = error.downcast_ref::<DataFusionError>() {
        class_of(error)
    } else if let Some(error) = error.downcast_ref::<Arc<DataFusionError>>() {
        class_of(error)
    } else if let Some(error) = error.downcast_ref::<ArrowError>() {
        match error {
            ArrowError::ExternalError(inner) => class_of_any(inner.as_ref()),
            ArrowError::IoError(_, inner) => class_of_any(inner),
            ArrowError::MemoryError(_) => ErrorClass::Resource,
            _ => ErrorClass::User,
        }
    } else if let Some(error) = error.downcast_ref::<ParquetError>() {
        match error {
            ParquetError::External(inner) => class_of_any(inner.as_ref()),
            _ => ErrorClass::User,
        }
    } else if let Some(error) = error.downcast_ref::<object_store::Error>() {
        object_store_class(error)
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        match error.get_ref() {
            Some(inner) => class_of_any(inner),
            None => io_class(error),
        }
    } else if let Some(error) = error.downcast_ref::<tokio::task::JoinError>() {
        if error.is_cancelled() { ErrorClass::Infra } else { ErrorClass::Deterministic }
    } else {
        error.source().map_or(ErrorClass::User, class_of_any)
    }
}

fn object_store_class(error: &object_store::Error) -> ErrorClass {
    use object_store::Error as Store;
    match error {
        // What is not there, or not allowed, stays so however often it is tried.
        Store::NotFound { .. }
        | Store::InvalidPath { .. }
        | Store::NotSupported { .. }
        | Store::NotImplemented { .. }
        | Store::PermissionDenied { .. }
        | Store::Unauthenticated { .. }
        | Store::UnknownConfigurationKey { .. } => ErrorClass::User,
        _ => ErrorClass::Transient,
    }
}

fn io_class(error: &io::Error) -> ErrorClass {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory | ErrorKind::FileTooLarge => {
            ErrorClass::Resource
        }
        _ => ErrorClass::Transient,
    }
}

/// The first error of type `T` in the chain of `error`, looking into wrappers that hide it from `source`.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch() -> ExchangeError {
        let address = ExecutorAddress {
            executor: ballista_core::ExecutorId::new("executor-1").unwrap(),
            incarnation: ballista_core::Incarnation(1),
            host: "host".into(),
            port: 1,
        };
        ExchangeError::gone(&address, "gone")
    }

    #[test]
    fn the_class_survives_every_wrapping() {
        let external = DataFusionError::from(fetch());
        assert_eq!(class_of(&external), ErrorClass::Fetch);
        assert_eq!(class_of(&fetch_in_arrow()), ErrorClass::Fetch);
        let shared = DataFusionError::Shared(Arc::new(external)).context("while joining");
        assert_eq!(class_of(&shared), ErrorClass::Fetch);
        let io = DataFusionError::IoError(io::Error::other(shared));
        assert_eq!(class_of(&io), ErrorClass::Fetch);
        let shared_external = DataFusionError::External(Box::new(Arc::new(fetch_in_arrow())));
        assert_eq!(class_of(&shared_external), ErrorClass::Fetch);
        assert!(classify(&io).message.contains("executor-1@host:1"));
    }

    fn fetch_in_arrow() -> DataFusionError {
        let arrow = ArrowError::ExternalError(Box::new(DataFusionError::from(fetch())));
        DataFusionError::ArrowError(Box::new(arrow), None)
    }

    #[test]
    fn errors_of_the_query_are_the_users_and_ours_are_not() {
        let divide = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert_eq!(class_of(&divide), ErrorClass::User);
        assert_eq!(class_of(&DataFusionError::Execution("x".into())), ErrorClass::User);
        assert_eq!(class_of(&DataFusionError::Plan("x".into())), ErrorClass::User);
        assert_eq!(class_of(&DataFusionError::External("udf failed".into())), ErrorClass::User);
        assert_eq!(class_of(&DataFusionError::Internal("x".into())), ErrorClass::Deterministic);
        assert_eq!(class_of(&DataFusionError::ResourcesExhausted("x".into())), ErrorClass::Resource);
        let reset = DataFusionError::IoError(io::ErrorKind::ConnectionReset.into());
        assert_eq!(class_of(&reset), ErrorClass::Transient);
        let full = DataFusionError::IoError(io::ErrorKind::StorageFull.into());
        assert_eq!(class_of(&full), ErrorClass::Resource);
        let store = object_store::Error::Generic { store: "s3", source: "503".into() };
        assert_eq!(class_of(&DataFusionError::ObjectStore(Box::new(store))), ErrorClass::Transient);
    }
}
