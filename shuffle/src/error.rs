// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in the shuffle core, and the class that decides about a retry.
//!
//! `Display` says what happened and where; the cause is reachable through `source()` and never repeated in the text.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use ballista_core::ErrorClass;

/// Shorthand used all over the crate.
pub type Result<T, E = ShuffleError> = std::result::Result<T, E>;

/// An error of the shuffle core.
#[derive(Debug, thiserror::Error)]
pub enum ShuffleError {
    /// Bytes that are not what their writer wrote: a checksum, a length, a marker or padding disagrees.
    #[error("corrupt shuffle data: {what}: {detail}")]
    Corrupt {
        /// Which part: a block, the footer, the schema message, …
        what: String,
        /// What disagreed with what.
        detail: String,
    },
    /// A file ends before the bytes that its own length fields promise.
    #[error("truncated shuffle data: {what}: {detail}")]
    Truncated {
        /// Which part.
        what: String,
        /// Expected and actual length.
        detail: String,
    },
    /// A shuffle file that should exist does not.
    #[error("shuffle file {} is missing", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An intact file that belongs to another task, attempt or partitioning.
    #[error("shuffle file {} belongs to {actual}, expected {expected}", path.display())]
    IdentityMismatch {
        /// The file.
        path: PathBuf,
        /// Whose output the reader wants.
        expected: String,
        /// Whose output it is.
        actual: String,
    },
    /// The operating system refused to read or write.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb phrase: `read`, `write`, `rename`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Arrow refused an operation on healthy data.
    #[error("arrow error while trying to {action}")]
    Arrow {
        /// Verb phrase: `gather rows`, `encode a block`, …
        action: &'static str,
        /// Arrow's own error.
        source: ArrowError,
    },
    /// The caller broke a documented rule of this crate.
    #[error("invalid use of the shuffle core: {0}")]
    Invalid(String),
}

impl ShuffleError {
    /// Decides what the scheduler does about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Corrupt { .. } | Self::Truncated { .. } | Self::Missing { .. } | Self::IdentityMismatch { .. } => {
                ErrorClass::Fetch
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
                    ErrorClass::Resource
                }
                _ => ErrorClass::Transient,
            },
            Self::Arrow { .. } | Self::Invalid(_) => ErrorClass::Deterministic,
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }

    pub(crate) fn truncated(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Truncated { what: what.into(), detail: detail.into() }
    }

    /// An I/O error on an existing shuffle file: its end and its absence are lost data, the rest is I/O.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned(), source },
            io::ErrorKind::UnexpectedEof => Self::truncated(path.display().to_string(), "file ends inside a read"),
            _ => Self::Io { action: "read", path: path.to_owned(), source },
        }
    }
}

/// Adds what was being done to an Arrow error.
pub(crate) trait ArrowContext<T> {
    fn context(self, action: &'static str) -> Result<T>;
}

impl<T> ArrowContext<T> for Result<T, ArrowError> {
    fn context(self, action: &'static str) -> Result<T> {
        self.map_err(|source| ShuffleError::Arrow { action, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_cause() {
        let io = |kind: io::ErrorKind| ShuffleError::Io { action: "write", path: "f".into(), source: kind.into() };
        assert_eq!(ShuffleError::corrupt("block", "crc").class(), ErrorClass::Fetch);
        assert_eq!(ShuffleError::reading(Path::new("f"), io::ErrorKind::NotFound.into()).class(), ErrorClass::Fetch);
        assert_eq!(
            ShuffleError::reading(Path::new("f"), io::ErrorKind::UnexpectedEof.into()).class(),
            ErrorClass::Fetch
        );
        assert_eq!(io(io::ErrorKind::StorageFull).class(), ErrorClass::Resource);
        assert_eq!(io::Error::from_raw_os_error(28).kind(), io::ErrorKind::StorageFull);
        assert_eq!(io(io::ErrorKind::TimedOut).class(), ErrorClass::Transient);
        assert_eq!(ShuffleError::Invalid("x".into()).class(), ErrorClass::Deterministic);
    }
}
