// SPDX-License-Identifier: Apache-2.0
//! Ballista makes an Apache DataFusion application distributed: the application makes its `SessionContext` here, and
//! everything else stays as it is.
//!
//! ```no_run
//! use ballista::prelude::*;
//! use datafusion::prelude::*;
//!
//! # async fn example() -> datafusion::error::Result<()> {
//! let ctx = SessionContext::standalone().await?;
//! ctx.register_csv("example", "tests/data/example.csv", CsvReadOptions::new()).await?;
//! ctx.sql("SELECT a, MIN(b) FROM example WHERE a <= b GROUP BY a LIMIT 100").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`extension`]: [`SessionContextExt`], the constructors of sessions on an in-process or a remote cluster.
//! * [`standalone`]: the in-process cluster (feature `standalone`, on by default).
//! * [`ServerSession`]: a session that lives on the scheduler, which is sent SQL text.
//! * [`prelude`]: what an application imports.
//!
//! Programs that run their own scheduler or executor, with functions and codecs of the application, use
//! [`SchedulerBuilder`] and [`ExecutorBuilder`].

pub mod extension;
pub mod prelude;
#[cfg(feature = "standalone")]
pub mod standalone;

#[cfg(feature = "substrait")]
pub use ballista_client::SubstraitExt;
pub use ballista_client::{
    BallistaQueryPlanner, ClientConfigExt, ClientError, Cluster, DistributedQueryExec, JobProgress, JobSummary,
    ProgressListener, SchedulerEndpoint, ServerSession, distributed_state, job_summary,
};
pub use ballista_core::{BallistaConfig, ClassifiedError, ErrorClass};
#[cfg(feature = "standalone")]
pub use ballista_executor::{ExecutorBuilder, ExecutorError, ExecutorHandle, Size};
#[cfg(feature = "standalone")]
pub use ballista_scheduler::{Scheduler, SchedulerBuilder, SchedulerError, SchedulerHandle};
pub use extension::SessionContextExt;
