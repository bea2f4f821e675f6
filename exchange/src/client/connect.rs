// SPDX-License-Identifier: Apache-2.0
//! Connections to other executors: how they are made, and a pool of a few per executor.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::error::{ExchangeError, Result};
use crate::server::{CONNECTION_WINDOW, MAX_FRAME_BYTES, STREAM_WINDOW};
use crate::wire::ExecutorAddress;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections per executor, used in turn: one TCP connection saturates neither a fast network nor a core's worth of
/// HTTP/2 framing.
pub const CONNECTIONS_PER_PEER: usize = 2;

/// Buffer of an in-memory connection.
const DUPLEX_BYTES: usize = 1 << 20;

/// Makes a connection to an executor's data service.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync {
    /// Connects; fails after a few seconds at the latest.
    async fn connect(&self, address: &ExecutorAddress) -> Result<Channel>;
}

/// An endpoint with windows, keep-alive and time-outs for bulk data.
pub fn bulk_endpoint(uri: String) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| ExchangeError::Protocol(format!("address of an executor: {error}")))?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_adaptive_window(false)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .connect_timeout(CONNECT_TIMEOUT))
}

/// Connects over TCP.
#[derive(Debug, Clone, Default)]
pub struct TcpConnector;

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, address: &ExecutorAddress) -> Result<Channel> {
        let endpoint = bulk_endpoint(format!("http://{}", address.authority()))?;
        endpoint.connect().await.map_err(|error| ExchangeError::unreachable(address, with_sources(&error)))
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Connects servers and clients of one process in memory, for a standalone cluster.
///
/// A server is registered by host and port, as if it listened there, and served with
/// `Server::serve_with_incoming(connector.listen(…))`.
#[derive(Debug, Clone, Default)]
pub struct LocalConnector {
    listeners: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<DuplexStream>>>>,
}

impl LocalConnector {
    /// A connector that knows no server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a server and gives the connections that reach it. A server registered there before gets no more.
    pub fn listen(&self, host: &str, port: u16) -> LocalIncoming {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.listeners.lock().insert(format!("{host}:{port}"), sender);
        LocalIncoming(incoming)
    }

    fn dial(&self, authority: &str) -> io::Result<DuplexStream> {
        let listeners = self.listeners.lock();
        let listener = listeners.get(authority).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = tokio::io::duplex(DUPLEX_BYTES);
        listener.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

#[async_trait]
impl Connector for LocalConnector {
    async fn connect(&self, address: &ExecutorAddress) -> Result<Channel> {
        let authority = address.authority();
        let endpoint = bulk_endpoint(format!("http://{authority}"))?;
        let connector = self.clone();
        let dial = tower::service_fn(move |_| {
            let dialed = connector.dial(&authority).map(TokioIo::new);
            async move { dialed }
        });
        endpoint
            .connect_with_connector(dial)
            .await
            .map_err(|error| ExchangeError::unreachable(address, with_sources(&error)))
    }
}

/// Connections that reach a server of a [`LocalConnector`].
#[derive(Debug)]
pub struct LocalIncoming(mpsc::UnboundedReceiver<DuplexStream>);

impl Stream for LocalIncoming {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// A few connections per executor, made when first needed and made again when found broken.
#[derive(Debug)]
pub struct ConnectionPool {
    connector: Arc<dyn Connector>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

#[derive(Debug)]
struct Peer {
    next: AtomicUsize,
    slots: Vec<tokio::sync::Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    channel: Option<Channel>,
}

/// A connection from a [`ConnectionPool`].
#[derive(Debug, Clone)]
pub struct Connection {
    /// To talk over.
    pub channel: Channel,
    peer: Arc<Peer>,
    slot: usize,
    generation: u64,
}

impl ConnectionPool {
    /// An empty pool.
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self { connector, peers: Mutex::default() }
    }

    /// A connection to the executor; the pool's connections take turns.
    pub async fn get(&self, address: &ExecutorAddress) -> Result<Connection> {
        let peer = {
            let mut peers = self.peers.lock();
            let peer = peers.entry(address.authority()).or_insert_with(|| {
                let slots = (0..CONNECTIONS_PER_PEER).map(|_| Default::default()).collect();
                Arc::new(Peer { next: AtomicUsize::new(0), slots })
            });
            Arc::clone(peer)
        };
        let slot = peer.next.fetch_add(1, Ordering::Relaxed) % peer.slots.len();
        let mut guard = peer.slots[slot].lock().await;
        let channel = match &guard.channel {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.connector.connect(address).await?;
                guard.generation += 1;
                guard.channel = Some(channel.clone());
                channel
            }
        };
        let generation = guard.generation;
        drop(guard);
        Ok(Connection { channel, peer, slot, generation })
    }
}

impl Connection {
    /// Reports the connection as broken; the next one in its place is made anew.
    pub async fn discard(self) {
        let mut slot = self.peer.slots[self.slot].lock().await;
        if slot.generation == self.generation {
            slot.channel = None;
        }
    }
}
