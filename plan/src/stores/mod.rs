// SPDX-License-Identifier: Apache-2.0
//! Object stores in the cloud and on the web: how they are opened, and how their options reach the executors.
//!
//! ```text
//!   OPTIONS of a statement ─┐
//!   SET aws.… = …          ─┼─▶ Stores (a session's) ─ options_of ─▶ the job's request ─▶ Stores of the job's tasks
//!   the environment        ─┘
//! ```
//!
//! * [`options`]: [`Provider`] and the options that it knows.
//! * `open`: from a URL and options to a store.
//! * [`registry`]: [`Stores`], the registry of a session, of an executor, or of one job.
//! * [`planning_context`]: for plans that are decoded and not run.
//! * [`settings`]: the namespaces `aws`, `gcp`, `azure` and `http` of a session's configuration.
//!
//! *Invariant:* the value of a secret option is in no text that is made here: neither in `Debug`, nor in an error, nor
//! in a setting that is shown.
//!
//! *Invariant:* what a process has of its own (environment, files, the identity of its machine) is neither opened nor sent
//! anywhere by the word of another one: options of others need complete credentials, or change neither who asks nor whom
//! ([`StoreOptions`] decides).

mod open;
pub mod options;
mod planning;
pub mod registry;
pub mod settings;

pub use options::{Provider, StoreOptions};
pub use planning::planning_context;
pub use registry::Stores;
