// SPDX-License-Identifier: Apache-2.0
//! An executor's session: registration first, then heartbeats and statuses in, launches and cancellations out.
//!
//! When either direction ends, or a message makes no sense, the session is over; see `shell::presence` for what that means
//! for the executor.

use std::collections::HashMap;
use std::time::Duration;

use ballista_core::JobId;
use ballista_exchange::ExecutorAddress;
use ballista_exchange::wire::{failure_from_proto, task_key_from_proto};
use ballista_proto as proto;
use ballista_scheduler_core::{HeldState, HeldTask, OutputStats};
use proto::executor_message::Message as FromExecutor;
use proto::task_status::Status as Outcome;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::check_versions;
use crate::error::{Result, SchedulerError};
use crate::shell::executors::{Life, Session, SessionEnd, SessionId};
use crate::shell::message::{ExecutorMessage, Message, Registration, ShellHandle, TaskStatus};
use crate::shell::outgoing::Outgoing;

/// How long a connection may stay without saying who it is.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(10);

/// Registers an executor and starts listening to it.
pub(super) async fn open(
    shell: &ShellHandle,
    mut incoming: Streaming<proto::ExecutorMessage>,
) -> Result<ReceiverStream<Outgoing>> {
    let first = tokio::time::timeout(REGISTRATION_LIMIT, incoming.message()).await;
    let Ok(Ok(Some(proto::ExecutorMessage { message: Some(FromExecutor::Register(register)) }))) = first else {
        return Err(SchedulerError::Protocol("a session starts with a registration".to_owned()));
    };
    let registration = registration(register)?;
    let life = (registration.address.executor.clone(), registration.address.incarnation);
    let (session, SessionEnd { messages, given_up }) = Session::new();
    let id = session.id;
    let registration = Box::new(registration);
    shell.ask(|reply| Message::Register { registration, session, reply }).await??;
    tokio::spawn(listen(shell.clone(), life, id, incoming, given_up));
    Ok(ReceiverStream::new(messages))
}

fn registration(register: proto::Register) -> Result<Registration> {
    let address = register.address.ok_or_else(|| SchedulerError::Protocol("executor without an address".to_owned()))?;
    let address = ExecutorAddress::from_proto(&address)?;
    check_versions(&format!("executor {address}"), register.protocol_version, &register.datafusion_version)?;
    let (mut held, mut outputs) = (Vec::with_capacity(register.held.len()), HashMap::new());
    for task in register.held {
        let missing = || SchedulerError::Protocol("a held task without a key".to_owned());
        let key = task_key_from_proto(&task.task.ok_or_else(missing)?)?;
        let state = match task.finished {
            None => HeldState::Running { streaming: task.streaming },
            Some(output) => {
                let stats = OutputStats { rows: output.rows, bytes: output.bytes };
                let state = HeldState::Finished { output: stats, delivered: output.is_inline };
                outputs.insert(key.clone(), output);
                state
            }
        };
        held.push(HeldTask { task: key, partitions: task.partitions, slots: task.slots, state });
    }
    let jobs = register.jobs.into_iter().map(JobId::new).collect::<Result<_, _>>()?;
    Ok(Registration {
        held,
        jobs,
        outputs,
        address,
        fingerprint: register.hash_fingerprint,
        slots: register.slots,
        memory_bytes: register.memory_bytes,
    })
}

/// Passes on what an executor says until it stops, or the shell wants no more of it.
async fn listen(
    shell: ShellHandle,
    life: Life,
    session: SessionId,
    mut incoming: Streaming<proto::ExecutorMessage>,
    mut given_up: oneshot::Receiver<()>,
) {
    let reason = loop {
        let next = tokio::select! {
            _ = &mut given_up => return,
            next = incoming.message() => next,
        };
        let message = match next {
            Ok(Some(message)) => message,
            Ok(None) => break "it closed its session".to_owned(),
            Err(status) => break format!("its session broke: {}", status.message()),
        };
        match executor_message(message) {
            Ok(message) => {
                if shell.send(Message::Executor { life: life.clone(), message }).await.is_err() {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    // A scheduler that stops has given up all sessions.
    let _ = shell.send(Message::SessionClosed { life, session, reason }).await;
}

fn executor_message(message: proto::ExecutorMessage) -> Result<ExecutorMessage> {
    let missing = |what: &str| SchedulerError::Protocol(format!("{what} is missing, or of a later version"));
    match message.message.ok_or_else(|| missing("an executor's message"))? {
        FromExecutor::Register(_) => Err(SchedulerError::Protocol("registered twice in one session".to_owned())),
        FromExecutor::Heartbeat(heartbeat) => Ok(ExecutorMessage::Heartbeat(heartbeat)),
        FromExecutor::Draining(_) => Ok(ExecutorMessage::Draining),
        FromExecutor::Status(status) => {
            let task = task_key_from_proto(&status.task.ok_or_else(|| missing("the task of a status"))?)?;
            let outcome = match status.status.ok_or_else(|| missing("the status of a task"))? {
                Outcome::Finished(output) => TaskStatus::Finished(Box::new(output)),
                Outcome::Streaming(_) => TaskStatus::Streaming,
                Outcome::Committed(_) => TaskStatus::Committed,
                Outcome::CommitFailed(failure) => TaskStatus::CommitFailed(failure_from_proto(failure)),
                Outcome::Failed(failure) => TaskStatus::Failed(failure_from_proto(failure)),
            };
            Ok(ExecutorMessage::Status { sequence: status.sequence, task, status: outcome })
        }
    }
}
