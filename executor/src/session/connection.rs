// SPDX-License-Identifier: Apache-2.0
//! One connection of the session: from `Register` to its end.

use std::time::Duration;

use ballista_core::{Incarnation, JobId, PROTOCOL_VERSION, StageId, fault, speaks_protocol};
use ballista_exchange::TicketKey;
use ballista_exchange::wire::task_key_from_proto;
use ballista_proto as proto;
use proto::executor_message::Message as Up;
use proto::scheduler_message::Message as Down;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use super::{ExecutorError, ExecutorStatus, Life, Result, Shared, Signals};
use crate::fingerprint::hash_fingerprint;
use crate::life::Services;

/// A scheduler that takes the stream and then says nothing is none.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);

/// Heartbeats come at most this often, whatever the scheduler asks for.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(50);

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// Try again.
    Broken(String),
    /// The incarnation is over.
    Fenced(String),
    /// The executor shall stop.
    Stopped,
}

/// Registers `life` and serves the scheduler until the connection ends. Sets `welcome` once it was accepted.
pub(super) async fn connect(shared: &Shared, life: &Life, signals: &Signals, welcome: &mut bool) -> Result<Ended> {
    // Unbounded, but fed by the outbox and a timer only; what it holds, the outbox holds too.
    let (up, outgoing) = mpsc::unbounded_channel();
    // The receiver is right here.
    let _ = up.send(message(Up::Register(register(shared, life))));
    let mut scheduler = shared.scheduler.clone();
    let opened = tokio::select! {
        () = signals.kill.cancelled() => return Ok(Ended::Stopped),
        opened = scheduler.session(UnboundedReceiverStream::new(outgoing)) => opened,
    };
    let mut incoming = match opened {
        Ok(opened) => opened.into_inner(),
        Err(status) => return refused_or_broken(&status),
    };
    let key = tokio::select! {
        () = signals.kill.cancelled() => return Ok(Ended::Stopped),
        first = tokio::time::timeout(WELCOME_PATIENCE, incoming.message()) => first,
    };
    let first = match key {
        Ok(Ok(Some(first))) => first.message,
        Ok(Ok(None)) => return Ok(Ended::Broken("the scheduler closed the session".into())),
        Ok(Err(status)) => return refused_or_broken(&status),
        Err(_) => return Ok(Ended::Broken("the scheduler did not answer a registration".into())),
    };
    let granted = match first {
        Some(Down::Welcome(granted)) => granted,
        Some(Down::Fenced(fenced)) => return Ok(Ended::Fenced(fenced.reason)),
        _ => return Ok(Ended::Broken("the scheduler did not answer a registration with a welcome".into())),
    };
    // One that does not say it is of the first version.
    let theirs = granted.protocol_version.max(1);
    if !speaks_protocol(theirs) {
        let message = format!(
            "the scheduler speaks protocol version {theirs}, this executor {PROTOCOL_VERSION}; they may be at most 1 apart"
        );
        return Err(ExecutorError::Refused(message));
    }
    if !life.welcome(shared, TicketKey::from_bytes(&granted.ticket_key)?)? {
        return Ok(Ended::Fenced("the scheduler has another ticket key than before".into()));
    }
    let Some(services) = life.services() else {
        return Err(ExecutorError::Died("an incarnation is welcome but has no services".into()));
    };
    *welcome = true;
    signals.status.send_replace(ExecutorStatus { address: life.address.clone(), registered: true });
    tracing::info!(
        executor = %life.address, incarnation = life.address.incarnation.0, epoch = granted.scheduler_epoch,
        "registered with the scheduler"
    );

    let mut heartbeats = heartbeats(granted.heartbeat_millis);
    let mut outbox = life.outbox.subscribe();
    outbox.mark_changed();
    let mut sent = 0;
    let mut draining = false;
    loop {
        tokio::select! {
            () = signals.kill.cancelled() => return Ok(Ended::Stopped),
            received = incoming.message() => match received {
                Ok(Some(received)) => {
                    if let Some(Down::Fenced(fenced)) = received.message {
                        return Ok(Ended::Fenced(fenced.reason));
                    }
                    handle(received, life, services);
                }
                Ok(None) => return Ok(Ended::Broken("the scheduler closed the session".into())),
                Err(status) => return refused_or_broken(&status),
            },
            changed = outbox.changed() => {
                if changed.is_err() {
                    return Ok(Ended::Stopped);
                }
                for status in life.outbox.after(sent) {
                    fault::at("status");
                    sent = status.sequence;
                    if up.send(message(Up::Status(status))).is_err() {
                        return Ok(Ended::Broken("the session takes no more messages".into()));
                    }
                }
            }
            _ = heartbeats.tick() => {
                if up.send(message(Up::Heartbeat(heartbeat(shared, life)))).is_err() {
                    return Ok(Ended::Broken("the session takes no more messages".into()));
                }
            }
            () = signals.leave.cancelled(), if draining => {
                drop(up);
                // The scheduler ends its side when it has read ours to the end.
                while let Ok(Some(_)) = incoming.message().await {}
                return Ok(Ended::Stopped);
            }
            () = signals.drain.cancelled(), if !draining => {
                draining = true;
                if up.send(message(Up::Draining(proto::Draining {}))).is_err() {
                    return Ok(Ended::Broken("the session takes no more messages".into()));
                }
            }
        }
    }
}

fn message(message: Up) -> proto::ExecutorMessage {
    proto::ExecutorMessage { message: Some(message) }
}

fn register(shared: &Shared, life: &Life) -> proto::Register {
    proto::Register {
        protocol_version: PROTOCOL_VERSION,
        datafusion_version: datafusion::DATAFUSION_VERSION.to_owned(),
        hash_fingerprint: hash_fingerprint(),
        address: Some(life.address.to_proto()),
        slots: shared.slots,
        memory_bytes: shared.memory_bytes,
        held: life.services().map(|services| services.runner.held()).unwrap_or_default(),
        jobs: life.services().map(|services| services.runner.jobs()).unwrap_or_default(),
    }
}

fn heartbeat(shared: &Shared, life: &Life) -> proto::Heartbeat {
    let stats = life.store_stats();
    proto::Heartbeat {
        memory_used: shared.runtime.memory_pool.reserved() as u64,
        store_bytes: stats.memory_bytes as u64 + stats.disk_bytes,
        disk_used: stats.disk_bytes + life.spilled_bytes(),
        disk_limit: shared.disk_bytes,
    }
}

fn heartbeats(millis: u64) -> Interval {
    let period = Duration::from_millis(millis).max(LEAST_HEARTBEAT);
    // The first one at once: it says what there is.
    let mut heartbeats = tokio::time::interval(period);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeats
}

/// Carries out what the scheduler asks for. A message that makes no sense is skipped: it cannot be answered, and the
/// rest of the stream is as good as before.
fn handle(received: proto::SchedulerMessage, life: &Life, services: &Services) {
    let runner = &services.runner;
    let outcome = match received.message {
        Some(Down::Launch(launch)) => {
            runner.launch(launch);
            Ok(())
        }
        Some(Down::Cancel(cancel)) => {
            task_key_from_proto(&cancel.task.unwrap_or_default()).map(|key| runner.cancel(&key))
        }
        Some(Down::Commit(commit)) => {
            task_key_from_proto(&commit.task.unwrap_or_default()).map(|key| runner.commit(key))
        }
        Some(Down::FreeStage(free)) => {
            let free_stage = |job| runner.free_stage(&job, StageId(free.stage), free.stage_attempt);
            JobId::new(&free.job).map(free_stage).map_err(Into::into)
        }
        Some(Down::ReleaseStage(release)) => {
            JobId::new(&release.job).map(|job| runner.release_stage(&job, StageId(release.stage))).map_err(Into::into)
        }
        Some(Down::PeerLost(peer)) => {
            runner.peer_lost(Incarnation(peer.incarnation));
            Ok(())
        }
        Some(Down::FreeJob(free)) => JobId::new(&free.job).map(|job| runner.free_job(&job)).map_err(Into::into),
        Some(Down::Ack(ack)) => {
            fault::at("acknowledged");
            life.outbox.ack(ack.sequence);
            Ok(())
        }
        // A second welcome changes nothing; the caller looks for `Fenced`; `None` comes from a later version.
        Some(Down::Welcome(_) | Down::Fenced(_)) | None => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "skipped a message of the scheduler that makes no sense");
    }
}

/// Statuses that no repetition will change end the executor.
fn refused_or_broken(status: &Status) -> Result<Ended> {
    match status.code() {
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Err(ExecutorError::Refused(status.message().to_owned())),
        code => Ok(Ended::Broken(format!("{code:?}: {}", status.message()))),
    }
}
