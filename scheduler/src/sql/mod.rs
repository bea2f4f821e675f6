// SPDX-License-Identifier: Apache-2.0
//! Sessions that live here: clients send SQL text, and settings, views and tables stay between statements.
//!
//! Such a session is an ordinary `SessionContext` of DataFusion on a cluster, and its cluster is this very scheduler,
//! reached over an in-memory connection. So a statement is planned by the same code as in any client, and what goes to
//! executors is an ordinary job, whose events, and whose rows from the executors, go straight to the remote client.
//!
//! * [`table`]: the open sessions. [`context`]: what a new one has. [`statement`], [`rows`]: running one statement.
//!
//! *Invariant:* neither the shell nor the threads that serve connections plan a statement or run an operator of one:
//! the sessions have threads of their own, which start with the first session.
//!
//! *Invariant:* nobody finds a session whose id they were not given; ids are random.
//!
//! Files named by statements are those of the scheduler's host, as far as they are listed and read for planning; the
//! executors must see them under the same name. Whoever reaches the scheduler's port can read them: see
//! [`SchedulerBuilder::sql_sessions`](crate::SchedulerBuilder::sql_sessions).

mod context;
mod rows;
pub(crate) mod statement;
mod table;

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use ballista_client::Cluster;
use ballista_client::endpoint::client_over;
use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation};
use ballista_exchange::{Connector, ExecutorAddress, LocalConnector, TcpConnector, classify};
use ballista_proto as proto;
use datafusion::error::DataFusionError;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use proto::execute_statement_request::Statement;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::context::session_context;
use self::statement::Events;
use self::table::SessionTable;
use crate::error::{Result, SchedulerError};
use crate::server::serve_in_memory;
use crate::service::SchedulerServer;
use crate::session::SessionProvider;
use crate::shell::message::ShellHandle;

/// Address space for one thread; memory is used only as deep as statements and plans, which are walked recursively.
const STACK_BYTES: usize = 1 << 30;

/// Longest SQL text. One of operators only, each a level of the plan, still fits the stack.
const SQL_BYTES: usize = 128 << 10;

/// Name of this scheduler among in-memory servers.
const HOST: &str = "scheduler";
const PORT: u16 = 1;

/// What sessions are made with, and their bounds.
#[derive(Debug, Clone)]
pub(crate) struct SqlConfig {
    pub(crate) sessions: Arc<dyn SessionProvider>,
    pub(crate) codec: Option<Codec>,
    pub(crate) most: usize,
    pub(crate) idle: Duration,
}

/// The codec of the application.
#[derive(Clone)]
pub(crate) struct Codec(pub(crate) Arc<dyn PhysicalExtensionCodec>);

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec")
    }
}

/// The sessions of a scheduler. They end with it.
pub(crate) struct SqlSessions {
    config: SqlConfig,
    table: Arc<SessionTable>,
    shell: ShellHandle,
    /// Serves this scheduler, but for its sessions, to themselves.
    server: SchedulerServer,
    cluster: OnceCell<Arc<Cluster>>,
    threads: OnceLock<Threads>,
}

/// Threads for planning, for operators that run here, and for the in-memory connection.
struct Threads(Option<Runtime>, Handle);

impl Threads {
    fn start() -> Result<Self> {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.max(2))
            .thread_stack_size(STACK_BYTES)
            .thread_name("ballista-sql")
            .enable_all()
            .build()
            .map_err(|source| SchedulerError::Io { action: "start threads for sessions", source })?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Whoever drops it may be a thread that must not wait.
            runtime.shutdown_background();
        }
    }
}

impl SqlSessions {
    /// No session yet. `server` serves this scheduler without them.
    pub(crate) fn new(config: SqlConfig, shell: ShellHandle, server: SchedulerServer) -> Self {
        let table = Arc::new(SessionTable::new(config.most, config.idle));
        Self { config, table, shell, server, cluster: OnceCell::new(), threads: OnceLock::new() }
    }

    /// Opens a session; returns its id and how long it may be idle.
    pub(crate) async fn open(&self, settings: Vec<(String, String)>) -> Result<(String, Duration)> {
        self.table.check_room(Instant::now())?;
        let threads = self.threads()?;
        let cluster = Arc::clone(self.cluster.get_or_try_init(|| self.connect(threads)).await?);
        let (sessions, codec) = (Arc::clone(&self.config.sessions), self.config.codec.clone());
        let make =
            async move { session_context(sessions.as_ref(), settings, cluster, codec.map(|Codec(codec)| codec)).await };
        let made = threads.spawn(make).await;
        let made = made.unwrap_or_else(|error| Err(DataFusionError::ExecutionJoin(Box::new(error))));
        let context = made.map_err(|error| SchedulerError::Session(classify(&error)))?;
        let id = Uuid::new_v4().simple().to_string();
        self.table.insert(id.clone(), context, Instant::now())?;
        Ok((id, self.table.idle()))
    }

    /// Runs a statement of the session `id`.
    pub(crate) fn execute(&self, id: &str, statement: Statement) -> Result<Events> {
        if let Statement::Sql(text) = &statement
            && text.len() > SQL_BYTES
        {
            let (kib, limit) = (text.len() >> 10, SQL_BYTES >> 10);
            let message = format!("a statement of {kib} KiB; a session on the scheduler takes up to {limit} KiB");
            return Err(SchedulerError::Session(ClassifiedError::new(ErrorClass::User, message)));
        }
        let session = self.table.use_session(id, Instant::now())?;
        Ok(statement::run(session, statement, self.shell.clone(), self.threads()?))
    }

    /// Closes a session; whether there was one. Its statements go on.
    pub(crate) fn close(&self, id: &str) -> bool {
        self.table.remove(id)
    }

    fn threads(&self) -> Result<&Handle> {
        if let Some(Threads(_, handle)) = self.threads.get() {
            return Ok(handle);
        }
        // Another caller may be quicker; then ours end at once.
        let threads = Threads::start()?;
        Ok(&self.threads.get_or_init(|| threads).1)
    }

    /// The cluster of this scheduler, and a look now and then for sessions that are idle.
    async fn connect(&self, threads: &Handle) -> Result<Arc<Cluster>> {
        let server = self.server.clone();
        let connecting = threads.spawn(async move {
            let local = LocalConnector::new();
            let serving = serve_in_memory(server, local.listen(HOST, PORT));
            let address = ExecutorAddress {
                executor: ExecutorId::random(),
                incarnation: Incarnation(0),
                host: HOST.to_owned(),
                port: PORT,
            };
            let channel = local.connect(&address).await?;
            let cluster = Cluster::new("this scheduler", client_over(channel), Arc::new(TcpConnector));
            Ok(Arc::new(cluster.with_owner(serving)))
        });
        let idle = self.config.idle;
        let table = Arc::downgrade(&self.table);
        threads.spawn(async move {
            loop {
                tokio::time::sleep((idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(60))).await;
                let Some(table) = table.upgrade() else { return };
                table.expire(Instant::now());
            }
        });
        connecting.await.map_err(|_| SchedulerError::Stopped)?
    }
}
