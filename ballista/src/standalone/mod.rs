// SPDX-License-Identifier: Apache-2.0
//! A cluster inside the process: the same scheduler and executor as in daemons, connected in memory.
//!
//! ```text
//!   application's runtime        threads of the cluster
//!   SessionContext ──planner──►  scheduler ──► executor (I/O) ──► executor (CPU)
//!        ▲                                         │
//!        └────────── rows ─────────────────────────┘
//! ```
//!
//! Everything of the cluster runs on threads of its own, connections included, so that an application with a
//! single-threaded runtime, or with several, works and cannot deadlock.
//!
//! * [`runtime`]: those threads, and the end of them.
//! * [`sessions`]: lets the cluster see what is registered on the application's sessions.
//!
//! *Invariant:* no socket is opened.

mod connector;
mod runtime;
mod sessions;

use std::sync::Arc;

use ballista_client::Cluster;
use ballista_client::endpoint::client_over;
use ballista_core::{ExecutorId, Incarnation};
use ballista_exchange::{Connector, ExecutorAddress, LocalConnector};
use ballista_executor::{ExecutorBuilder, ExecutorHandle, Size};
use ballista_scheduler::{SchedulerBuilder, SchedulerHandle};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryLimit;
use tonic::transport::Channel;

use connector::ClusterConnector;
use runtime::ClusterRuntime;
use sessions::ClientSessions;

/// Name of the scheduler among the in-memory servers.
const SCHEDULER: &str = "scheduler";
const SCHEDULER_PORT: u16 = 1;

/// Starts a cluster for `state`; it ends when the returned handle and all that was made with it are dropped.
pub(crate) async fn start(state: &SessionState) -> Result<Cluster> {
    let runtime = ClusterRuntime::start()?;
    let sessions = Arc::new(ClientSessions::default());
    let local = LocalConnector::new();
    let settings = Settings::of(state)?;
    let starting = start_daemons(local.clone(), Arc::clone(&sessions), settings);
    let (daemons, channel) = runtime.run(starting).await?;
    let connector = ClusterConnector::new(runtime.handle(), local);
    let cluster = Cluster::new("standalone", client_over(channel), Arc::new(connector));
    Ok(cluster.with_observer(sessions).with_owner(runtime.with_daemons(daemons)))
}

/// What the session says about its cluster.
struct Settings {
    slots: u32,
    memory: Size,
    codec: Option<Arc<dyn datafusion_proto::physical_plan::PhysicalExtensionCodec>>,
}

impl Settings {
    fn of(state: &SessionState) -> Result<Self> {
        use ballista_client::ClientConfigExt as _;
        let slots = u32::try_from(state.config().target_partitions().max(1))
            .map_err(|_| DataFusionError::Configuration("too many target partitions".into()))?;
        let memory = match state.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => Size::Bytes(bytes as u64),
            _ => Size::MEMORY,
        };
        Ok(Self { slots, memory, codec: state.config().ballista_physical_extension_codec() })
    }
}

/// What runs until the end.
pub(crate) struct Daemons {
    pub(crate) scheduler: SchedulerHandle,
    pub(crate) executor: ExecutorHandle,
}

/// Runs on the cluster's threads, where everything it starts will stay.
async fn start_daemons(
    local: LocalConnector,
    sessions: Arc<ClientSessions>,
    settings: Settings,
) -> Result<(Daemons, Channel)> {
    // The provider finds sessions of this process only, which need none over there.
    let mut scheduler = SchedulerBuilder::new().session_provider(Arc::clone(&sessions) as _).sql_sessions(false);
    let mut executor = ExecutorBuilder::new()
        .with_slots(settings.slots)
        .with_memory(settings.memory)
        .with_local_connector(local.clone())
        .with_session_provider(sessions);
    if let Some(codec) = settings.codec {
        scheduler = scheduler.physical_extension_codec(Arc::clone(&codec));
        executor = executor.with_physical_codec(codec);
    }
    let scheduler = scheduler.build().map_err(external)?;
    let serving = scheduler.serve_with_incoming(local.listen(SCHEDULER, SCHEDULER_PORT));
    let executor = executor.with_scheduler_channel(scheduler_channel(&local).await?).start().await.map_err(external)?;
    executor.registered().await.map_err(external)?;
    let channel = scheduler_channel(&local).await?;
    Ok((Daemons { scheduler: serving, executor }, channel))
}

async fn scheduler_channel(local: &LocalConnector) -> Result<Channel> {
    // The connector knows servers by host and port; the rest of an address is for tickets.
    let address = ExecutorAddress {
        executor: ExecutorId::random(),
        incarnation: Incarnation(0),
        host: SCHEDULER.to_owned(),
        port: SCHEDULER_PORT,
    };
    Ok(local.connect(&address).await?)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
