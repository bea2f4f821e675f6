// SPDX-License-Identifier: Apache-2.0
//! One incarnation of an executor: everything that ends when the scheduler declares it over.
//!
//! What outlives it is in [`Shared`]: configuration, the listener, the memory pool, the CPU runtime, sessions. A fenced
//! executor drops its [`Life`] and begins another, and nothing of the first can leak into the second: not an output,
//! not a status, not a connection.
//!
//! A life begins with its store and address; its [`Services`] come with the scheduler's welcome, because that brings
//! the key that tickets are signed with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::{ExecutorId, Incarnation};
use ballista_exchange::{
    Connector, ExchangeClient, ExchangeServer, ExecutorAddress, FetchConfig, ResultStreams, ShuffleStore, StoreConfig,
    StoreStats, TicketKey,
};
use ballista_plan::codec::PlanCodec;
use ballista_proto::scheduler_service_client::SchedulerServiceClient;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnv;
use tokio::sync::{Notify, SetOnce};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::cpu::CpuRuntime;
use crate::error::{ExecutorError, Result};
use crate::outbox::Outbox;
use crate::plans::PlanCache;
use crate::provider::SessionProvider;
use crate::runner::{TaskEnv, TaskRunner};
use crate::service::{DataService, Transport};
use crate::stores::JobStores;
use crate::writes::Writes;

/// What all lives of an executor share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ExecutorId,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) slots: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// How long a cancelled task may compute on.
    pub(crate) stuck_limit: Option<Duration>,
    /// A task has computed on for longer.
    pub(crate) stuck: CancellationToken,
    pub(crate) grace: Duration,
    pub(crate) work_dir: PathBuf,
    pub(crate) transport: Transport,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) scheduler: SchedulerServiceClient<Channel>,
    pub(crate) provider: Arc<dyn SessionProvider>,
    pub(crate) codec: PlanCodec,
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) cpu: CpuRuntime,
    /// Removed with the last life, if the work directory is a temporary one.
    pub(crate) _temporary: Option<tempfile::TempDir>,
}

impl Shared {
    /// Bytes that fetches of this executor may hold.
    fn fetch_config(&self) -> FetchConfig {
        let default = FetchConfig::default();
        let share = usize::try_from(self.memory_bytes / 8).unwrap_or(usize::MAX);
        FetchConfig { bytes_in_flight: default.bytes_in_flight.min(share), ..default }
    }

    /// The store starts to evict at 40 % of the pool and lets appends wait at 60 %, so that operators keep the rest.
    fn store_config(&self, incarnation: Incarnation) -> StoreConfig {
        let memory = usize::try_from(self.memory_bytes).unwrap_or(usize::MAX);
        StoreConfig {
            work_dir: self.work_dir.clone(),
            incarnation,
            pool: Arc::clone(&self.runtime.memory_pool),
            high_watermark: memory / 5 * 3,
            low_watermark: memory / 5 * 2,
            overdraft: memory / 16,
            disk_limit: self.disk_bytes / 2,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) address: ExecutorAddress,
    pub(crate) outbox: Arc<Outbox>,
    store: Arc<ShuffleStore>,
    results: Arc<ResultStreams>,
    released: Arc<Notify>,
    disk: Arc<DiskManager>,
    writes: Arc<Writes>,
    services: SetOnce<Services>,
}

/// What runs once the scheduler has welcomed an incarnation.
#[derive(Debug)]
pub(crate) struct Services {
    key: TicketKey,
    pub(crate) runner: TaskRunner,
    data: DataService,
}

impl Life {
    /// Begins a life: opens the work directory, which blocks shortly. Evictions run on the current runtime.
    pub(crate) fn begin(shared: &Shared, incarnation: Incarnation) -> Result<Self> {
        let store = ShuffleStore::try_new(shared.store_config(incarnation))?;
        // Inside the incarnation's own directory, which is swept if this process dies. No job's name starts so.
        let spill_dir = shared.work_dir.join(format!("{:016x}", incarnation.0)).join(".spill");
        std::fs::create_dir_all(&spill_dir).map_err(ExecutorError::io("make the directory for spill files"))?;
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![spill_dir]))
            .with_max_temp_directory_size(shared.disk_bytes / 2)
            .build()?;
        let address =
            ExecutorAddress { executor: shared.id.clone(), incarnation, host: shared.host.clone(), port: shared.port };
        Ok(Self {
            address,
            outbox: Arc::new(Outbox::new()),
            store,
            results: ResultStreams::new(),
            released: Arc::default(),
            disk: Arc::new(disk),
            writes: Arc::new(Writes::new(tokio::runtime::Handle::current())),
            services: SetOnce::new(),
        })
    }

    /// Takes the scheduler's welcome: starts the services, or goes on with them. False if the key is another one than
    /// before: that scheduler knows nothing of this life.
    pub(crate) fn welcome(&self, shared: &Shared, key: TicketKey) -> Result<bool> {
        if let Some(services) = self.services.get() {
            return Ok(services.key == key);
        }
        let server = ExchangeServer::new(Arc::clone(&self.store), Arc::clone(&self.results), key.clone());
        let client = ExchangeClient::new(
            self.address.clone(),
            Some(Arc::clone(&self.store)),
            key.clone(),
            Arc::clone(&shared.connector),
            shared.fetch_config(),
        );
        let runner = TaskRunner::new(TaskEnv {
            cpu: shared.cpu.handle(),
            store: Arc::clone(&self.store),
            results: Arc::clone(&self.results),
            client,
            provider: Arc::clone(&shared.provider),
            codec: shared.codec.clone(),
            plans: PlanCache::new(shared.scheduler.clone()),
            outbox: Arc::clone(&self.outbox),
            runtime: Arc::clone(&shared.runtime),
            disk: Arc::clone(&self.disk),
            writes: Arc::clone(&self.writes),
            stores: JobStores::default(),
            released: Arc::clone(&self.released),
            stuck_limit: shared.stuck_limit,
            stuck: shared.stuck.clone(),
        });
        let data = DataService::start(&shared.transport, &shared.host, shared.port, server)?;
        // One session at a time calls this, so nobody else has set it.
        let _ = self.services.set(Services { key, runner, data });
        Ok(true)
    }

    /// The services, once welcome.
    pub(crate) fn services(&self) -> Option<&Services> {
        self.services.get()
    }

    /// What the store holds.
    pub(crate) fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// What operators have spilled.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.disk.used_disk_space()
    }

    /// Resolves when no task runs, the scheduler knows of all that ended, and nobody needs an output any longer.
    pub(crate) async fn done(&self) {
        let Some(services) = self.services.get() else { return };
        loop {
            services.runner.idle().await;
            self.outbox.all_acked().await;
            if self.store.stats().outputs == 0 && self.results.is_empty() && self.writes.is_empty() {
                return;
            }
            self.released.notified().await;
        }
    }

    /// Ends the life gracefully: what still runs is cancelled, what is being read may be read to its end.
    pub(crate) async fn end(&self, patience: Duration) {
        if let Some(services) = self.services.get() {
            services.runner.cancel_all();
            services.data.stop(patience).await;
        }
    }

    /// Ends the life at once.
    pub(crate) async fn kill(&self) {
        self.end(Duration::ZERO).await;
    }
}
