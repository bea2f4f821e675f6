// SPDX-License-Identifier: Apache-2.0
//! What tasks wrote to object stores and nobody can see yet.
//!
//! ```text
//!   task runs ─begin─▶ it succeeds ─keep─▶ staged ─commit─▶ published
//!                      it fails                │                   │
//!                        └──────── discarded ◀─┴─ its job is freed ┘ forgotten
//! ```
//!
//! A task may be told to commit more than once, because nobody knows what a broken connection has swallowed: it publishes
//! once, and gives the same answer each time.
//!
//! **Failure modes.** A file that cannot be published fails the commit of its task with the store's error; the other
//! files are published all the same. One that cannot be discarded is logged and left behind, invisible.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::{ClassifiedError, ErrorClass, JobId, TaskKey, fault};
use ballista_exchange::classify;
use ballista_plan::write::staging::{Staged, TaskWrites};
use datafusion::error::DataFusionError;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Files of one task that are published at the same time.
const AT_ONCE: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Writes {
    tasks: Mutex<HashMap<TaskKey, Phase>>,
    runtime: Handle,
}

#[derive(Debug)]
enum Phase {
    Running(Arc<TaskWrites>),
    Staged(Vec<Staged>),
    Publishing,
    /// And what came of it.
    Over(Result<(), ClassifiedError>),
}

impl Writes {
    /// Discards on `runtime`.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { tasks: Mutex::default(), runtime }
    }

    /// A task starts that writes.
    pub(crate) fn begin(&self, task: &TaskKey, writes: Arc<TaskWrites>) {
        self.tasks.lock().insert(task.clone(), Phase::Running(writes));
    }

    /// A task has ended, whether it writes or not: keeps what it wrote if it succeeded.
    pub(crate) fn end(&self, task: &TaskKey, succeeded: bool) {
        let mut tasks = self.tasks.lock();
        let Some(Phase::Running(writes)) = tasks.get(task) else { return };
        let staged = writes.take();
        if succeeded {
            fault::at("staged");
            if fault::at("without-commit") {
                self.runtime.spawn(publish(staged));
                tasks.insert(task.clone(), Phase::Over(Ok(())));
                return;
            }
            tasks.insert(task.clone(), Phase::Staged(staged));
        } else {
            tasks.remove(task);
            self.discard(staged);
        }
    }

    /// Makes visible what a task wrote. `None` if somebody is at it, who will say what comes of it.
    pub(crate) async fn commit(&self, task: &TaskKey) -> Option<Result<(), ClassifiedError>> {
        let staged = {
            let mut tasks = self.tasks.lock();
            match tasks.get_mut(task) {
                Some(phase @ Phase::Staged(_)) => match std::mem::replace(phase, Phase::Publishing) {
                    Phase::Staged(staged) => staged,
                    Phase::Running(_) | Phase::Publishing | Phase::Over(_) => return None,
                },
                Some(Phase::Publishing) => return None,
                Some(Phase::Over(outcome)) => return Some(outcome.clone()),
                Some(Phase::Running(_)) | None => {
                    let message = format!("task {task} has nothing to publish on this executor");
                    return Some(Err(ClassifiedError::new(ErrorClass::Deterministic, message)));
                }
            }
        };
        fault::at("commit");
        let outcome = publish(staged).await;
        fault::at("published");
        if let Some(phase) = self.tasks.lock().get_mut(task) {
            *phase = Phase::Over(outcome.clone());
        }
        Some(outcome)
    }

    /// Throws away what a task wrote that does not count.
    pub(crate) fn free_task(&self, task: &TaskKey) {
        let mut tasks = self.tasks.lock();
        if !matches!(tasks.get(task), Some(Phase::Staged(_))) {
            return;
        }
        if let Some(Phase::Staged(staged)) = tasks.remove(task) {
            self.discard(staged);
        }
    }

    /// Throws away what the tasks of a job wrote and was not published.
    pub(crate) fn free_job(&self, job: &JobId) {
        let mut tasks = self.tasks.lock();
        // Running ones end through `end`, which finds their job gone or discards what it finds.
        let is_over = |phase: &Phase| matches!(phase, Phase::Staged(_) | Phase::Publishing | Phase::Over(_));
        let freed = tasks.extract_if(|task, phase| task.job == *job && is_over(phase));
        for (_, phase) in freed {
            if let Phase::Staged(staged) = phase {
                self.discard(staged);
            }
        }
    }

    /// Whether nothing waits to be published.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.lock().values().all(|phase| matches!(phase, Phase::Over(_)))
    }

    fn discard(&self, staged: Vec<Staged>) {
        if staged.is_empty() {
            return;
        }
        self.runtime.spawn(async move {
            for file in staged {
                let path = file.path().clone();
                if let Err(error) = file.discard().await {
                    tracing::warn!(%path, %error, "an uncompleted upload stays behind");
                }
            }
        });
    }
}

/// Makes files visible, several at a time. The first error counts, after all were tried.
async fn publish(staged: Vec<Staged>) -> Result<(), ClassifiedError> {
    let publish = |file: Staged| async {
        let path = file.path().clone();
        file.publish().await.map_err(|error| DataFusionError::from(error).context(format!("publishing {path}")))
    };
    let outcomes: Vec<_> = futures::stream::iter(staged).map(publish).buffered(AT_ONCE).collect().await;
    outcomes.into_iter().collect::<datafusion::error::Result<()>>().map_err(|error| classify(&error))
}
