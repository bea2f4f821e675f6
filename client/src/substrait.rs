// SPDX-License-Identifier: Apache-2.0
//! Substrait plans in the place of SQL (feature `substrait`).

use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_substrait::logical_plan::consumer::from_substrait_plan;
use datafusion_substrait::substrait::proto::Plan;
use prost::Message;

/// Queries as Substrait plans.
#[async_trait]
pub trait SubstraitExt {
    /// The query of an encoded `substrait.Plan` over the tables of this session. It runs wherever the session's queries
    /// run.
    ///
    /// Errors: bytes that are no plan, names that the session does not know, and whatever DataFusion's consumer does
    /// not support. All are the user's.
    async fn substrait(&self, plan: &[u8]) -> Result<DataFrame>;
}

#[async_trait]
impl SubstraitExt for SessionContext {
    async fn substrait(&self, plan: &[u8]) -> Result<DataFrame> {
        let plan = Plan::decode(plan)
            .map_err(|error| DataFusionError::Substrait(format!("these bytes are no Substrait plan: {error}")))?;
        let plan = from_substrait_plan(&self.state(), &plan).await?;
        self.execute_logical_plan(plan).await
    }
}
