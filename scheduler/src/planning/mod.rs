// SPDX-License-Identifier: Apache-2.0
//! From a physical plan to stages, step by step as their inputs become known.
//!
//! A job keeps one plan, the *remaining* plan: what has not been handed to a stage yet, with a
//! [`ShuffleReaderExec`](ballista_plan::reader::ShuffleReaderExec) leaf for every exchange made so far.
//!
//! ```text
//! remaining ── optimize ──► operators that exchange rows: RepartitionExec, CoalescePartitionsExec, …
//!     ▲                         │ those without another exchange below
//!     │                         ▼
//!  readers with exact  ◄──── stages run, their subtree becomes a reader
//!  statistics
//! ```
//!
//! When no exchange is left, what remains is the final stage. Adaptivity is nothing but optimising again in between;
//! `ballista.planner.adaptive=false` leaves that out.
//!
//! * [`optimize`]: DataFusion's rules, without those that belong to a task.
//! * [`cut`]: finds the exchanges that can run now and takes them out of the remaining plan.
//! * [`adapt`]: decisions that exact statistics change.
//! * [`fragment`]: parallelism of a stage, and its encoding.
//! * [`explain`]: the stages as they are first planned, as text.
//! * `notes`: what was changed, and why, in words.
//! * `size`: how large a job may be.
//! * [`job`]: [`job::JobPlanner`], which drives the above for one job.

pub mod adapt;
pub mod cut;
pub mod explain;
pub mod fragment;
pub mod job;
mod notes;
pub mod optimize;
pub mod range;
pub mod scalar;
mod size;
