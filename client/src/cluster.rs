// SPDX-License-Identifier: Apache-2.0
//! [`Cluster`]: what the plans of a session need to reach the scheduler and the executors that hold results.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ballista_exchange::{ConnectionPool, Connector, TcpConnector};
use ballista_proto as proto;
use datafusion::catalog::Session;
use tokio::sync::watch;

use crate::endpoint::{SchedulerClient, SchedulerEndpoint};
use crate::error::ClientError;

/// Sees every session that is about to run a query. An in-process cluster learns from it which functions and object
/// stores the session has right now.
pub trait SessionObserver: Send + Sync {
    /// `session` runs a query. Returns the id under which the cluster finds the session, and what keeps it findable
    /// until the query's plan is dropped; `None` leaves it with the session's own id.
    fn observe(&self, session: &dyn Session) -> Option<(String, SessionLease)>;
}

/// Keeps an observed session findable for as long as it lives.
pub type SessionLease = Arc<dyn Any + Send + Sync>;

/// A scheduler that restarts is back in a few seconds; one that moves to another machine takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster as a client sees it: one channel to the scheduler, a few connections to each executor with results.
pub struct Cluster {
    name: String,
    scheduler: SchedulerClient,
    results: ConnectionPool,
    observer: Option<Arc<dyn SessionObserver>>,
    /// Somebody has answered before.
    reached: AtomicBool,
    patience: Duration,
    /// Messages of jobs that nobody wants any more, on their way.
    closing: watch::Sender<usize>,
    // Dropped last: an in-process cluster stops with its last client.
    _owner: Option<Box<dyn Any + Send + Sync>>,
}

impl Cluster {
    /// A cluster reached by `scheduler` and, for results, through `connector`. `name` is for people.
    pub fn new(name: impl Into<String>, scheduler: SchedulerClient, connector: Arc<dyn Connector>) -> Self {
        let results = ConnectionPool::new(connector);
        let reached = AtomicBool::new(false);
        Self {
            name: name.into(),
            scheduler,
            results,
            observer: None,
            reached,
            patience: PATIENCE,
            closing: watch::Sender::new(0),
            _owner: None,
        }
    }

    /// Tells the scheduler, in the background, that nobody wants anything more of a job.
    pub(crate) fn close_job(self: &Arc<Self>, request: proto::CloseJobRequest) {
        // Without a runtime the scheduler finds out after a while.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let cluster = Arc::clone(self);
        cluster.closing.send_modify(|closing| *closing += 1);
        runtime.spawn(async move {
            // If it cannot be told, it finds out likewise.
            let _ = cluster.scheduler().close_job(request).await;
            cluster.closing.send_modify(|closing| *closing -= 1);
        });
    }

    /// Resolves when the scheduler knows of all queries that were dropped before their end. For programs that are about to
    /// exit; otherwise it cancels these queries after its `--client-grace-seconds`.
    pub async fn closed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(|closing| *closing == 0).await;
    }

    /// How long a scheduler that was there before is waited for, when a connection to it breaks or cannot be made.
    /// Default: 60 s.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub(crate) fn set_reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Connects to the cluster whose scheduler is at `url`, for instance `df://localhost:50050`.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        let endpoint = SchedulerEndpoint::parse(url)?;
        let scheduler = endpoint.connect().await?;
        let cluster = Self::new(endpoint.to_string(), scheduler, Arc::new(TcpConnector));
        cluster.set_reached();
        Ok(cluster)
    }

    /// Shows `observer` the session of every query.
    pub fn with_observer(self, observer: Arc<dyn SessionObserver>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Keeps `owner` alive for as long as anything uses this cluster.
    pub fn with_owner(self, owner: impl Any + Send + Sync) -> Self {
        Self { _owner: Some(Box::new(owner)), ..self }
    }

    /// The cluster's name, usually the address of its scheduler.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scheduler's service; clones share the channel.
    pub fn scheduler(&self) -> SchedulerClient {
        self.scheduler.clone()
    }

    pub(crate) fn results(&self) -> &ConnectionPool {
        &self.results
    }

    pub(crate) fn observe(&self, session: &dyn Session) -> (String, Option<SessionLease>) {
        match self.observer.as_ref().and_then(|observer| observer.observe(session)) {
            Some((id, lease)) => (id, Some(lease)),
            None => (session.session_id().to_owned(), None),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).finish_non_exhaustive()
    }
}
