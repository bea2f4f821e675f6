// SPDX-License-Identifier: Apache-2.0
//! What must hold after every step, checked against the records by the tests.

use std::collections::{BTreeMap, BTreeSet};

use ballista_core::{StageId, TaskKey};

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
            check_job(*seq, job, self.is_restoring(), &mut claims)?;
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
            let may_launch = counted > 0 && !self.is_restoring();
            ensure!(!may_launch || !self.queue.is_waiting_for(pool), "{pool:?}: a slot is idle while a job waits");
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

fn check_job(seq: JobSeq, job: &Job, restoring: bool, claims: &mut Claims) -> Result<(), String> {
    let mut ready = BTreeSet::new();
    let mut open = 0;
    for (id, stage) in &job.stages {
        check_stage(seq, job, stage, restoring, claims)
            .map_err(|problem| format!("job {} stage {id}: {problem}", job.id))?;
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

fn check_stage(seq: JobSeq, job: &Job, stage: &Stage, restoring: bool, claims: &mut Claims) -> Result<(), String> {
    let mut partitions: Vec<u32> = stage.pending.iter().chain(stage.skipped.iter()).collect();
    for (task, record) in &stage.tasks {
        ensure!(record.partitions.is_sorted(), "task {task} has unsorted partitions");
        partitions.extend(&record.partitions);
        let attempts = stage.attempts(*task).count();
        let places = [&stage.retries, &stage.delayed, &stage.lost].iter().filter(|set| set.contains(task)).count();
        let places = places + usize::from(attempts > 0) + usize::from(stage.outputs.contains_key(task));
        ensure!(places == 1 && attempts <= 2, "task {task} is in {places} places and runs {attempts} times");
    }
    let known = |task| stage.tasks.contains_key(task);
    let sets = stage.retries.iter().chain(&stage.delayed).chain(&stage.lost).chain(stage.outputs.keys());
    ensure!(sets.chain(stage.running.keys().map(|(task, _)| task)).all(known), "an unknown task is somewhere");
    for ((task, attempt), running) in &stage.running {
        claims.running.insert((running.life, stage.key(&job.id, *task, *attempt)), seq);
        *claims.needed.entry((running.life, seq)).or_default() += 1;
    }
    for output in stage.outputs.values().filter(|output| !output.delivered && !stage.released) {
        *claims.needed.entry((output.life, seq)).or_default() += 1;
    }
    let found = partitions.len();
    partitions.sort_unstable();
    partitions.dedup();
    ensure!(partitions.len() == found, "a partition is in two places");
    ensure!(
        found == stage.partitions as usize,
        "{} of {} partitions are lost",
        stage.partitions as usize - found,
        stage.partitions
    );
    ensure!(partitions.last().is_none_or(|last| *last < stage.partitions), "a partition is out of range");
    let done: usize = stage.outputs.keys().map(|task| stage.partitions_of(*task).len()).sum();
    ensure!(done == stage.partitions_done as usize, "{done} partitions are done, not {}", stage.partitions_done);
    let is_open = |id: &StageId| job.stages.get(id).is_some_and(|stage: &Stage| stage.phase == Phase::Open);
    if stage.phase == Phase::Open {
        ensure!(restoring || stage.wants_nothing_back(), "something is lost or skipped, and it is not wanted");
        ensure!(!stage.is_done(), "it is done and still open");
        let blocked_by = stage.inputs.iter().filter(|input| is_open(input)).count();
        ensure!(blocked_by == stage.blocked_by, "blocked by {}, should be {blocked_by}", stage.blocked_by);
        let waits = stage.has_waiting() || !stage.delayed.is_empty();
        let is_there = |input: &StageId| {
            job.stages
                .get(input)
                .is_some_and(|input| input.phase == Phase::Open || (input.is_complete() && !input.released))
        };
        ensure!(!waits || restoring || stage.inputs.iter().all(is_there), "an input is lost and nobody computes it");
    } else {
        let waits = stage.has_waiting() || !stage.delayed.is_empty();
        ensure!(!waits && stage.running.is_empty(), "it is finished and still runs");
    }
    if job.finished.is_none() && !job.publishing {
        let open = stage.consumers.iter().filter(|consumer| is_open(consumer)).count();
        ensure!(open == stage.open_consumers, "{open} consumers are open, not {}", stage.open_consumers);
    }
    Ok(())
}
