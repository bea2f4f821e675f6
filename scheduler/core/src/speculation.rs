// SPDX-License-Identifier: Apache-2.0
//! Second attempts for tasks that take far longer than others of their stage. Whichever succeeds first counts.

use ballista_core::TaskId;

use crate::effect::Effect;
use crate::executors::{Life, Pool};
use crate::job::JobSeq;
use crate::placement::Seat;
use crate::stage::{Phase, Stage};
use crate::state::{Speculation, State};

impl State {
    /// Launches second attempts where slots are free that nobody waits for.
    pub(crate) fn speculate(&mut self, out: &mut Vec<Effect>) {
        let Some(speculation) = self.limits.speculation.clone() else { return };
        self.schedule(out);
        if self.is_restoring() {
            return;
        }
        if self.executors.free(Pool::Regular).total() == 0 {
            return;
        }
        let now = self.now.0;
        let mut late: Vec<(JobSeq, ballista_core::StageId, TaskId, Life)> = Vec::new();
        for (seq, job) in &self.jobs {
            for (id, stage) in &job.stages {
                let Some(limit) = late_after(stage, &speculation) else { continue };
                let is_there = |input| job.stages.get(input).is_some_and(Stage::is_complete);
                if !stage.inputs.iter().all(is_there) {
                    continue;
                }
                for ((task, _), running) in &stage.running {
                    let is_alone = stage.attempts(*task).count() == 1 && !running.streaming;
                    if is_alone && now.saturating_sub(running.since.0) > limit {
                        late.push((*seq, *id, *task, running.life));
                    }
                }
            }
        }
        for (seq, id, task, life) in late {
            let stage = self.jobs.get(&seq).and_then(|job| job.stages.get(&id));
            let trouble = stage.and_then(|stage| stage.tasks.get(&task)?.trouble.as_ref());
            let is_avoided = |other: &Life| trouble.is_some_and(|trouble| trouble.avoid.contains(other));
            let is_elsewhere = |(other, _): &(Life, u32)| *other != life && !is_avoided(other);
            let elsewhere = self.executors.free(Pool::Regular).iter().find(is_elsewhere);
            if let Some((other, free)) = elsewhere {
                let seat = Seat { life: other, pool: Pool::Regular, slots: free };
                self.launch_again(seq, id, task, seat, out);
            }
        }
    }
}

/// How many milliseconds a task of a stage may run before it is late; `None` if too few are done to tell.
fn late_after(stage: &Stage, speculation: &Speculation) -> Option<u64> {
    let waits = stage.phase != Phase::Open || stage.has_waiting() || !stage.delayed.is_empty();
    if waits || stage.running.is_empty() || stage.durations.is_empty() || stage.blocked_by > 0 {
        return None;
    }
    if f64::from(stage.partitions_done) < speculation.quantile * f64::from(stage.partitions) {
        return None;
    }
    let mut durations = stage.durations.clone();
    let middle = durations.len() / 2;
    let (_, median, _) = durations.select_nth_unstable(middle);
    Some(((f64::from(*median) * speculation.multiplier) as u64).max(speculation.min_millis))
}
