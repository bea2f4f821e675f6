// SPDX-License-Identifier: Apache-2.0
//! Errors, panics and exceptions at the border.
//!
//! ```text
//!   Java ──▶ native fails      SparkError ──▶ exception of its class, text: the chain of causes
//!   Java ──▶ native panics     caught     ──▶ CometNativeException
//!   Java ──▶ native ──▶ Java throws ──▶ native ──▶ Java: the same object, stack trace and all
//! ```

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jni::JNIEnv;
use jni::objects::{GlobalRef, JThrowable};

use crate::error::{NATIVE_EXCEPTION, Result, SparkError};

/// A Java exception, kept alive while it travels through native code.
#[derive(Clone)]
pub struct JavaThrowable(GlobalRef);

impl fmt::Debug for JavaThrowable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JavaThrowable")
    }
}

impl JavaThrowable {
    /// Keeps `throwable`, which is not null.
    pub fn new(env: &mut JNIEnv<'_>, throwable: &JThrowable<'_>) -> Result<Self> {
        env.new_global_ref(throwable).map(Self).map_err(SparkError::Jni)
    }
}

/// Turns JNI's results into ours. A pending Java exception is taken out of the thread and becomes the error.
pub trait Checked<T> {
    /// See the trait.
    fn checked(self, env: &mut JNIEnv<'_>) -> Result<T>;
}

impl<T> Checked<T> for jni::errors::Result<T> {
    fn checked(self, env: &mut JNIEnv<'_>) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(take_pending(env).unwrap_or(SparkError::Jni(error))),
        }
    }
}

/// The pending Java exception, which is pending no more.
fn take_pending(env: &mut JNIEnv<'_>) -> Option<SparkError> {
    if !env.exception_check().unwrap_or(false) {
        return None;
    }
    let throwable = env.exception_occurred().ok()?;
    env.exception_clear().ok()?;
    Some(JavaThrowable::new(env, &throwable).map_or_else(|error| error, SparkError::Java))
}

/// Runs an entry point. If it fails, an exception is pending afterwards and the result is the type's default, which
/// Java does not look at.
pub fn guard<'local, T: Default>(env: &mut JNIEnv<'local>, body: impl FnOnce(&mut JNIEnv<'local>) -> Result<T>) -> T {
    // What `body` leaves half done is dropped with it, or behind a handle whose owner is told by the exception.
    let outcome = catch_unwind(AssertUnwindSafe(|| body(env)));
    let error = match outcome {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error,
        Err(payload) => SparkError::Panic(panic_text(payload.as_ref())),
    };
    throw(env, &error);
    T::default()
}

fn throw(env: &mut JNIEnv<'_>, error: &SparkError) {
    if env.exception_check().unwrap_or(false) {
        // One that nobody took: it comes first.
        return;
    }
    if let Some(JavaThrowable(throwable)) = error.java_throwable() {
        let thrown = env.new_local_ref(throwable).and_then(|local| env.throw(JThrowable::from(local)));
        if thrown.is_ok() {
            return;
        }
    }
    let text = error.chain();
    if env.throw_new(error.java_class(), &text).is_ok() || env.exception_check().unwrap_or(false) {
        // If the class was not found, its absence is pending, and says so.
        return;
    }
    // Nothing else can be done if this fails too: the caller gets the default.
    drop(env.throw_new(NATIVE_EXCEPTION, &text));
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_panic_is_found() {
        let text = |body: fn()| panic_text(catch_unwind(body).unwrap_err().as_ref());
        assert_eq!(text(|| panic!("plain")), "plain");
        assert_eq!(text(|| panic!("with {}", 7)), "with 7");
        assert_eq!(text(|| std::panic::panic_any(7)), "no message");
    }
}
