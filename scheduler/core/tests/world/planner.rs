// SPDX-License-Identifier: Apache-2.0
//! A planner for random jobs: trees of stages, planned as they finish or all at once.

use std::collections::{BTreeSet, VecDeque};

use ballista_core::StageId;
use ballista_scheduler_core::{Slicing, StageSpec};

use super::{EXECUTORS, executor, scramble};

/// Number of the first stage of a second plan.
const SECOND: u32 = 100;

/// One job's stages and how far they are planned.
pub struct Dag {
    stages: Vec<StageSpec>,
    /// Plans a stage when its inputs are finished; otherwise all at once.
    adaptive: bool,
    pub small: bool,
    /// Plan effects not answered, with the stage whose end they tell of.
    pub due: VecDeque<Option<StageId>>,
    pub finished: BTreeSet<StageId>,
    planned: BTreeSet<StageId>,
}

impl Dag {
    pub fn new(seed: u64) -> Self {
        Self::numbered_from(0, seed)
    }

    /// Another plan for the same job, with other numbers. `false` if this is the other plan already.
    pub fn start_over(&mut self, seed: u64) -> bool {
        if self.is_second() {
            return false;
        }
        *self = Self::numbered_from(SECOND, seed);
        true
    }

    fn numbered_from(first: u32, seed: u64) -> Self {
        let mut draws = 0;
        let mut draw = |below: u64| {
            draws += 1;
            scramble(seed, draws) % below
        };
        let adaptive = draw(3) > 0;
        let count = 1 + draw(5) as u32;
        let mut unread = BTreeSet::new();
        let mut stages = Vec::new();
        for stage in 0..count {
            let is_final = stage + 1 == count;
            let reads = |_: &StageId| is_final || draw(2) == 0;
            let mut inputs: Vec<StageId> = unread.iter().copied().filter(reads).collect();
            unread.retain(|input| !inputs.contains(input));
            if !adaptive && stage > 0 && draw(3) == 0 {
                // A shared stage, whose consumers are all known from the start.
                inputs.push(StageId(first + draw(u64::from(stage)) as u32));
            }
            if is_final && inputs.len() > 1 && draw(4) == 0 {
                // A stage that only the planner reads.
                inputs.pop();
            }
            let partitions = draw(7) as u32;
            let slicing = match draw(3) {
                0 => Slicing::Whole { slots: draw(5) as u32 },
                _ => Slicing::PerSlot { max_partitions: draw(4) as u32 },
            };
            let row_limit = (draw(5) == 0).then(|| draw(4));
            let preferred = (0..draw(u64::from(partitions) + 1))
                .map(|_| (0..draw(3)).map(|_| (executor(draw(EXECUTORS + 1)), draw(50))).collect())
                .collect();
            let commits = is_final && draw(3) == 0;
            let stage = StageId(first + stage);
            unread.insert(stage);
            let is_kept = is_final && !commits && draw(4) == 0;
            let deterministic = row_limit.is_none() && draw(3) > 0;
            stages.push(StageSpec {
                stage,
                partitions,
                slicing,
                inputs,
                row_limit,
                is_final,
                commits,
                is_kept,
                deterministic,
                preferred,
            });
        }
        let small = draw(2) == 0;
        Self { stages, adaptive, small, due: VecDeque::new(), finished: BTreeSet::new(), planned: BTreeSet::new() }
    }

    /// The numbers of the stages that were planned, and whether that is all of them.
    pub fn planned(&self) -> (&BTreeSet<StageId>, bool) {
        (&self.planned, self.stages.iter().any(|spec| spec.is_final && self.planned.contains(&spec.stage)))
    }

    /// Whether this is the second plan of its job.
    pub fn is_second(&self) -> bool {
        self.stages.iter().any(|spec| spec.stage >= StageId(SECOND))
    }

    /// The scheduler died: what it was told and has not answered, it will be told again.
    pub fn forget_unanswered(&mut self) {
        let due = std::mem::take(&mut self.due);
        if !self.adaptive {
            // All is planned, and the answers say nothing.
            self.finished.extend(due.into_iter().flatten());
        }
    }

    /// Whether rows of a stage may come with the statuses of its tasks.
    pub fn delivers(&self, stage: StageId) -> bool {
        self.stages.iter().any(|spec| spec.stage == stage && spec.is_final && !spec.commits && !spec.is_kept)
    }

    /// An answer that is an error: it does not count if all is planned.
    pub fn plan_failed(&mut self) {
        self.finished.extend(self.due.pop_front().flatten());
    }

    /// What can be planned now, and whether that was the last of it.
    pub fn plan(&mut self) -> (Vec<StageSpec>, bool) {
        self.finished.extend(self.due.pop_front().flatten());
        let is_due = |spec: &&StageSpec| {
            // The final stage comes last: its plan is the last word of the planner.
            let needed = self.stages.iter().filter(|other| match spec.is_final {
                true => !other.is_final,
                false => spec.inputs.contains(&other.stage),
            });
            let ready = !self.adaptive || needed.map(|other| other.stage).all(|other| self.finished.contains(&other));
            ready && !self.planned.contains(&spec.stage)
        };
        let stages: Vec<StageSpec> = self.stages.iter().filter(is_due).cloned().collect();
        self.planned.extend(stages.iter().map(|spec| spec.stage));
        let complete = stages.iter().any(|spec| spec.is_final);
        (stages, complete)
    }
}
