// SPDX-License-Identifier: Apache-2.0
//! JNI: the only place that knows it.
//!
//! * [`guard`]: what every entry point is wrapped in; how errors, panics and Java's own exceptions cross.
//! * [`natives`]: the entry points, and the table by which they are registered when the library is loaded, so that a
//!   method that one side knows and the other does not is found then and not at its first call.

pub mod guard;
pub mod natives;

pub use guard::JavaThrowable;
