// SPDX-License-Identifier: Apache-2.0
//! Errors as gRPC statuses, and back: the class travels as a number in the status' metadata.

use ballista_core::{ClassifiedError, ErrorClass};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::error::ExchangeError;

/// Metadata key of the class, see [`ErrorClass::code`].
pub const ERROR_CLASS_KEY: &str = "ballista-error-class";

/// Headers have a size limit, which a text that quotes a whole plan would break.
const MAX_MESSAGE_BYTES: usize = 2048;

/// The status that tells a peer about `error`.
pub fn to_status(error: &ExchangeError) -> Status {
    let code = match (error, error.class()) {
        (ExchangeError::Ticket(_), _) => Code::PermissionDenied,
        (_, ErrorClass::User) => Code::InvalidArgument,
        (_, ErrorClass::Deterministic) => Code::Internal,
        (_, ErrorClass::Transient | ErrorClass::Infra) => Code::Aborted,
        (_, ErrorClass::Fetch) => Code::NotFound,
        (_, ErrorClass::Resource) => Code::ResourceExhausted,
        (_, ErrorClass::Fenced) => Code::FailedPrecondition,
    };
    let mut message = error.full_text();
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" …");
    }
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(ERROR_CLASS_KEY, MetadataValue::from(error.class().code()));
    status
}

/// The error that a peer of ours reported; `None` if the status comes from the transport or a stranger.
pub fn from_status(status: &Status) -> Option<ClassifiedError> {
    let class = status.metadata().get(ERROR_CLASS_KEY)?.to_str().ok()?.parse().ok()?;
    Some(ClassifiedError::new(ErrorClass::from_code(class), status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_and_text_survive() {
        let error = ExchangeError::Remote(ClassifiedError::new(ErrorClass::User, "division by zero"));
        let restored = from_status(&to_status(&error)).unwrap();
        assert_eq!(restored, ClassifiedError::new(ErrorClass::User, "division by zero"));
        assert_eq!(from_status(&Status::unavailable("connection reset")), None);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let error = ExchangeError::Gone("ü".repeat(5000));
        let status = to_status(&error);
        assert!(status.message().len() < MAX_MESSAGE_BYTES + 8);
    }
}
