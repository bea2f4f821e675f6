// SPDX-License-Identifier: Apache-2.0
//! Serving a [`Scheduler`] over TCP or any other transport, and stopping it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::builder::Scheduler;
use crate::error::{Result, SchedulerError};
use crate::service::SchedulerServer;

/// Queries on one connection; HTTP/2 servers allow 200 unless told otherwise.
const MAX_STREAMS: u32 = 10_000;

/// A peer that does not answer a ping for this long is gone, and its streams with it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connections may take this long to say goodbye.
const GRACE: Duration = Duration::from_secs(3);

impl Scheduler {
    /// Serves over TCP until shut down.
    pub fn serve(&self, listener: TcpListener) -> Result<SchedulerHandle> {
        let address = listener
            .local_addr()
            .map_err(|source| SchedulerError::Io { action: "read the address of the listener", source })?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEP_ALIVE));
        let mut handle = self.serve_with_incoming(incoming);
        handle.address = Some(address);
        Ok(handle)
    }

    /// Serves connections of any transport until shut down: TLS streams, or `tokio::io::duplex` within a process.
    pub fn serve_with_incoming<C, E>(
        &self,
        incoming: impl Stream<Item = Result<C, E>> + Send + 'static,
    ) -> SchedulerHandle
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = start(self.service(), incoming, stopped);
        SchedulerHandle { scheduler: self.clone(), address: None, stop, server }
    }
}

fn start<C, E>(
    service: SchedulerServer,
    incoming: impl Stream<Item = Result<C, E>> + Send + 'static,
    stopped: oneshot::Receiver<()>,
) -> Running
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    // A stream that ends, as that of a closed in-memory listener does, shall not end the open connections.
    let incoming = incoming.chain(futures::stream::pending());
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_adaptive_window(Some(false))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
    Running(tokio::spawn(server))
}

/// Serves connections within the process until what is returned is dropped.
pub(crate) fn serve_in_memory(
    service: SchedulerServer,
    incoming: impl Stream<Item = std::io::Result<DuplexStream>> + Send + 'static,
) -> impl Send + Sync + 'static {
    let (stop, stopped) = oneshot::channel::<()>();
    (start(service, incoming, stopped), stop)
}

/// The server's task; ends with its handle.
struct Running(JoinHandle<Result<(), tonic::transport::Error>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A scheduler that is being served. Dropping the handle breaks its connections off; [`SchedulerHandle::shutdown`] is
/// the clean end.
pub struct SchedulerHandle {
    scheduler: Scheduler,
    address: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    server: Running,
}

impl std::fmt::Debug for SchedulerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SchedulerHandle {
    /// Where it listens, if over TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The scheduler that is served.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Resolves when the server has failed.
    pub async fn failed(&mut self) -> SchedulerError {
        match (&mut self.server.0).await {
            Ok(Err(error)) => SchedulerError::Serve(error),
            // It ends without an error, or is aborted, only when the handle is consumed.
            Ok(Ok(())) | Err(_) => SchedulerError::Stopped,
        }
    }

    /// Ends jobs and sessions with an error that says so, then the connections; those that do not end by themselves
    /// are broken off after a grace period.
    pub async fn shutdown(self) -> Result<()> {
        let Self { scheduler, stop, mut server, .. } = self;
        scheduler.shutdown().await;
        // A server that failed does not listen.
        let _ = stop.send(());
        match tokio::time::timeout(GRACE, &mut server.0).await {
            Ok(Ok(Err(error))) => Err(SchedulerError::Serve(error)),
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => Ok(()),
        }
    }
}
