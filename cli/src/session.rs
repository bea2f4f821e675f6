// SPDX-License-Identifier: Apache-2.0
//! The session of the shell, on a cluster or on one inside the process.

use std::sync::Arc;

use ballista::prelude::*;
use ballista_client::Cluster;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::cluster;
use crate::progress::Heard;

/// A session on the cluster of the scheduler at `url`, or on one inside this process. `heard` hears of its progress.
pub(crate) async fn connect(url: Option<String>, heard: Heard) -> Result<(SessionContext, Arc<Cluster>)> {
    let config = SessionConfig::new()
        .with_information_schema(true)
        // Errors know their place in the text.
        .set_bool("datafusion.sql_parser.collect_spans", true)
        .with_ballista_progress(Arc::new(heard));
    let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    let context = match url {
        Some(url) => SessionContext::remote_with_state(&url, state).await?,
        None => SessionContext::standalone_with_state(state).await?,
    };
    let cluster = cluster::of_session(&context)
        .ok_or_else(|| DataFusionError::Internal("the session does not plan for a cluster".into()))?;
    // Lets a query name a file in the place of a table.
    Ok((context.enable_url_table(), cluster))
}
