// SPDX-License-Identifier: Apache-2.0
//! All that the benchmarks know of Ballista: how a session is made, and what a finished plan tells about its job.

use ballista::prelude::*;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::Work;

/// A session on an in-process cluster.
pub(super) async fn standalone() -> Result<SessionContext> {
    SessionContext::standalone().await
}

/// A session on the cluster whose scheduler listens at `url`.
pub(super) async fn remote(url: &str) -> Result<SessionContext> {
    SessionContext::remote(url).await
}

/// What the job of `plan` took, once its stream has ended.
pub(super) fn work(plan: &dyn ExecutionPlan) -> Option<Work> {
    let summary = ballista::job_summary(plan)?;
    Some(Work { stages: summary.stages, tasks: summary.tasks, bytes_exchanged: summary.bytes_exchanged })
}
