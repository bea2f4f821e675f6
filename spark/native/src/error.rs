// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the native side, and the Java exception that it becomes.
//!
//! | error                                   | Java class                            | what the JVM side does with it    |
//! |-----------------------------------------|---------------------------------------|-----------------------------------|
//! | a Java exception that crossed our code  | the same object                       | as if we were not there           |
//! | a block that does not decode            | `java.io.IOException`                 | task fails; checksums come first  |
//! | reading or writing files                | `java.io.IOException`                 | task fails, Spark retries         |
//! | cancelled                               | `org.apache.spark.TaskKilledException`| task is killed                    |
//! | a type that we do not know              | `UnsupportedOperationException`       | a planning bug: task fails        |
//! | a panic, a broken rule, Arrow, DataFusion | `org.apache.comet.CometNativeException` | task fails                     |
//!
//! The text of an exception is the whole chain of causes, outermost first: a Java stack trace ends where native code
//! begins.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use ballista_shuffle::ShuffleError;
use datafusion::error::DataFusionError;

use crate::jvm::JavaThrowable;

/// Shorthand used all over the crate.
pub type Result<T, E = SparkError> = std::result::Result<T, E>;

/// Thrown for errors that have no class of their own.
pub const NATIVE_EXCEPTION: &str = "org/apache/comet/CometNativeException";

/// An error of the native side.
#[derive(Debug, thiserror::Error)]
pub enum SparkError {
    /// An unsafe row whose lengths and offsets contradict each other.
    #[error("malformed row: {0}")]
    MalformedRow(String),
    /// A block that is not what its writer wrote.
    #[error("corrupt shuffle block: {0}")]
    CorruptBlock(String),
    /// A type, codec or plan that the planner should not have sent here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The caller broke a documented rule.
    #[error("invalid use of the native side: {0}")]
    Invalid(String),
    /// The task was killed.
    #[error("cancelled")]
    Cancelled,
    /// The operating system refused to read or write.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb phrase: `write`, `create`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Arrow refused an operation.
    #[error("arrow error while trying to {action}")]
    Arrow {
        /// Verb phrase: `make a batch of rows`, …
        action: &'static str,
        /// Arrow's own error.
        source: ArrowError,
    },
    /// The shared shuffle core failed.
    #[error("shuffle core")]
    Shuffle(#[from] ShuffleError),
    /// A native operator failed.
    #[error("native plan")]
    Plan(#[source] DataFusionError),
    /// A Java exception on its way from Java through native code to Java.
    #[error("a Java exception")]
    Java(JavaThrowable),
    /// JNI itself failed.
    #[error("jni")]
    Jni(#[source] jni::errors::Error),
    /// Native code panicked.
    #[error("native code panicked: {0}")]
    Panic(String),
}

impl SparkError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The Java exception hidden anywhere in the chain of causes.
    pub fn java_throwable(&self) -> Option<&JavaThrowable> {
        let mut error: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(current) = error {
            if let Some(Self::Java(throwable)) = current.downcast_ref::<Self>() {
                return Some(throwable);
            }
            error = current.source();
        }
        None
    }

    /// The class of the exception to throw, with a constructor that takes a message.
    pub fn java_class(&self) -> &'static str {
        match self {
            Self::CorruptBlock(_) | Self::Io { .. } => "java/io/IOException",
            Self::Shuffle(
                ShuffleError::Corrupt { .. }
                | ShuffleError::Truncated { .. }
                | ShuffleError::Missing { .. }
                | ShuffleError::Io { .. },
            ) => "java/io/IOException",
            Self::Cancelled => "org/apache/spark/TaskKilledException",
            Self::Unsupported(_) => "java/lang/UnsupportedOperationException",
            Self::Plan(error) => match cause_of(error) {
                Some(inner) => inner.java_class(),
                None => NATIVE_EXCEPTION,
            },
            _ => NATIVE_EXCEPTION,
        }
    }

    /// The error and its causes, outermost first.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            // Some libraries repeat their cause in their own text.
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

/// Our own error behind one of DataFusion's.
fn cause_of(error: &DataFusionError) -> Option<&SparkError> {
    match error.find_root() {
        DataFusionError::External(inner) => inner.downcast_ref(),
        _ => None,
    }
}

impl From<DataFusionError> for SparkError {
    /// Takes our own error out again, if that is all there is.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => Self::Plan(DataFusionError::External(other)),
            },
            other => Self::Plan(other),
        }
    }
}

impl From<SparkError> for DataFusionError {
    fn from(error: SparkError) -> Self {
        Self::External(Box::new(error))
    }
}

/// Adds what was being done to an Arrow error.
pub(crate) trait ArrowContext<T> {
    fn context(self, action: &'static str) -> Result<T>;
}

impl<T> ArrowContext<T> for Result<T, ArrowError> {
    fn context(self, action: &'static str) -> Result<T> {
        self.map_err(|source| SparkError::Arrow { action, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_cause() {
        assert_eq!(SparkError::CorruptBlock("x".into()).java_class(), "java/io/IOException");
        let corrupt = ShuffleError::Corrupt { what: "block".into(), detail: "crc".into() };
        assert_eq!(SparkError::from(corrupt).java_class(), "java/io/IOException");
        assert_eq!(SparkError::Cancelled.java_class(), "org/apache/spark/TaskKilledException");
        assert_eq!(SparkError::Panic("x".into()).java_class(), NATIVE_EXCEPTION);
        let wrapped = DataFusionError::from(SparkError::Cancelled).context("while sorting");
        assert_eq!(SparkError::from(wrapped).java_class(), "org/apache/spark/TaskKilledException");
    }

    #[test]
    fn our_own_error_comes_back_from_data_fusion() {
        let error = SparkError::from(DataFusionError::from(SparkError::Cancelled));
        assert!(matches!(error, SparkError::Cancelled));
    }

    #[test]
    fn the_text_is_the_whole_chain() {
        let source = io::Error::new(io::ErrorKind::StorageFull, "no space left");
        let error = SparkError::io("write", Path::new("/tmp/f"), source);
        assert_eq!(error.chain(), "cannot write /tmp/f: no space left");
    }
}
