// SPDX-License-Identifier: Apache-2.0
//! All that the benchmarks know of Ballista: how a session is made, and what a finished plan tells about its job.

use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::Work;

/// A session on an in-process cluster.
pub(super) async fn standalone() -> Result<SessionContext> {
    Err(DataFusionError::NotImplemented("engine standalone".to_owned()))
}

/// A session on the cluster whose scheduler listens at `url`.
pub(super) async fn remote(_url: &str) -> Result<SessionContext> {
    Err(DataFusionError::NotImplemented("engine remote".to_owned()))
}

/// What the job of `plan` took, once its stream has ended.
pub(super) fn work(_plan: &dyn ExecutionPlan) -> Option<Work> {
    None
}
