// SPDX-License-Identifier: Apache-2.0
//! The record of one job.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{ClassifiedError, JobId, StageId, TaskKey};

use crate::event::Instant64;
use crate::executors::Life;
use crate::stage::Stage;

/// A job by order of submission; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobSeq(pub(crate) u64);

/// A job that is running, or finished with results that the client may still read. **Invariants**: `ready` names the
/// open stages whose inputs are finished and that have waiting partitions; `slots` is what its tasks hold, cancelled
/// ones included.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// At least 1.
    pub(crate) weight: u32,
    pub(crate) small: bool,
    /// No more stages will be planned.
    pub(crate) complete: bool,
    /// Its one task ran out of memory, and it was planned again as many.
    pub(crate) planned_again: bool,
    /// Plan effects that were not answered yet.
    pub(crate) plans_due: u32,
    pub(crate) stages: BTreeMap<StageId, Stage>,
    pub(crate) final_stage: Option<StageId>,
    /// Stages that are not finished.
    pub(crate) open_stages: usize,
    pub(crate) ready: BTreeSet<StageId>,
    /// The first task was told to publish what it wrote: the job cannot be cancelled any more.
    pub(crate) publishing: bool,
    /// Tasks that are at it.
    pub(crate) committing: BTreeMap<TaskKey, Life>,
    /// While it was publishing.
    pub(crate) client_left: bool,
    /// Stages that were opened again in this step.
    pub(crate) reopened: Vec<StageId>,
    /// Its results were complete before some of them were lost.
    pub(crate) resumed: bool,
    /// Why it must end before the step does.
    pub(crate) doomed: Option<ClassifiedError>,
    pub(crate) slots: u64,
    /// Every executor that ever got a task of it.
    pub(crate) touched: BTreeSet<Life>,
    pub(crate) submitted: Instant64,
    /// When its results were complete.
    pub(crate) finished: Option<Instant64>,
}

impl Job {
    /// A job of which nothing is planned; its first plan is due.
    pub(crate) fn new(id: JobId, weight: u32, submitted: Instant64) -> Self {
        Self {
            id,
            weight: weight.max(1),
            small: false,
            complete: false,
            planned_again: false,
            plans_due: 1,
            stages: BTreeMap::new(),
            final_stage: None,
            open_stages: 0,
            ready: BTreeSet::new(),
            publishing: false,
            committing: BTreeMap::new(),
            client_left: false,
            reopened: Vec::new(),
            resumed: false,
            doomed: None,
            slots: 0,
            touched: BTreeSet::new(),
            submitted,
            finished: None,
        }
    }

    /// Whether nothing will ever happen to it again by itself: no plan is due and no stage is open.
    pub(crate) fn is_stuck(&self) -> bool {
        self.finished.is_none() && self.plans_due == 0 && self.open_stages == 0 && self.committing.is_empty()
    }

    /// Whether the client can read every partition of the result, even if the tasks have not reported their end.
    pub(crate) fn is_streaming_all(&self) -> bool {
        self.final_stage.and_then(|stage| self.stages.get(&stage)).is_some_and(Stage::is_streaming_all)
    }
}
