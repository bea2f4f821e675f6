// SPDX-License-Identifier: Apache-2.0
//! The client: plans a query in a DataFusion session, submits it, follows the job and streams its rows.
//!
//! A tour:
//! * [`cluster`]: [`Cluster`], the connections of a session; [`endpoint`]: addresses and tuned channels.
//! * [`planner`]: [`BallistaQueryPlanner`], which a session plans with; [`state`] installs it.
//! * [`exec`]: [`DistributedQueryExec`], the leaf that stands for what the cluster computes.
//! * [`explain`]: `EXPLAIN`, with what the scheduler would do; [`analyze`]: `EXPLAIN ANALYZE`, with what happened.
//! * `call`: the events of a job through broken connections. [`detached`]: jobs that need no client.
//! * [`server_session`]: [`ServerSession`], a session that lives on the scheduler; `substrait`: plans instead of SQL.
//! * `place`: which parts of a plan stay in the client; `upload`: how their rows come to the cluster.
//! * `cache`: `DataFrame::cache`, rows that stay in the executors.
//! * `functions`: whose functions a session has.
//! * `stores`: object stores with options, and which of them a query touches.
//! * [`summary`]: progress and figures of a job. [`overview`]: executors and jobs of a cluster, cancelling.
//! * [`config`]: what an application may add to its `SessionConfig`.
//! * [`error`]: what can go wrong, with a class.
//!
//! *Invariant:* a stream of rows that ends without an error is complete: parts and rows are counted against what the
//! scheduler reported. Dropping it cancels the job.
//!
//! *Invariant:* no query is refused because it cannot be distributed; it runs in this process instead.

pub mod analyze;
mod cache;
mod call;
pub mod cluster;
pub mod config;
mod conform;
pub mod detached;
pub mod endpoint;
pub mod error;
pub mod exec;
pub mod explain;
mod functions;
mod initial;
mod job;
pub mod overview;
mod parts;
mod place;
pub mod planner;
#[cfg(test)]
mod planner_tests;
pub mod server_session;
mod split;
pub mod state;
mod stores;
#[cfg(feature = "substrait")]
pub mod substrait;
pub mod summary;
mod upload;

pub use cluster::{Cluster, SessionLease, SessionObserver};
pub use config::ClientConfigExt;
pub use endpoint::SchedulerEndpoint;
pub use error::ClientError;
pub use exec::DistributedQueryExec;
pub use overview::{ClusterOverview, ExecutorOverview, JobOverview};
pub use planner::BallistaQueryPlanner;
pub use server_session::ServerSession;
pub use state::distributed_state;
pub use stores::{QUIET_LOGS, is_store_option, seems_secret, stores_for_another};
#[cfg(feature = "substrait")]
pub use substrait::SubstraitExt;
pub use summary::{JobProgress, JobSummary, ProgressListener, job_summary};
