// SPDX-License-Identifier: Apache-2.0
//! What an application imports, beside DataFusion's own prelude.

pub use crate::extension::SessionContextExt;
#[cfg(feature = "substrait")]
pub use ballista_client::SubstraitExt;
pub use ballista_client::{ClientConfigExt, JobProgress, JobSummary, ProgressListener, ServerSession, job_summary};
pub use ballista_core::BallistaConfig;
#[cfg(feature = "standalone")]
pub use ballista_executor::ExecutorBuilder;
#[cfg(feature = "standalone")]
pub use ballista_scheduler::SchedulerBuilder;
