// SPDX-License-Identifier: Apache-2.0
//! Configures and starts an executor.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::{ExecutorId, Incarnation};
use ballista_exchange::{Connector, LocalConnector, TcpConnector, executor_pool, prepare_work_dir};
use ballista_plan::codec::PlanCodec;
use ballista_plan::stores::Stores;
use ballista_proto::scheduler_service_client::SchedulerServiceClient;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::cpu::CpuRuntime;
use crate::error::{ExecutorError, Result};
use crate::handle::ExecutorHandle;
use crate::life::{Life, Shared};
use crate::provider::{CachedSessions, SessionProvider};
use crate::service::Transport;
use crate::session::{self, ExecutorStatus, Signals};
use crate::size::Size;
use crate::{disk, memory};

/// Launches name every output they read, and statuses every bucket they wrote.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Port of the scheduler unless configured.
pub const DEFAULT_SCHEDULER_PORT: u16 = 50050;

/// What the executor's data service is named inside its process, if it has no socket.
const LOCAL_PORT: u16 = 1;

type RuntimeHook = Box<dyn FnOnce(RuntimeEnvBuilder) -> RuntimeEnvBuilder + Send>;

enum SchedulerLink {
    Address(String, u16),
    Channel(Channel),
}

enum Network {
    Tcp { host: String, port: u16 },
    Local(LocalConnector),
}

/// Builds an executor; every setting has a default that makes sense on one machine.
pub struct ExecutorBuilder {
    id: Option<ExecutorId>,
    slots: Option<u32>,
    memory: Size,
    disk: Size,
    stuck_limit: Option<Duration>,
    work_dir: Option<PathBuf>,
    network: Network,
    advertise_host: Option<String>,
    advertise_port: Option<u16>,
    insecure: bool,
    scheduler: SchedulerLink,
    connector: Option<Arc<dyn Connector>>,
    provider: Option<Arc<dyn SessionProvider>>,
    session_state: Option<SessionState>,
    codec: PlanCodec,
    object_stores: Option<Arc<dyn ObjectStoreRegistry>>,
    runtime_hook: Option<RuntimeHook>,
    grace: Duration,
}

impl Default for ExecutorBuilder {
    fn default() -> Self {
        Self {
            id: None,
            slots: None,
            memory: Size::MEMORY,
            disk: Size::DISK,
            stuck_limit: None,
            work_dir: None,
            network: Network::Tcp { host: "127.0.0.1".to_owned(), port: 0 },
            advertise_host: None,
            advertise_port: None,
            insecure: false,
            scheduler: SchedulerLink::Address("localhost".to_owned(), DEFAULT_SCHEDULER_PORT),
            connector: None,
            provider: None,
            session_state: None,
            codec: PlanCodec::default(),
            object_stores: None,
            runtime_hook: None,
            grace: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for ExecutorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorBuilder").field("id", &self.id).field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl ExecutorBuilder {
    /// An executor on a free loopback port, for a scheduler on `localhost:50050`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its name in the cluster. Default: random.
    pub fn with_id(mut self, id: ExecutorId) -> Self {
        self.id = Some(id);
        self
    }

    /// How many partitions it runs at once, which is also the number of its CPU threads. Default: one per core.
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// The memory that operators and the shuffle store share. Default: 70 % of the container or host.
    pub fn with_memory(mut self, memory: Size) -> Self {
        self.memory = memory;
        self
    }

    /// What files may take on disk: half of it those of exchanges, half of it what operators spill. A task that needs more
    /// fails. Default: 90 % of what is free at the start.
    pub fn with_disk(mut self, disk: Size) -> Self {
        self.disk = disk;
        self
    }

    /// A task that was cancelled and has not ended after this time, because a function in it computes without end, ends
    /// the executor with [`ExecutorError::Stuck`]: others finish what they can, and whoever started the process
    /// starts it again. Nothing else gives the processor back that such a function holds. Default: never.
    pub fn with_stuck_task_limit(mut self, limit: Duration) -> Self {
        self.stuck_limit = Some(limit);
        self
    }

    /// Directory for shuffle and spill files: empty, or one that was Ballista's before; executors may share it.
    /// Default: a temporary directory, removed at the end.
    pub fn with_work_dir(mut self, work_dir: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(work_dir.into());
        self
    }

    /// Where the data service listens; port 0 = any free one. Default: `127.0.0.1`, any.
    pub fn with_bind_address(mut self, host: impl Into<String>, port: u16) -> Self {
        self.network = Network::Tcp { host: host.into(), port };
        self
    }

    /// How other executors and clients reach the data service, if not by the address it listens on: behind a port
    /// mapping, or when it listens on all interfaces. `port`: `None` = the one it listens on.
    pub fn with_advertised_address(mut self, host: impl Into<String>, port: Option<u16>) -> Self {
        self.advertise_host = Some(host.into());
        self.advertise_port = port;
        self
    }

    /// Allows a bind address that other hosts can reach, although nothing is encrypted. Default: refused.
    pub fn with_insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// The scheduler. Default: `localhost`, port 50050.
    pub fn with_scheduler(mut self, host: impl Into<String>, port: u16) -> Self {
        self.scheduler = SchedulerLink::Address(host.into(), port);
        self
    }

    /// The scheduler, over a connection that exists already: for instance one in memory.
    pub fn with_scheduler_channel(mut self, channel: Channel) -> Self {
        self.scheduler = SchedulerLink::Channel(channel);
        self
    }

    /// No sockets: the data service is registered in `connector`, through which other executors and clients of this
    /// process reach it. Its host name is the executor's id unless advertised otherwise.
    pub fn with_local_connector(mut self, connector: LocalConnector) -> Self {
        self.network = Network::Local(connector);
        self
    }

    /// How this executor connects to others. Default: TCP, or the local connector.
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Functions, configuration and object stores of the application; tasks find their functions here. Ignored for
    /// functions if a session provider is given.
    pub fn with_session_state(mut self, state: SessionState) -> Self {
        self.session_state = Some(state);
        self
    }

    /// Gives tasks their sessions instead of [`CachedSessions`].
    pub fn with_session_provider(mut self, provider: Arc<dyn SessionProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Decodes the application's own plan nodes, functions and expressions. For several, see
    /// `datafusion_proto::physical_plan::ComposedPhysicalExtensionCodec`.
    pub fn with_physical_codec(mut self, codec: Arc<dyn PhysicalExtensionCodec>) -> Self {
        self.codec = PlanCodec::new(codec);
        self
    }

    /// Finds object stores by URL. Default: [`Stores`] over that of the session state, which opens those of S3, Google
    /// Cloud, Azure and the web with what the environment says. Options that come with a job go before it.
    pub fn with_object_store_registry(mut self, registry: Arc<dyn ObjectStoreRegistry>) -> Self {
        self.object_stores = Some(registry);
        self
    }

    /// Last changes to the runtime environment, such as the sizes of its caches. Its memory pool and the place and bounds
    /// of its spill files are the executor's in any case.
    pub fn with_runtime_env(
        mut self,
        hook: impl FnOnce(RuntimeEnvBuilder) -> RuntimeEnvBuilder + Send + 'static,
    ) -> Self {
        self.runtime_hook = Some(Box::new(hook));
        self
    }

    /// How long a draining executor waits for running tasks and for consumers of its outputs. Default: 60 s.
    pub fn with_shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the executor on the current runtime, which then does its I/O. Returns once it listens;
    /// [`ExecutorHandle::registered`] waits for the scheduler.
    pub async fn start(self) -> Result<ExecutorHandle> {
        let id = self.id.clone().unwrap_or_else(ExecutorId::random);
        let slots = self.slots.unwrap_or_else(default_slots);
        if slots == 0 {
            return Err(ExecutorError::Config("an executor needs at least one slot".into()));
        }
        let memory_bytes = memory::resolve(self.memory)?;
        let scheduler = scheduler_client(&self.scheduler)?;
        let (transport, host, port) = listen(&self, &id)?;
        let connector = match (self.connector, &transport) {
            (Some(connector), _) => connector,
            (None, Transport::Local(local)) => Arc::new(local.clone()),
            (None, Transport::Tcp(_)) => Arc::new(TcpConnector),
        };
        let runtime = runtime_env(memory_bytes, self.session_state.as_ref(), self.object_stores, self.runtime_hook)?;
        let provider = match (self.provider, self.session_state) {
            (Some(provider), _) => provider,
            (None, Some(state)) => Arc::new(CachedSessions::new(state)),
            (None, None) => Arc::new(CachedSessions::default()),
        };
        let (work_dir, temporary) = match self.work_dir {
            Some(work_dir) => (work_dir, None),
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("ballista-executor-")
                    .tempdir()
                    .map_err(ExecutorError::io("make a temporary work directory"))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        // What dead executors have left there is space that is free.
        prepare_work_dir(&work_dir)?;
        let disk_bytes = disk::resolve(self.disk, &work_dir)?;
        let shared = Arc::new(Shared {
            id,
            host,
            port,
            slots,
            memory_bytes,
            disk_bytes,
            stuck_limit: self.stuck_limit,
            stuck: CancellationToken::new(),
            grace: self.grace,
            work_dir,
            transport,
            connector,
            scheduler,
            provider,
            codec: self.codec,
            runtime,
            cpu: CpuRuntime::start(slots as usize)?,
            _temporary: temporary,
        });
        let life = Life::begin(&shared, Incarnation::random())?;
        let status = ExecutorStatus { address: life.address.clone(), registered: false };
        let signals = Signals {
            drain: CancellationToken::new(),
            leave: CancellationToken::new(),
            kill: CancellationToken::new(),
            status: watch::Sender::new(status),
        };
        let main = session::run(shared, life, signals.clone());
        let ended = signals.kill.clone().drop_guard();
        let main = tokio::spawn(async move {
            // Whoever waits for a registration must learn that none will come.
            let _ended = ended;
            main.await
        });
        Ok(ExecutorHandle::new(signals, slots, memory_bytes, main))
    }
}

fn default_slots() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

fn scheduler_client(link: &SchedulerLink) -> Result<SchedulerServiceClient<Channel>> {
    let channel = match link {
        SchedulerLink::Channel(channel) => channel.clone(),
        SchedulerLink::Address(host, port) => {
            let uri = format!("http://{}", authority(host, *port));
            let endpoint = Endpoint::from_shared(uri)
                .map_err(|error| ExecutorError::Config(format!("scheduler {host}:{port}: {error}")))?;
            endpoint
                .tcp_nodelay(true)
                .connect_timeout(Duration::from_secs(3))
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true)
                .connect_lazy()
        }
    };
    Ok(SchedulerServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// Binds the data service's address and says under which one it is reached.
fn listen(builder: &ExecutorBuilder, id: &ExecutorId) -> Result<(Transport, String, u16)> {
    let advertised = builder.advertise_host.clone();
    match &builder.network {
        Network::Local(connector) => {
            let host = advertised.unwrap_or_else(|| id.to_string());
            Ok((Transport::Local(connector.clone()), host, builder.advertise_port.unwrap_or(LOCAL_PORT)))
        }
        Network::Tcp { host, port } => {
            let bind_error = |source| ExecutorError::Bind { address: authority(host, *port), source };
            let addresses: Vec<SocketAddr> =
                (host.trim_matches(['[', ']']), *port).to_socket_addrs().map_err(bind_error)?.collect();
            if !builder.insecure && addresses.iter().any(|address| !address.ip().is_loopback()) {
                return Err(ExecutorError::Config(format!(
                    "refusing to listen on {host}, which other hosts can reach: nothing is encrypted or authenticated. \
                     Give --insecure if the network is private, or bind to 127.0.0.1"
                )));
            }
            let advertised = match advertised {
                Some(advertised) => advertised,
                None if addresses.iter().any(|address| address.ip().is_unspecified()) => {
                    host_name().ok_or_else(|| {
                        ExecutorError::Config(format!(
                            "listening on {host} needs an advertised host; give --advertise-host"
                        ))
                    })?
                }
                None => host.clone(),
            };
            let listener = TcpListener::bind(&addresses[..]).map_err(bind_error)?;
            listener.set_nonblocking(true).map_err(bind_error)?;
            let bound = listener.local_addr().map_err(bind_error)?.port();
            Ok((Transport::Tcp(listener), advertised, builder.advertise_port.unwrap_or(bound)))
        }
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn runtime_env(
    memory_bytes: u64,
    state: Option<&SessionState>,
    object_stores: Option<Arc<dyn ObjectStoreRegistry>>,
    hook: Option<RuntimeHook>,
) -> Result<Arc<RuntimeEnv>> {
    let mut builder = match state {
        Some(state) => {
            let below = Arc::clone(&state.runtime_env().object_store_registry);
            let stores = Arc::new(Stores::new(below));
            RuntimeEnvBuilder::from_runtime_env(state.runtime_env()).with_object_store_registry(stores)
        }
        None => RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::default())),
    };
    if let Some(object_stores) = object_stores {
        builder = builder.with_object_store_registry(object_stores);
    }
    if let Some(hook) = hook {
        builder = hook(builder);
    }
    let pool = executor_pool(usize::try_from(memory_bytes).unwrap_or(usize::MAX));
    Ok(builder.with_memory_pool(pool).build_arc()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str) -> ExecutorBuilder {
        ExecutorBuilder::new().with_bind_address(host, 0)
    }

    fn id() -> ExecutorId {
        ExecutorId::new("e1").unwrap()
    }

    #[test]
    fn an_address_that_others_can_reach_needs_a_word() {
        let error = listen(&tcp("0.0.0.0"), &id()).unwrap_err();
        assert!(error.to_string().contains("--insecure"), "{error}");
        let (_, host, port) = listen(&tcp("0.0.0.0").with_insecure(true), &id()).unwrap();
        assert_ne!(host, "0.0.0.0");
        assert_ne!(port, 0);
        assert_eq!(listen(&tcp("127.0.0.1"), &id()).unwrap().1, "127.0.0.1");
    }

    #[test]
    fn the_advertised_address_wins() {
        let builder = tcp("127.0.0.1").with_advertised_address("executor-7.example", Some(7000));
        let (_, host, port) = listen(&builder, &id()).unwrap();
        assert_eq!((host.as_str(), port), ("executor-7.example", 7000));
    }

    #[test]
    fn without_sockets_the_name_is_the_executors() {
        let builder = ExecutorBuilder::new().with_local_connector(LocalConnector::new());
        let (transport, host, _) = listen(&builder, &id()).unwrap();
        assert!(matches!(transport, Transport::Local(_)));
        assert_eq!(host, "e1");
    }
}
