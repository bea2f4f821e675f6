// SPDX-License-Identifier: Apache-2.0
//! [`Cluster`]: what the plans of a session need to reach the scheduler and the executors that hold results.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ballista_exchange::{ConnectionPool, Connector, TcpConnector};
use datafusion::catalog::Session;

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

/// A cluster as a client sees it: one channel to the scheduler, a few connections to each executor with results.
pub struct Cluster {
    name: String,
    scheduler: SchedulerClient,
    results: ConnectionPool,
    observer: Option<Arc<dyn SessionObserver>>,
    // Dropped last: an in-process cluster stops with its last client.
    _owner: Option<Box<dyn Any + Send + Sync>>,
}

impl Cluster {
    /// A cluster reached by `scheduler` and, for results, through `connector`. `name` is for people.
    pub fn new(name: impl Into<String>, scheduler: SchedulerClient, connector: Arc<dyn Connector>) -> Self {
        let results = ConnectionPool::new(connector);
        Self { name: name.into(), scheduler, results, observer: None, _owner: None }
    }

    /// Connects to the cluster whose scheduler is at `url`, for instance `df://localhost:50050`.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        let endpoint = SchedulerEndpoint::parse(url)?;
        let scheduler = endpoint.connect().await?;
        Ok(Self::new(endpoint.to_string(), scheduler, Arc::new(TcpConnector)))
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
