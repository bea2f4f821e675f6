// SPDX-License-Identifier: Apache-2.0
//! What must hold after every step, checked against the records by the tests.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::TaskKey;

use crate::executors::{Executor, Life, Pool};
use crate::fair::Waiting;
use crate::job::{Job, JobSeq};
use crate::stage::{Phase, Stage};
use crate::state::State;

/// Fails with the text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// What the jobs say is held where.
#[derive(Default)]
struct Claims {
    running: BTreeMap<(Life, TaskKey), JobSeq>,
    needed: BTreeMap<(Life, JobSeq), u32>,
}

impl State {
    /// Checks every invariant of the state; costs a walk over all of it.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut claims = Claims::default();
        for (seq, job) in &self.jobs {
            ensure!(self.by_id.get(&job.id) == Some(seq), "job {} is not found by its id", job.id);
            check_job(*seq, job, &mut claims)?;
            let waiting = Waiting { slots: job.slots, weight: job.weight, small: job.small };
            let expected = (!job.ready.is_empty()).then_some(waiting);
            ensure!(self.queue.get(*seq) == expected, "job {} waits as {:?}", job.id, self.queue.get(*seq));
        }
        ensure!(self.by_id.len() == self.jobs.len(), "an id names a job that is gone");
        let waiting = self.jobs.values().filter(|job| !job.ready.is_empty()).count();
        ensure!(self.queue.len() == waiting, "the queue holds {} jobs, {waiting} wait", self.queue.len());
        ensure!(self.ended.len() <= self.limits.ended_jobs, "too many summaries");

        let mut slots_by_job: BTreeMap<JobSeq, u64> = BTreeMap::new();
        let mut free = [0; 2];
        for (life, executor) in self.executors.iter() {
            self.check_executor(life, executor, &mut claims)?;
            for held in executor.running.values() {
                *slots_by_job.entry(held.job).or_default() += u64::from(held.slots);
            }
            for pool in Pool::ALL {
                free[pool as usize] += u64::from(executor.free(pool));
            }
        }
        ensure!(claims.running.is_empty(), "tasks run nowhere: {:?}", claims.running.keys());
        ensure!(claims.needed.is_empty(), "needed but not noted: {:?}", claims.needed);
        ensure!(self.executors.leases() == self.executors.iter().count(), "leases and executors differ");
        for (seq, job) in &self.jobs {
            let held = slots_by_job.get(seq).copied().unwrap_or(0);
            ensure!(job.slots == held, "job {} counts {} slots and holds {held}", job.id, job.slots);
        }
        for pool in Pool::ALL {
            let (indexed, counted) = (self.executors.free(pool).total(), free[pool as usize]);
            ensure!(indexed == counted, "{pool:?}: {indexed} slots indexed as free, {counted} are");
            ensure!(counted == 0 || !self.queue.is_waiting_for(pool), "{pool:?}: a slot is idle while a job waits");
        }
        Ok(())
    }

    fn check_executor(&self, life: Life, executor: &Executor, claims: &mut Claims) -> Result<(), String> {
        let id = &executor.id;
        ensure!(self.executors.current(id) == Some(life), "executor {id} is not found by its id");
        ensure!(!self.executors.is_fenced(id, executor.incarnation), "executor {id} is connected and fenced");
        for pool in Pool::ALL {
            let (used, total) = (executor.used[pool as usize], executor.total[pool as usize]);
            ensure!(used <= total, "executor {id} uses {used} of {total} {pool:?} slots");
            let of_pool = executor.running.values().filter(|held| held.pool == pool);
            let held: u32 = of_pool.map(|held| held.slots).sum();
            ensure!(used == held, "executor {id} counts {used} {pool:?} slots, tasks hold {held}");
        }
        for (task, held) in &executor.running {
            ensure!(held.slots > 0, "task {task} holds no slot");
            let claimed = claims.running.remove(&(life, task.clone()));
            let expected = (!held.cancelled).then_some(held.job);
            ensure!(claimed == expected, "task {task} on {id}: {held:?}, its job says {claimed:?}");
        }
        for (job, count) in &executor.needed {
            let claimed = claims.needed.remove(&(life, *job)).unwrap_or(0);
            ensure!(claimed == *count, "executor {id} notes {count} needs of {job:?}, there are {claimed}");
        }
        Ok(())
    }
}

fn check_job(seq: JobSeq, job: &Job, claims: &mut Claims) -> Result<(), String> {
    let mut ready = BTreeSet::new();
    let mut open = 0;
    for (id, stage) in &job.stages {
        check_stage(seq, job, stage, claims).map_err(|problem| format!("job {} stage {id}: {problem}", job.id))?;
        open += usize::from(stage.phase == Phase::Open);
        if stage.is_ready() {
            ready.insert(*id);
        }
    }
    ensure!(ready == job.ready, "job {} lists {:?} as ready, {ready:?} are", job.id, job.ready);
    ensure!(open == job.open_stages, "job {} counts {} open stages of {open}", job.id, job.open_stages);
    ensure!(!job.is_stuck(), "job {} waits for nothing", job.id);
    Ok(())
}

fn check_stage(seq: JobSeq, job: &Job, stage: &Stage, claims: &mut Claims) -> Result<(), String> {
    let mut partitions: Vec<u32> = stage.pending.iter().collect();
    for (task, running) in &stage.running {
        ensure!(running.partitions.is_sorted(), "task {task} has unsorted partitions");
        partitions.extend(&running.partitions);
        claims.running.insert((running.life, stage.key(&job.id, *task, running.attempt)), seq);
        *claims.needed.entry((running.life, seq)).or_default() += 1;
    }
    for (task, output) in &stage.outputs {
        ensure!(!stage.running.contains_key(task), "task {task} runs and succeeded");
        partitions.extend(&output.partitions);
        *claims.needed.entry((output.life, seq)).or_default() += 1;
    }
    let found = partitions.len();
    partitions.sort_unstable();
    partitions.dedup();
    ensure!(partitions.len() == found, "a partition is in two places");
    ensure!(partitions.last().is_none_or(|last| *last < stage.partitions), "a partition is out of range");
    if stage.phase == Phase::Open {
        let complete = found == stage.partitions as usize || stage.has_enough_rows();
        ensure!(complete, "{} of {} partitions are lost", stage.partitions as usize - found, stage.partitions);
        ensure!(!stage.is_done(), "it is done and still open");
        let is_open = |input| job.stages.get(input).is_some_and(|stage: &Stage| stage.phase == Phase::Open);
        let blocked_by = stage.inputs.iter().filter(|input| is_open(input)).count();
        ensure!(blocked_by == stage.blocked_by, "blocked by {}, should be {blocked_by}", stage.blocked_by);
        let kept = |input: &_| job.stages.get(input).is_some_and(|stage| stage.phase != Phase::Freed);
        ensure!(stage.inputs.iter().all(kept), "an input was freed too early");
    } else {
        ensure!(stage.pending.is_empty() && stage.running.is_empty(), "it is finished and still runs");
    }
    ensure!(stage.phase != Phase::Freed || stage.outputs.is_empty(), "it is freed and still has outputs");
    Ok(())
}
