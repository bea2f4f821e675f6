// SPDX-License-Identifier: Apache-2.0
//! [`SchedulerBuilder`]: how a program gets a scheduler with its own functions, codecs and limits.

#[cfg(feature = "journal")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::PROTOCOL_VERSION;
use ballista_exchange::TicketKey;
use ballista_plan::codec::PlanCodec;
use ballista_proto as proto;
use ballista_proto::journal;
use ballista_scheduler_core::Limits;
use datafusion::execution::SessionState;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use prost::bytes::Bytes;
use tokio::runtime::Handle;

use crate::error::{Result, SchedulerError};
use crate::journal::recovered::Recovered;
#[cfg(feature = "journal")]
use crate::journal::{Bounded, store::SledStore};
use crate::journal::{Journal, Op, Store, keys};
use crate::planner::{JobPlanners, PlannerFactory};
use crate::service::SchedulerServer;
use crate::session::{CachedSessions, SessionProvider};
use crate::shell::message::{Message, ShellHandle};
use crate::shell::plans::PlanStore;
use crate::shell::pool::PlanningPool;
use crate::shell::{Shell, ShellConfig};
use crate::sql::{Codec, SqlConfig, SqlSessions};

/// Plans carry file lists and literals and may be large; results inline are small.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A journal that does not take a write within this time is given up.
#[cfg(feature = "journal")]
const JOURNAL_LIMIT: Duration = Duration::from_secs(30);

/// Where state is written, and what was there.
type State = (Box<dyn Store>, Recovered);

/// Builds a [`Scheduler`]. Every setting has a default that suits a cluster of a few machines.
///
/// ```no_run
/// # async fn start() -> Result<(), ballista_scheduler::SchedulerError> {
/// use std::time::Duration;
/// use ballista_scheduler::SchedulerBuilder;
///
/// let scheduler = SchedulerBuilder::new().lease(Duration::from_secs(30)).build()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:50050").await.unwrap();
/// let serving = scheduler.serve(listener)?;
/// // …
/// serving.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SchedulerBuilder {
    sessions: Option<Arc<dyn SessionProvider>>,
    codec: PlanCodec,
    limits: Limits,
    lease: Duration,
    heartbeat: Option<Duration>,
    no_executor_wait: Duration,
    max_jobs: usize,
    max_message_bytes: usize,
    user_codec: Option<Codec>,
    sql_sessions: bool,
    session_idle: Duration,
    max_sessions: usize,
    client_grace: Duration,
    result_ttl: Duration,
    #[cfg(feature = "journal")]
    state_dir: Option<PathBuf>,
    #[cfg(feature = "journal")]
    discard_damaged_state: bool,
}

impl Default for SchedulerBuilder {
    fn default() -> Self {
        Self {
            sessions: None,
            codec: PlanCodec::default(),
            limits: Limits { ended_jobs: 100, ..Limits::default() },
            lease: Duration::from_secs(10),
            heartbeat: None,
            no_executor_wait: Duration::from_secs(30),
            max_jobs: 10_000,
            max_message_bytes: MAX_MESSAGE_BYTES,
            user_codec: None,
            sql_sessions: true,
            session_idle: Duration::from_secs(3600),
            max_sessions: 1000,
            client_grace: Duration::from_secs(30),
            result_ttl: Duration::from_secs(15 * 60),
            #[cfg(feature = "journal")]
            state_dir: None,
            #[cfg(feature = "journal")]
            discard_damaged_state: false,
        }
    }
}

impl SchedulerBuilder {
    /// A scheduler with defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where planning gets its sessions from. Default: [`CachedSessions`] with all that DataFusion has built in.
    pub fn session_provider(mut self, sessions: Arc<dyn SessionProvider>) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Plans with the functions, configuration and extensions of `state`, varied by each job's settings.
    pub fn session_state(self, state: SessionState) -> Self {
        self.session_provider(Arc::new(CachedSessions::new(state)))
    }

    /// Encodes and decodes the application's own plan nodes, expressions and functions.
    pub fn physical_extension_codec(mut self, codec: Arc<dyn PhysicalExtensionCodec>) -> Self {
        self.codec = PlanCodec::new(Arc::clone(&codec));
        self.user_codec = Some(Codec(codec));
        self
    }

    /// Bounds of the scheduler's state. Their lease is replaced by [`Self::lease`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// An executor that was not heard of for this long is lost. Default: 10 s; at least 100 ms.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How often executors shall be heard of. Default: a fifth of the lease.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// How long a query waits while no executor takes tasks, before it fails. Default: 30 s.
    pub fn no_executor_wait(mut self, wait: Duration) -> Self {
        self.no_executor_wait = wait;
        self
    }

    /// A query that comes while this many are not ended is refused. Default: 10,000.
    pub fn max_jobs(mut self, jobs: usize) -> Self {
        self.max_jobs = jobs;
        self
    }

    /// Largest request that is accepted, in bytes. Default: 256 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Whether clients may open sessions here and send SQL text. Default: yes. Planning it reads files of this host, so
    /// without a wall around the port, whoever reaches it can read what this process can.
    ///
    /// A session starts with the functions, tables and settings of the session provider. What it runs here, instead of
    /// in executors, takes memory of the provider's `RuntimeEnv`.
    pub fn sql_sessions(mut self, wanted: bool) -> Self {
        self.sql_sessions = wanted;
        self
    }

    /// A session without a statement for this long is closed. Default: 1 hour.
    pub fn session_idle(mut self, limit: Duration) -> Self {
        self.session_idle = limit;
        self
    }

    /// A session more than these is refused. Default: 1,000.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// How long a query waits for its client to come back after their connection broke, before it is cancelled.
    /// Default: 30 s.
    pub fn client_grace(mut self, grace: Duration) -> Self {
        self.client_grace = grace;
        self
    }

    /// How long the result of a detached query, and of one with a key of the user's, is kept. Default: 15 minutes.
    pub fn result_ttl(mut self, ttl: Duration) -> Self {
        self.result_ttl = ttl;
        self
    }

    /// Writes down in this directory what is needed to go on after the process dies; a scheduler that is started with the
    /// same directory does. It is made if it does not exist, and must be empty or a scheduler's. Default: none, and all
    /// queries end with the process.
    #[cfg(feature = "journal")]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Moves state that is damaged aside, and starts without the jobs it knew, instead of refusing to start.
    #[cfg(feature = "journal")]
    pub fn discard_damaged_state(mut self, discard: bool) -> Self {
        self.discard_damaged_state = discard;
        self
    }

    /// Starts the scheduler: its one task on the current tokio runtime, and the planning threads.
    ///
    /// Errors: no runtime, a lease that is not longer than the heartbeat, no threads to be had, or a state directory that
    /// is damaged, another scheduler's, or not a scheduler's.
    pub fn build(mut self) -> Result<Scheduler> {
        let sessions = self.sessions.take().unwrap_or_else(|| Arc::new(CachedSessions::default()));
        let planners = Arc::new(JobPlanners { sessions: Arc::clone(&sessions), codec: self.codec.clone() });
        let sql = self.sql_sessions.then(|| SqlConfig {
            sessions,
            codec: self.user_codec.take(),
            most: self.max_sessions,
            idle: self.session_idle,
        });
        let mut scheduler = self.build_with(planners)?;
        scheduler.sessions =
            sql.map(|config| Arc::new(SqlSessions::new(config, scheduler.handle.clone(), scheduler.service())));
        Ok(scheduler)
    }

    #[cfg(feature = "journal")]
    fn open_state(&self) -> Result<Option<State>> {
        let Some(dir) = &self.state_dir else { return Ok(None) };
        let (store, recovered) = SledStore::open(dir, self.discard_damaged_state)?;
        Ok(Some((Box::new(Bounded::new(store, JOURNAL_LIMIT)?), recovered)))
    }

    #[cfg(not(feature = "journal"))]
    fn open_state(&self) -> Result<Option<State>> {
        Ok(None)
    }

    /// Starts the scheduler with planners of the caller's choice.
    pub(crate) fn build_with(self, planners: Arc<dyn PlannerFactory>) -> Result<Scheduler> {
        let runtime = Handle::try_current().map_err(|_| SchedulerError::NoRuntime)?;
        let heartbeat = self.heartbeat.unwrap_or(self.lease / 5);
        if self.lease < Duration::from_millis(100) || heartbeat.is_zero() || heartbeat >= self.lease {
            return Err(SchedulerError::Config(format!(
                "a lease of {} ms with a heartbeat every {} ms; the lease must be at least 100 ms, and several heartbeats \
                 long",
                self.lease.as_millis(),
                heartbeat.as_millis()
            )));
        }
        if self.session_idle.is_zero() {
            return Err(SchedulerError::Config("sessions that are closed as soon as they are idle".to_owned()));
        }
        let state = self.open_state()?;
        let known = state.as_ref().and_then(|(_, recovered)| recovered.cluster.as_ref());
        let ticket_key = match known {
            Some(cluster) => TicketKey::from_bytes(&cluster.ticket_key)?,
            None => TicketKey::random(),
        };
        // Larger than at any start before.
        let epoch = epoch().max(known.map_or(0, |cluster| cluster.epoch + 1));
        let starts = known.map_or(0, |cluster| cluster.starts).saturating_add(1);
        let ticket_bytes = Bytes::copy_from_slice(ticket_key.expose());
        let welcome = proto::Welcome {
            scheduler_epoch: epoch,
            heartbeat_millis: millis(heartbeat),
            lease_millis: millis(self.lease),
            ticket_key: ticket_bytes.clone(),
            protocol_version: PROTOCOL_VERSION,
        };
        let config = ShellConfig {
            limits: Limits { lease_millis: millis(self.lease), ..self.limits },
            welcome,
            ticket_key,
            no_executor_wait: self.no_executor_wait,
            max_jobs: self.max_jobs,
            client_grace: self.client_grace,
            result_ttl: self.result_ttl,
            starts,
        };
        let plans = Arc::new(PlanStore::default());
        let pool = PlanningPool::start(&runtime)?;
        let (handle, messages) = ShellHandle::new(Arc::clone(&plans), runtime.clone());
        let shell = Shell::new(config, plans, planners, pool, handle.downgrade());
        let recovered = match state {
            Some((mut store, mut recovered)) => {
                let cluster = journal::Cluster { epoch, ticket_key: ticket_bytes, starts };
                let failed = |problem| SchedulerError::State { dir: "of the journal".to_owned(), problem };
                let mut batch = recovered.count_start();
                batch.push(Op::put(keys::CLUSTER.to_owned(), &cluster));
                store.write(&[batch]).map_err(failed)?;
                Some((Journal::start(store, handle.downgrade())?, recovered))
            }
            None => {
                tracing::info!("no state directory: running queries end with this process");
                None
            }
        };
        runtime.spawn(shell.run(messages, recovered));
        Ok(Scheduler { handle, sessions: None, max_message_bytes: self.max_message_bytes })
    }
}

/// A running scheduler. Cheap to clone; it runs until [`Scheduler::shutdown`], or until the last clone and the last
/// service of it are dropped.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) handle: ShellHandle,
    sessions: Option<Arc<SqlSessions>>,
    max_message_bytes: usize,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}

impl Scheduler {
    /// The gRPC service, for a tonic server of the caller's own; [`Scheduler::serve_with_incoming`] is the shorter
    /// way, also for transports in memory.
    pub fn service(&self) -> SchedulerServer {
        SchedulerServer::new(self.handle.clone(), self.sessions.clone(), self.max_message_bytes)
    }

    /// Ends every job with an error and every session; returns when it is done.
    pub async fn shutdown(&self) {
        // If it fails, it is done already.
        if self.handle.send(Message::Shutdown).await.is_ok() {
            self.handle.closed().await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Larger at each start, as long as the clock does not go back.
fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, millis)
}
