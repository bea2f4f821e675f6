// SPDX-License-Identifier: Apache-2.0
//! Placement: which job gets which free slots on which executor.
//!
//! After every event, while a slot is free and a partition waits: the job with the smallest share gets a grant of
//! slots (see `fair`), its lowest ready stage is given that many of them, and its partitions go
//!
//! 1. to free executors that hold most of a partition's input, then to those that hold some,
//! 2. for the rest, spread so that free slots stay even (see `free`), partitions that nobody wants first.
//!
//! What one executor gets of a stage in one go becomes one task, or several of equal size if the stage limits a task's
//! partitions. Locality orders the choice and never leaves a slot idle.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{StageId, TaskId, TaskKey};

use crate::effect::Effect;
use crate::event::{Instant64, Slicing};
use crate::executors::{Executor, Executors, Held, Life, Pool};
use crate::job::JobSeq;
use crate::pending::Pending;
use crate::stage::Running;
use crate::state::State;

/// How often a task that has failed waits for an executor on which it has not.
const MAX_WAITS: u32 = 50;

/// Slots of one executor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) life: Life,
    pub(crate) pool: Pool,
    pub(crate) slots: u32,
}

/// A task about to be launched; its slots are taken.
struct Slice {
    life: Life,
    partitions: Vec<u32>,
    slots: u32,
}

impl State {
    /// Uses every free slot that a waiting partition may have.
    pub(crate) fn schedule(&mut self, out: &mut Vec<Effect>) {
        if self.is_restoring() {
            return;
        }
        for pool in Pool::ALL {
            while self.executors.free(pool).total() > 0 {
                let free = self.executors.free(pool).total();
                let Some((seq, grant)) = self.queue.next(pool, free) else { break };
                if !self.place(seq, pool, grant, out) {
                    debug_assert!(false, "a waiting job found nothing to place on free slots");
                    break;
                }
            }
        }
    }

    /// Launches tasks of one stage of a job on up to `grant` slots. Whether it launched any.
    fn place(&mut self, seq: JobSeq, pool: Pool, grant: u64, out: &mut Vec<Effect>) -> bool {
        let Some(job) = self.jobs.get_mut(&seq) else { return false };
        let Some(id) = job.ready.first().copied() else { return false };
        let Some(stage) = job.stages.get_mut(&id) else { return false };
        if let Some(task) = stage.retries.first().copied() {
            return self.place_again(seq, id, task, pool, out);
        }
        let slices = match stage.slicing {
            Slicing::Whole { slots } => whole(&mut self.executors, pool, &mut stage.pending, slots),
            Slicing::PerSlot { max_partitions } => {
                let shares = assign(&mut self.executors, pool, &mut stage.pending, grant);
                shares.into_iter().flat_map(|(life, taken)| slices(life, taken, max_partitions)).collect()
            }
        };
        if !stage.is_ready() {
            job.ready.remove(&id);
        }
        let launched = !slices.is_empty();
        for slice in slices {
            let stage = self.stage_mut(seq, id);
            let Some(task) = stage.map(|stage| stage.add_task(slice.partitions)) else { continue };
            self.launch(seq, id, task, Seat { life: slice.life, pool, slots: slice.slots }, out);
        }
        self.requeue(seq);
        launched
    }

    /// Where a task that has seen executors die would not get a fair trial. Its last attempt shares no executor with a task
    /// of another job that has seen some die, too: the one that is innocent must not be quarantined for the other.
    fn unfair(&self, seq: JobSeq, id: StageId, task: TaskId) -> BTreeSet<Life> {
        let deaths_of = |seq: JobSeq, stage: StageId, task: TaskId| {
            let stage = self.jobs.get(&seq).and_then(|job| job.stages.get(&stage));
            let trouble = stage.and_then(|stage| stage.tasks.get(&task)).and_then(|task| task.trouble.as_ref());
            trouble.map_or(0, |trouble| trouble.deaths)
        };
        let last = self.limits.max_deaths.saturating_sub(1).max(1);
        let deaths = deaths_of(seq, id, task);
        if deaths == 0 {
            return BTreeSet::new();
        }
        let clashes = |(key, held): (&TaskKey, &Held)| {
            let others = deaths_of(held.job, key.stage, key.task);
            held.job != seq && others > 0 && deaths.max(others) >= last
        };
        let unfair = self.executors.iter().filter(|(_, executor)| executor.running.iter().any(clashes));
        unfair.map(|(life, _)| life).collect()
    }

    /// Launches a task that has run before: where it did not fail, if such an executor has a free slot.
    fn place_again(&mut self, seq: JobSeq, id: StageId, task: TaskId, pool: Pool, out: &mut Vec<Effect>) -> bool {
        let unfair = self.unfair(seq, id, task);
        let Some(job) = self.jobs.get_mut(&seq) else { return false };
        let Some(stage) = job.stages.get_mut(&id) else { return false };
        let trouble = stage.tasks.get(&task).and_then(|task| task.trouble.as_ref());
        let is_avoided =
            |life: &Life| unfair.contains(life) || trouble.is_some_and(|trouble| trouble.avoid.contains(life));
        let free = || self.executors.free(pool).iter();
        let elsewhere = free().find(|(life, _)| !is_avoided(life));
        let fair = || free().find(|(life, _)| !unfair.contains(life));
        let Some((life, free)) = elsewhere.or_else(fair).or_else(|| free().next()) else { return false };
        stage.retries.remove(&task);
        let could_wait = || {
            let takes_it = |(life, executor): (Life, &Executor)| executor.takes_tasks() && !is_avoided(&life);
            self.executors.iter().any(takes_it) && trouble.is_some_and(|trouble| trouble.waits < MAX_WAITS)
        };
        // The other suspect ends, or its executor does.
        let is_unfair = unfair.contains(&life);
        if elsewhere.is_none() && (is_unfair || could_wait()) {
            // Where it failed it would most likely fail again, at once and as often as it may.
            stage.trouble(task).waits += u32::from(!is_unfair);
            stage.delayed.insert(task);
            let due = Instant64(self.now.0.saturating_add(self.limits.retry_millis));
            self.delayed.insert((due, seq, id, task));
            if !stage.is_ready() {
                job.ready.remove(&id);
            }
            self.requeue(seq);
            return true;
        }
        if !stage.is_ready() {
            job.ready.remove(&id);
        }
        self.launch_again(seq, id, task, Seat { life, pool, slots: free }, out);
        self.requeue(seq);
        true
    }

    /// Launches one more attempt of a task on an executor that has `free` slots.
    pub(crate) fn launch_again(&mut self, seq: JobSeq, id: StageId, task: TaskId, free: Seat, out: &mut Vec<Effect>) {
        let Some(stage) = self.jobs.get(&seq).and_then(|job| job.stages.get(&id)) else { return };
        let alone = stage.tasks.get(&task).and_then(|task| task.trouble.as_ref()).is_some_and(|trouble| trouble.alone);
        let wanted = match stage.slicing {
            _ if alone => free.slots,
            Slicing::Whole { slots } => slots,
            Slicing::PerSlot { .. } => slots(stage.partitions_of(task)),
        };
        let slots = wanted.clamp(1, free.slots.max(1));
        self.executors.take(free.life, free.pool, slots);
        self.launch(seq, id, task, Seat { slots, ..free }, out);
    }

    fn launch(&mut self, seq: JobSeq, id: StageId, task: TaskId, seat: Seat, out: &mut Vec<Effect>) {
        let Seat { life, pool, slots } = seat;
        let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) else {
            return;
        };
        let since = self.now;
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        let Some(record) = stage.tasks.get_mut(&task) else { return };
        let attempt = record.next_attempt;
        record.next_attempt += 1;
        let partitions = record.partitions.clone();
        let key = stage.key(&job.id, task, attempt);
        stage.running.insert((task, attempt), Running { life, since, streaming: false, read: false });
        stage.touched.insert(life);
        job.touched.insert(life);
        job.slots += u64::from(slots);
        self.executors.hold(life, key.clone(), Held { job: seq, pool, slots, cancelled: false });
        out.push(Effect::Launch { task: key, executor, incarnation, partitions, slots });
    }
}

/// Takes slots and partitions for up to `grant` partitions, per executor.
fn assign(executors: &mut Executors, pool: Pool, pending: &mut Pending, grant: u64) -> BTreeMap<Life, Vec<u32>> {
    let mut shares: BTreeMap<Life, Vec<u32>> = BTreeMap::new();
    let mut left = grant.min(pending.len() as u64).min(executors.free(pool).total());
    for primary in [true, false] {
        if left == 0 || !pending.has_local() {
            break;
        }
        let free: Vec<_> = executors.free(pool).iter().collect();
        for (life, free) in free {
            let wanted = usize::try_from(left.min(u64::from(free))).unwrap_or(usize::MAX);
            let taken = pending.take_local(life, wanted, primary);
            if !taken.is_empty() {
                executors.take(life, pool, slots(&taken));
                left -= taken.len() as u64;
                shares.entry(life).or_default().extend(taken);
            }
        }
    }
    for (life, wanted) in executors.free(pool).spread(left) {
        let taken = pending.take_any(wanted as usize);
        executors.take(life, pool, slots(&taken));
        shares.entry(life).or_default().extend(taken);
    }
    shares
}

/// Takes one task with all partitions: where most slots of those asked for are free; of equals, where most input is.
fn whole(executors: &mut Executors, pool: Pool, pending: &mut Pending, asked: u32) -> Vec<Slice> {
    let asked = asked.max(1);
    let Some((freest, free)) = executors.free(pool).iter().next() else { return Vec::new() };
    let slots = asked.min(free);
    let has_slots = |life: &Life| executors.get(*life).is_some_and(|executor| executor.free(pool) >= slots);
    let holders = pending.bytes_by_holder().into_iter().filter(|(life, _)| has_slots(life));
    let closest = holders.max_by_key(|(life, bytes)| (*bytes, std::cmp::Reverse(*life)));
    let life = closest.map_or(freest, |(life, _)| life);
    executors.take(life, pool, slots);
    let mut partitions = pending.take_any(usize::MAX);
    partitions.sort_unstable();
    vec![Slice { life, partitions, slots }]
}

/// Cuts what one executor gets into tasks of at most `max_partitions`, as even as possible.
fn slices(life: Life, mut partitions: Vec<u32>, max_partitions: u32) -> Vec<Slice> {
    partitions.sort_unstable();
    let tasks = partitions.len().div_ceil(max_partitions.max(1) as usize).max(1);
    let size = partitions.len().div_ceil(tasks).max(1);
    let slice = |chunk: &[u32]| Slice { life, partitions: chunk.to_vec(), slots: slots(chunk) };
    partitions.chunks(size).map(slice).collect()
}

fn slots(partitions: &[u32]) -> u32 {
    u32::try_from(partitions.len()).unwrap_or(u32::MAX)
}
