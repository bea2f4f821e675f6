// SPDX-License-Identifier: Apache-2.0
//! The data service's way to the outside: a TCP listener, or connections in memory.
//!
//! One incarnation serves at a time. The listener outlives it, so that the port stays the executor's; connections that
//! come before an incarnation is welcome wait in the backlog. Stopping is graceful (streams under way end) or at once
//! (streams break, which their consumers notice).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ballista_exchange::{ExchangeServer, LocalConnector, tune};
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::error::{ExecutorError, Result};

/// Where connections come from.
#[derive(Debug)]
pub(crate) enum Transport {
    /// A socket, bound and listening.
    Tcp(std::net::TcpListener),
    /// No socket: the process's own connector, under the executor's advertised name.
    Local(LocalConnector),
}

/// A running data service; dropping it stops it at once.
#[derive(Debug)]
pub(crate) struct DataService {
    graceful: CancellationToken,
    kill: CancellationToken,
    serving: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl DataService {
    /// Serves on the current runtime.
    pub(crate) fn start(transport: &Transport, host: &str, port: u16, server: ExchangeServer) -> Result<Self> {
        let (graceful, kill) = (CancellationToken::new(), CancellationToken::new());
        let serving = match transport {
            Transport::Tcp(listener) => {
                let listener = listener.try_clone().map_err(ExecutorError::io("share the data service's socket"))?;
                let listener = tokio::net::TcpListener::from_std(listener)
                    .map_err(ExecutorError::io("watch the data service's socket"))?;
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                serve(server, incoming, &graceful, &kill)
            }
            Transport::Local(connector) => serve(server, connector.listen(host, port), &graceful, &kill),
        };
        Ok(Self { graceful, kill, serving: parking_lot::Mutex::new(Some(serving)) })
    }

    /// Takes no more requests, lets those under way end for at most `patience`, then breaks them.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.graceful.cancel();
        let serving = self.serving.lock().take();
        if let Some(serving) = serving
            && tokio::time::timeout(patience, serving).await.is_err()
        {
            tracing::warn!("broke off requests to the data service that had not ended in time");
        }
        self.kill.cancel();
    }
}

impl Drop for DataService {
    fn drop(&mut self) {
        self.kill.cancel();
        self.graceful.cancel();
    }
}

fn serve<S, C>(
    server: ExchangeServer,
    incoming: S,
    graceful: &CancellationToken,
    kill: &CancellationToken,
) -> JoinHandle<()>
where
    S: Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    C: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
{
    let killed = kill.clone();
    let incoming = incoming.map(move |connection| {
        let killed = killed.clone();
        connection.map(|inner| Killable { inner, dead: Box::pin(killed.clone().cancelled_owned()), killed })
    });
    let service = server.into_service();
    let graceful = graceful.clone().cancelled_owned();
    tokio::spawn(async move {
        let served = tune(Server::builder()).add_service(service).serve_with_incoming_shutdown(incoming, graceful);
        if let Err(error) = served.await {
            tracing::error!(%error, "the data service ended");
        }
    })
}

/// A connection that breaks when its token is cancelled: tonic has no other way to end streams under way.
struct Killable<C> {
    inner: C,
    killed: CancellationToken,
    dead: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl<C: AsyncRead + Unpin> AsyncRead for Killable<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so this is where the connection learns of its end.
        if self.dead.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(broken()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Killable<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.killed.is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.killed.is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<C: Connected> Connected for Killable<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}
