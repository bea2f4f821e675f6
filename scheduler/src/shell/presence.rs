// SPDX-License-Identifier: Apache-2.0
//! Whether an executor whose session has ended is dead.
//!
//! A stream ends when its process dies, and also when a connection breaks or a proxy restarts. So somebody knocks where
//! the executor serves its data: if nobody is there, the executor is lost at once. If somebody answers, or nobody can
//! tell, it gets no tasks and has its lease to come back, with all that it runs and holds.

use std::io;
use std::time::Duration;

use ballista_scheduler_core::Event;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tracing::{info, warn};

use super::Shell;
use super::executors::{Life, SessionId};
use super::message::Message;

/// How long a connection may take. Who does not answer within it may still be there.
const KNOCK: Duration = Duration::from_secs(2);

/// A proxy without anybody behind it closes a connection at once; an executor waits for what is wanted of it.
const PROXY: Duration = Duration::from_millis(300);

/// Whether an executor that was at this address may live.
pub(super) async fn is_there(host: &str, port: u16) -> bool {
    match tokio::time::timeout(KNOCK, TcpStream::connect((host, port))).await {
        Ok(Err(error)) => error.kind() != io::ErrorKind::ConnectionRefused,
        Ok(Ok(mut stream)) => {
            let answer = tokio::time::timeout(PROXY, stream.read(&mut [0])).await;
            !matches!(answer, Ok(Ok(0) | Err(_)))
        }
        Err(_) => true,
    }
}

impl Shell {
    /// The stream of a session has ended.
    pub(super) fn session_closed(&mut self, life: Life, session: SessionId, reason: &str) {
        let Some(executor) = self.executors.get(&life) else { return };
        if executor.session.as_ref().is_none_or(|current| current.id != session) {
            // It is back already.
            return;
        }
        let (host, port) = (executor.address.host.clone(), executor.address.port);
        if executor.draining || port == 0 {
            self.lose(life, reason);
            return;
        }
        warn!(executor = %life.0, reason, "an executor's session ended; it may come back");
        self.executors.set_away(&life);
        let (executor, incarnation) = life.clone();
        self.events.push_back(Event::ExecutorAway { executor, incarnation });
        let Some(queue) = self.handle.queue() else { return };
        tokio::spawn(async move {
            let is_there = is_there(&host, port).await;
            // A scheduler that is gone need not know.
            let _ = queue.send(Message::Probed { life, is_there }).await;
        });
    }

    /// Somebody has knocked.
    pub(super) fn probed(&mut self, life: Life, is_there: bool) {
        let is_away = self.executors.get(&life).is_some_and(|executor| executor.session.is_none());
        if !is_away {
            return;
        }
        if is_there {
            info!(executor = %life.0, "the executor is there; waiting for it");
        } else {
            self.lose(life, "its session ended, and nobody is where it was");
        }
    }
}
