// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between a client and its cluster, and the class of it.
//!
//! Errors leave this crate as [`DataFusionError`]. What the query itself is to blame for reads as if DataFusion had
//! run in this process; everything else is [`DataFusionError::External`] around a [`ClientError`] or, if the cluster
//! reported it, around a [`ClassifiedError`].

use std::error::Error;

use arrow::error::ArrowError;
use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::status::from_status;
use datafusion::error::DataFusionError;
use tonic::{Code, Status};

/// What went wrong between the client and its cluster.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The address of the scheduler cannot be one.
    #[error("invalid scheduler address \"{url}\": {reason}; expected df://host:port")]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers at the scheduler's address.
    #[error(
        "cannot reach the scheduler at {scheduler}: {reason}; check host and port, and that ballista-scheduler runs there"
    )]
    Unreachable {
        /// Where it should be.
        scheduler: String,
        /// Why the connection failed.
        reason: String,
    },
    /// The scheduler answered with an error instead of a job.
    #[error("the scheduler at {scheduler} refused the request: {reason}")]
    Refused {
        /// Who answered.
        scheduler: String,
        /// What it said.
        reason: String,
        /// Decides about retries.
        class: ErrorClass,
    },
    /// The connection broke while a job ran.
    #[error("lost the scheduler at {scheduler} while job {job} ran: {reason}; the query was not completed")]
    Lost {
        /// Who is gone.
        scheduler: String,
        /// The job, `?` before it was accepted.
        job: String,
        /// What was seen.
        reason: String,
    },
    /// The job ended well but not all of its result arrived.
    #[error("the result of job {job} is incomplete: received {received} {what}, expected {expected}")]
    Incomplete {
        /// The job.
        job: String,
        /// What was counted.
        what: &'static str,
        /// How many arrived.
        received: u64,
        /// How many there are.
        expected: u64,
    },
    /// A message that does not follow the protocol.
    #[error("the scheduler at {scheduler} sent {what}, which this client does not understand")]
    Protocol {
        /// Who sent it.
        scheduler: String,
        /// What it sent.
        what: &'static str,
    },
}

impl ClientError {
    /// Whether, and how, trying again may help.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidUrl { .. } => ErrorClass::User,
            Self::Unreachable { .. } | Self::Lost { .. } => ErrorClass::Infra,
            Self::Refused { class, .. } => *class,
            Self::Incomplete { .. } | Self::Protocol { .. } => ErrorClass::Deterministic,
        }
    }

    /// An error of a call to `scheduler` that never became a job.
    pub(crate) fn of_call(scheduler: &str, status: &Status) -> Self {
        let scheduler = scheduler.to_owned();
        // A status with a source was made on this side, out of a transport error.
        if status.code() == Code::Unavailable || status.source().is_some() {
            return Self::Unreachable { scheduler, reason: root_cause(status) };
        }
        Self::Refused { scheduler, reason: status.message().to_owned(), class: class_of_code(status.code()) }
    }
}

impl From<ClientError> for DataFusionError {
    fn from(error: ClientError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

fn class_of_code(code: Code) -> ErrorClass {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::PermissionDenied => ErrorClass::User,
        Code::Unauthenticated | Code::OutOfRange => ErrorClass::User,
        Code::ResourceExhausted => ErrorClass::Resource,
        Code::Unavailable | Code::Cancelled | Code::Aborted => ErrorClass::Infra,
        Code::DeadlineExceeded => ErrorClass::Transient,
        _ => ErrorClass::Deterministic,
    }
}

/// The innermost text of an error: transports wrap "connection refused" in layers that say nothing.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => innermost.to_string(),
    }
}

/// The error of a call that never became a job.
pub(crate) fn error_of_call(scheduler: &str, status: &Status) -> DataFusionError {
    match from_status(status) {
        Some(failure) => of_job(failure),
        None => ClientError::of_call(scheduler, status).into(),
    }
}

/// The error of a job that the cluster gave up.
pub(crate) fn of_job(failure: ClassifiedError) -> DataFusionError {
    match failure.class {
        ErrorClass::User => user_error(&failure.message),
        _ => DataFusionError::External(Box::new(failure)),
    }
}

/// The error of a query as DataFusion would have reported it in this process, as far as its text tells: the texts of
/// DataFusion's errors begin with their kind, and reporting one inside another would say that twice.
fn user_error(message: &str) -> DataFusionError {
    type Make = fn(String) -> DataFusionError;
    const KINDS: [(&str, Make); 8] = [
        ("Execution error: ", DataFusionError::Execution),
        ("Error during planning: ", DataFusionError::Plan),
        // Their parts are not in the text.
        ("Schema error: ", DataFusionError::Plan),
        ("SQL error: ", DataFusionError::Plan),
        ("Substrait error: ", DataFusionError::Substrait),
        ("This feature is not implemented: ", DataFusionError::NotImplemented),
        ("Invalid or Unsupported Configuration: ", DataFusionError::Configuration),
        ("Arrow error: ", |text| DataFusionError::ArrowError(Box::new(arrow_error(text)), None)),
    ];
    for (prefix, make) in KINDS {
        if let Some(text) = message.strip_prefix(prefix) {
            return make(text.to_owned());
        }
    }
    DataFusionError::Execution(message.to_owned())
}

fn arrow_error(text: String) -> ArrowError {
    type Make = fn(String) -> ArrowError;
    const KINDS: [(&str, Make); 5] = [
        ("Cast error: ", ArrowError::CastError),
        ("Parser error: ", ArrowError::ParseError),
        ("Arithmetic overflow: ", ArrowError::ArithmeticOverflow),
        ("Invalid argument error: ", ArrowError::InvalidArgumentError),
        ("Csv error: ", ArrowError::CsvError),
    ];
    if text == ArrowError::DivideByZero.to_string() {
        return ArrowError::DivideByZero;
    }
    for (prefix, make) in KINDS {
        if let Some(text) = text.strip_prefix(prefix) {
            return make(text.to_owned());
        }
    }
    ArrowError::ComputeError(text.strip_prefix("Compute error: ").unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_query_reads_as_it_did_where_it_happened() {
        let errors = [
            DataFusionError::Execution("boom".into()),
            DataFusionError::Plan("no such column".into()),
            DataFusionError::NotImplemented("that".into()),
            DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None),
            DataFusionError::ArrowError(Box::new(ArrowError::CastError("\"x\" to Int32".into())), None),
            DataFusionError::ArrowError(Box::new(ArrowError::ComputeError("sum".into())), None),
        ];
        for error in errors {
            let text = error.strip_backtrace();
            let received = of_job(ClassifiedError::new(ErrorClass::User, text.clone()));
            assert_eq!(received.strip_backtrace(), text);
        }
        let bare = of_job(ClassifiedError::new(ErrorClass::User, "no prefix"));
        assert!(matches!(bare, DataFusionError::Execution(text) if text == "no prefix"));
    }

    #[test]
    fn other_classes_stay_visible() {
        let error = of_job(ClassifiedError::new(ErrorClass::Resource, "out of memory"));
        let DataFusionError::External(inner) = error else { panic!("not external") };
        assert_eq!(inner.downcast_ref::<ClassifiedError>().unwrap().class, ErrorClass::Resource);
    }
}
