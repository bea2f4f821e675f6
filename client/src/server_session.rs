// SPDX-License-Identifier: Apache-2.0
//! [`ServerSession`]: a session that lives on the scheduler.
//!
//! ```text
//!   open ──► id                                            scheduler: SessionContext
//!   sql  ──► schema, then events as of any job ◄──────────    │ plan
//!             └─ parts inline, or fetched from executors      ▼ job
//! ```
//!
//! The client sends text and receives rows; tables, views and settings are the scheduler's. Statements may run
//! concurrently, as on a `SessionContext`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use ballista_core::{ClassifiedError, ErrorClass, PROTOCOL_VERSION};
use ballista_exchange::status::from_status;
use ballista_plan::ipc::decode_schema;
use ballista_proto as proto;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use proto::execute_statement_request::Statement;
use proto::job_event::Event;
use tokio::runtime::Handle;
use tonic::Streaming;

use crate::call::JobCall;
use crate::cluster::Cluster;
use crate::error::{ClientError, error_of_call, of_job, root_cause};
use crate::job::{Holds, JobContext, follow};
use crate::summary::ProgressListener;

/// A session on the scheduler. Dropping it closes it, as far as a runtime is there to say so; the scheduler closes it
/// after a while without statements anyway. Statements that run go on.
///
/// ```no_run
/// use ballista_client::ServerSession;
///
/// # async fn example() -> datafusion::error::Result<()> {
/// let session = ServerSession::open("df://localhost:50050", [("ballista.job.name", "report")]).await?;
/// session.sql("CREATE VIEW v AS SELECT 1 AS a").await?;
/// let rows = session.sql("SELECT a FROM v").await?;
/// session.close().await
/// # }
/// ```
pub struct ServerSession {
    cluster: Arc<Cluster>,
    /// Whoever knows it has the session.
    id: String,
    idle: Duration,
    listener: Option<Arc<dyn ProgressListener>>,
    is_open: bool,
}

impl ServerSession {
    /// Opens a session on the scheduler at `url` with these `ballista.*` and `datafusion.*` settings.
    ///
    /// Errors: nobody answers there, an unknown setting, too many sessions, or a scheduler that takes none.
    pub async fn open<K: Into<String>, V: Into<String>>(
        url: &str,
        settings: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        Self::open_on(Arc::new(Cluster::connect(url).await?), settings).await
    }

    /// The same on a cluster that is connected already.
    pub async fn open_on<K: Into<String>, V: Into<String>>(
        cluster: Arc<Cluster>,
        settings: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let settings = settings.into_iter().map(|(key, value)| proto::Setting { key: key.into(), value: value.into() });
        let request = proto::OpenSessionRequest { protocol_version: PROTOCOL_VERSION, settings: settings.collect() };
        let opened = cluster.scheduler().open_session(request).await;
        let opened = opened.map_err(|status| error_of_call(cluster.name(), &status))?.into_inner();
        let idle = Duration::from_millis(opened.idle_millis);
        Ok(Self { cluster, id: opened.session, idle, listener: None, is_open: true })
    }

    /// `listener` hears of the progress of the session's jobs.
    pub fn with_progress(mut self, listener: Arc<dyn ProgressListener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The cluster that it is on.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// After this long without a statement the scheduler closes the session.
    pub fn idle_limit(&self) -> Duration {
        self.idle
    }

    /// Runs one statement. What changes the session has happened when this returns; rows are computed while the stream
    /// is read, and dropping it cancels them.
    pub async fn sql(&self, sql: &str) -> Result<SendableRecordBatchStream> {
        self.execute(Statement::Sql(sql.to_owned())).await
    }

    /// Runs an encoded Substrait plan over the session's tables.
    pub async fn substrait(&self, plan: impl Into<Bytes>) -> Result<SendableRecordBatchStream> {
        self.execute(Statement::Substrait(plan.into())).await
    }

    /// Closes the session.
    pub async fn close(mut self) -> Result<()> {
        self.is_open = false;
        let request = proto::CloseSessionRequest { session: self.id.clone() };
        let closed = self.cluster.scheduler().close_session(request).await;
        closed.map(drop).map_err(|status| error_of_call(self.cluster.name(), &status))
    }

    async fn execute(&self, statement: Statement) -> Result<SendableRecordBatchStream> {
        let request = proto::ExecuteStatementRequest {
            protocol_version: PROTOCOL_VERSION,
            session: self.id.clone(),
            statement: Some(statement),
        };
        let call = self.cluster.scheduler().execute_statement(request).await;
        let mut events = call.map_err(|status| error_of_call(self.cluster.name(), &status))?.into_inner();
        let schema = self.schema(&mut events).await?;
        let job = JobContext {
            cluster: Arc::clone(&self.cluster),
            schema: Arc::clone(&schema),
            listener: self.listener.clone(),
            on_finished: Box::new(|_, _| {}),
            holds: Holds::default(),
            writes: false,
        };
        let call = JobCall::once(Arc::clone(&self.cluster), events);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, follow(call, job))))
    }

    /// The first event.
    async fn schema(&self, events: &mut Streaming<proto::JobEvent>) -> Result<SchemaRef> {
        let lost = |reason: String| {
            let (scheduler, job) = (self.cluster.name().to_owned(), "?".to_owned());
            DataFusionError::from(ClientError::Lost { scheduler, job, reason })
        };
        match events.message().await {
            Ok(Some(proto::JobEvent { event: Some(Event::Schema(schema)) })) => decode_schema(&schema),
            Ok(Some(proto::JobEvent { event: Some(Event::Failed(failure)) })) => {
                Err(of_job(ClassifiedError::new(ErrorClass::from_code(failure.class), failure.message)))
            }
            Ok(Some(_)) => {
                let scheduler = self.cluster.name().to_owned();
                Err(ClientError::Protocol { scheduler, what: "rows before their schema" }.into())
            }
            Ok(None) => Err(lost("the stream of its events ended".to_owned())),
            Err(status) => Err(from_status(&status).map_or_else(|| lost(root_cause(&status)), of_job)),
        }
    }
}

impl Drop for ServerSession {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_open {
            let request = proto::CloseSessionRequest { session: std::mem::take(&mut self.id) };
            let mut scheduler = self.cluster.scheduler();
            // If this fails, the scheduler closes it later.
            runtime.spawn(async move { scheduler.close_session(request).await.map(drop) });
        }
    }
}

impl fmt::Debug for ServerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSession").field("cluster", &self.cluster.name()).finish_non_exhaustive()
    }
}
