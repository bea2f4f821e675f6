// SPDX-License-Identifier: Apache-2.0
//! The session of the shell: on a cluster, on one inside the process, or on the scheduler.

use std::sync::Arc;
use std::time::Duration;

use ballista::prelude::*;
use ballista_client::Cluster;
use ballista_client::detached::attach;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::args::Args;
use crate::cluster;
use crate::progress::Heard;

/// How long the end of a session may hold up the end of the program.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A session and its cluster.
pub(crate) struct Session {
    /// Runs statements, unless the scheduler does; knows how rows are formatted and what can be typed.
    pub(crate) context: SessionContext,
    pub(crate) cluster: Arc<Cluster>,
    /// The session on the scheduler.
    pub(crate) server: Option<Arc<ServerSession>>,
}

/// What runs statements.
#[derive(Clone)]
pub(crate) enum Runner {
    Here(SessionContext),
    Scheduler(Arc<ServerSession>),
    /// Nothing is run: the statement is the id of a job.
    Attached(Arc<Cluster>),
}

impl Session {
    /// A session as the command line says. `heard` hears of its progress.
    pub(crate) async fn connect(args: &Args, heard: Heard) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            // Errors know their place in the text.
            .set_bool("datafusion.sql_parser.collect_spans", true)
            // `ballista.*` is known from here on.
            .with_ballista_setting(|_| {})
            .with_ballista_progress(Arc::new(heard.clone()));
        let is_early = |(key, _): &&(String, String)| key.starts_with("ballista.") || key.starts_with("datafusion.");
        for (key, value) in args.settings.iter().filter(is_early) {
            config.options_mut().set(key, value)?;
        }
        let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
        if let Some(url) = args.scheduler().filter(|_| args.server_session) {
            let server = ServerSession::open(&url, args.settings.iter().cloned()).await?.with_progress(Arc::new(heard));
            let cluster = Arc::clone(server.cluster());
            let context = SessionContext::new_with_state(state);
            return Ok(Self { context, cluster, server: Some(Arc::new(server)) });
        }
        let context = match args.scheduler() {
            Some(url) => SessionContext::remote_with_state(&url, state).await?,
            None => SessionContext::standalone_with_state(state).await?,
        };
        let cluster = cluster::of_session(&context)
            .ok_or_else(|| DataFusionError::Internal("the session does not plan for a cluster".into()))?;
        // Lets a query name a file in the place of a table.
        let context = context.enable_url_table();
        for (key, value) in args.settings.iter().filter(|setting| !is_early(setting)) {
            context.state_ref().write().config_mut().options_mut().set(key, value)?;
        }
        Ok(Self { context, cluster, server: None })
    }

    pub(crate) fn runner(&self) -> Runner {
        match &self.server {
            Some(server) => Runner::Scheduler(Arc::clone(server)),
            None => Runner::Here(self.context.clone()),
        }
    }

    /// Closes a session on the scheduler.
    pub(crate) async fn close(self) {
        // A scheduler that is gone need not know.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.cluster.closed()).await;
        // Something may still read from it; then it is closed with that.
        if let Some(server) = self.server.and_then(Arc::into_inner) {
            // The scheduler closes it later if this fails.
            let _ = tokio::time::timeout(CLOSE_WAIT, server.close()).await;
        }
    }
}

impl Runner {
    /// The rows of a statement.
    pub(crate) async fn rows(&self, sql: &str) -> Result<SendableRecordBatchStream> {
        match self {
            Self::Here(context) => context.sql(sql).await?.execute_stream().await,
            Self::Scheduler(session) => session.sql(sql).await,
            Self::Attached(cluster) => attach(Arc::clone(cluster), sql).await,
        }
    }
}
