// SPDX-License-Identifier: Apache-2.0
//! A proxy before the port of an executor, which breaks what passes through it.

use std::io::Result;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does to what comes from the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// The connection breaks after so many bytes more.
    CutAfter(u64),
    /// One bit of the byte after so many more is flipped, and all is well again.
    FlipAfter(u64),
    /// New connections are refused and old ones broken.
    Refuse,
    /// Nothing passes, nothing breaks.
    Stall,
}

/// A proxy that runs until it is dropped.
pub struct Proxy {
    port: u16,
    damage: watch::Sender<Damage>,
    fired: Arc<AtomicU64>,
    target: watch::Sender<u16>,
    running: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Proxy {
    /// A proxy on a free port.
    ///
    /// # Errors
    /// If there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (damage, target, fired) =
            (watch::Sender::new(Damage::None), watch::Sender::new(0), Arc::new(AtomicU64::new(0)));
        let running = tokio::spawn(serve(listener, damage.clone(), target.subscribe(), Arc::clone(&fired)));
        Ok(Self { port, damage, fired, target, running })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the executor listens.
    pub fn lead_to(&self, port: u16) {
        self.target.send_replace(port);
    }

    /// Does damage from now on.
    pub fn set(&self, damage: Damage) {
        self.damage.send_replace(damage);
    }

    /// How often damage was done.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    damage: watch::Sender<Damage>,
    target: watch::Receiver<u16>,
    fired: Arc<AtomicU64>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if *damage.borrow() == Damage::Refuse {
            fired.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (port, damage, fired) = (*target.borrow(), damage.clone(), Arc::clone(&fired));
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            // Small messages are what most of the traffic is.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            // Whichever side ends first ends both.
            tokio::select! {
                () = pass(near_in, far_out, None, &fired) => {}
                () = pass(far_in, near_out, Some(&damage), &fired) => {}
            }
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    damage: Option<&watch::Sender<Damage>>,
    fired: &AtomicU64,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut changes = damage.map(watch::Sender::subscribe);
    loop {
        let changed = async {
            match &mut changes {
                // The sender is right here.
                Some(changes) => drop(changes.changed().await),
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = changed => {
                if damage.is_some_and(|damage| *damage.borrow() == Damage::Refuse) {
                    fired.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                continue;
            }
        };
        let Ok(length @ 1..) = read else { return };
        if let Some(damage) = damage {
            let mut cut = false;
            let is_stalled = |damage: &Damage| *damage == Damage::Stall;
            if is_stalled(&damage.borrow()) {
                fired.fetch_add(1, Ordering::Relaxed);
                let mut wait = damage.subscribe();
                // The sender is right here.
                let _ = wait.wait_for(|damage| !is_stalled(damage)).await;
            }
            damage.send_if_modified(|damage| {
                let bytes = length as u64;
                match damage {
                    Damage::CutAfter(left) if *left < bytes => {
                        (cut, *damage) = (true, Damage::None);
                        fired.fetch_add(1, Ordering::Relaxed);
                    }
                    Damage::FlipAfter(left) if *left < bytes => {
                        buffer[*left as usize] ^= 0x10;
                        *damage = Damage::None;
                        fired.fetch_add(1, Ordering::Relaxed);
                    }
                    Damage::CutAfter(left) | Damage::FlipAfter(left) => *left -= bytes,
                    Damage::None | Damage::Refuse | Damage::Stall => {}
                }
                false
            });
            if cut {
                return;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
