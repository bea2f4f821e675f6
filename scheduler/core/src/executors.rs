// SPDX-License-Identifier: Apache-2.0
//! The connected executors: their slots, what they run, and which jobs need them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ballista_core::{ExecutorId, Incarnation, TaskKey};

use crate::event::Instant64;
use crate::free::FreeIndex;
use crate::job::JobSeq;
use crate::state::Limits;

/// One incarnation of one executor while it is connected; never used again. Whoever keeps a `Life` need not ask for
/// incarnations: if it is found, it is the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(pub(crate) u64);

/// The two kinds of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// For every job.
    Regular = 0,
    /// On top, for small jobs when no regular slot is free anywhere.
    Reserve = 1,
}

impl Pool {
    /// Both, in the order of use.
    pub(crate) const ALL: [Self; 2] = [Self::Regular, Self::Reserve];
}

/// What a task holds on its executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// The task's job, which may be over if the task is cancelled.
    pub(crate) job: JobSeq,
    /// Where its slots come from.
    pub(crate) pool: Pool,
    /// How many.
    pub(crate) slots: u32,
    /// Told to stop, not yet confirmed.
    pub(crate) cancelled: bool,
}

/// One connected executor. **Invariant**: for each pool `used` is the sum over `running`, and at most `total`.
#[derive(Debug)]
pub(crate) struct Executor {
    /// Its name.
    pub(crate) id: ExecutorId,
    /// Its life, as it calls it itself.
    pub(crate) incarnation: Incarnation,
    /// Takes no new tasks.
    pub(crate) draining: bool,
    /// Takes no new tasks, because nobody could tell it of them.
    pub(crate) away: bool,
    /// Takes no new tasks until then, because too much failed here.
    pub(crate) probation: Option<Instant64>,
    /// When something failed here, latest last.
    pub(crate) strikes: VecDeque<Instant64>,
    /// When it was last heard of.
    pub(crate) last_seen: Instant64,
    /// Slots by pool.
    pub(crate) total: [u32; 2],
    /// Held slots by pool.
    pub(crate) used: [u32; 2],
    /// Every task that holds slots here, cancelled ones included.
    pub(crate) running: BTreeMap<TaskKey, Held>,
    /// For each job the number of its running tasks and unconsumed outputs here: whom the loss of this executor costs.
    pub(crate) needed: BTreeMap<JobSeq, u32>,
    /// Free slots by pool as the indexes have them.
    listed: [u32; 2],
}

impl Executor {
    /// Slots that a new task may take.
    pub(crate) fn free(&self, pool: Pool) -> u32 {
        if self.takes_tasks() { self.total[pool as usize] - self.used[pool as usize] } else { 0 }
    }

    /// Whether new tasks may be launched here.
    pub(crate) fn takes_tasks(&self) -> bool {
        !self.draining && !self.away && self.probation.is_none()
    }

    /// How it is addressed.
    pub(crate) fn address(&self) -> (ExecutorId, Incarnation) {
        (self.id.clone(), self.incarnation)
    }
}

/// All connected executors and the indexes over them. **Invariants**: an executor id has one life at most; each index
/// holds what the records say; a fenced incarnation never becomes a life again.
#[derive(Debug, Default)]
pub(crate) struct Executors {
    lives: BTreeMap<Life, Executor>,
    by_id: BTreeMap<ExecutorId, Life>,
    free: [FreeIndex; 2],
    leases: BTreeSet<(Instant64, Life)>,
    probations: BTreeSet<(Instant64, Life)>,
    fenced: BTreeSet<(ExecutorId, Incarnation)>,
    fenced_order: VecDeque<(ExecutorId, Incarnation)>,
    next: u64,
}

impl Executors {
    /// Connects a new incarnation; the caller has checked that the id is not connected and the incarnation not fenced.
    pub(crate) fn join(&mut self, id: ExecutorId, incarnation: Incarnation, total: [u32; 2], now: Instant64) -> Life {
        let life = Life(self.next);
        self.next += 1;
        let executor = Executor {
            id: id.clone(),
            incarnation,
            draining: false,
            away: false,
            probation: None,
            strikes: VecDeque::new(),
            last_seen: now,
            total,
            used: [0; 2],
            running: BTreeMap::new(),
            needed: BTreeMap::new(),
            listed: [0; 2],
        };
        self.by_id.insert(id, life);
        self.leases.insert((now, life));
        self.lives.insert(life, executor);
        self.relist(life);
        life
    }

    /// Disconnects a life for good, remembering the last `remembered` ones as fenced.
    pub(crate) fn remove(&mut self, life: Life, remembered: usize) -> Option<Executor> {
        let executor = self.lives.remove(&life)?;
        self.by_id.remove(&executor.id);
        self.leases.remove(&(executor.last_seen, life));
        self.probations.retain(|(_, other)| *other != life);
        for pool in Pool::ALL {
            self.free[pool as usize].set(life, executor.listed[pool as usize], 0);
        }
        self.fenced.insert(executor.address());
        self.fenced_order.push_back(executor.address());
        while self.fenced_order.len() > remembered {
            if let Some(oldest) = self.fenced_order.pop_front() {
                self.fenced.remove(&oldest);
            }
        }
        Some(executor)
    }

    /// Whether this incarnation was connected once and is over.
    pub(crate) fn is_fenced(&self, id: &ExecutorId, incarnation: Incarnation) -> bool {
        self.fenced.contains(&(id.clone(), incarnation))
    }

    /// The connected life of an executor, whichever incarnation it is.
    pub(crate) fn current(&self, id: &ExecutorId) -> Option<Life> {
        self.by_id.get(id).copied()
    }

    /// The life of exactly this incarnation, if connected.
    pub(crate) fn find(&self, id: &ExecutorId, incarnation: Incarnation) -> Option<Life> {
        let life = self.current(id)?;
        (self.lives.get(&life)?.incarnation == incarnation).then_some(life)
    }

    /// A connected executor.
    pub(crate) fn get(&self, life: Life) -> Option<&Executor> {
        self.lives.get(&life)
    }

    /// All connected executors in the order of joining.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Life, &Executor)> {
        self.lives.iter().map(|(life, executor)| (*life, executor))
    }

    /// How to address those of `lives` that are connected.
    pub(crate) fn addresses(&self, lives: &BTreeSet<Life>) -> Vec<(ExecutorId, Incarnation)> {
        lives.iter().filter_map(|life| self.lives.get(life)).map(Executor::address).collect()
    }

    /// Executors with free slots of a pool.
    pub(crate) fn free(&self, pool: Pool) -> &FreeIndex {
        &self.free[pool as usize]
    }

    /// Renews a lease.
    pub(crate) fn renew(&mut self, life: Life, now: Instant64) {
        let Some(executor) = self.lives.get_mut(&life) else { return };
        if now > executor.last_seen {
            self.leases.remove(&(executor.last_seen, life));
            executor.last_seen = now;
            self.leases.insert((now, life));
        }
    }

    /// Lives last heard of at `deadline` or before.
    pub(crate) fn silent_since(&self, deadline: Instant64) -> Vec<Life> {
        self.leases.iter().take_while(|(seen, _)| *seen <= deadline).map(|(_, life)| *life).collect()
    }

    /// How many leases are indexed.
    pub(crate) fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Stops offering an executor's slots.
    pub(crate) fn drain(&mut self, life: Life) {
        if let Some(executor) = self.lives.get_mut(&life) {
            executor.draining = true;
            self.relist(life);
        }
    }

    /// Stops or starts offering the slots of an executor whose connection broke or is back.
    pub(crate) fn set_away(&mut self, life: Life, away: bool) {
        if let Some(executor) = self.lives.get_mut(&life) {
            executor.away = away;
            self.relist(life);
        }
    }

    /// Takes free slots; a task that holds them follows with [`Self::hold`] in the same step.
    pub(crate) fn take(&mut self, life: Life, pool: Pool, slots: u32) {
        if let Some(executor) = self.lives.get_mut(&life) {
            executor.used[pool as usize] += slots;
            self.relist(life);
        }
    }

    /// Gives taken slots to a task, which its job needs from now on.
    pub(crate) fn hold(&mut self, life: Life, task: TaskKey, held: Held) {
        if let Some(executor) = self.lives.get_mut(&life) {
            executor.running.insert(task, held);
            *executor.needed.entry(held.job).or_insert(0) += 1;
        }
    }

    /// Frees the slots of a task that ended. `None` if it holds none: a duplicate, late or unknown status.
    pub(crate) fn release(&mut self, life: Life, task: &TaskKey) -> Option<Held> {
        let executor = self.lives.get_mut(&life)?;
        let held = executor.running.remove(task)?;
        executor.used[held.pool as usize] -= held.slots;
        self.relist(life);
        Some(held)
    }

    /// Marks a running task as cancelled, which its job no longer needs. Its slots stay held. The address to send the
    /// cancellation to, or `None` if the executor is gone or the task ended.
    pub(crate) fn cancel(&mut self, life: Life, task: &TaskKey) -> Option<(ExecutorId, Incarnation)> {
        let executor = self.lives.get_mut(&life)?;
        let held = executor.running.get_mut(task).filter(|held| !held.cancelled)?;
        held.cancelled = true;
        let job = held.job;
        let address = executor.address();
        self.unneed(life, job);
        Some(address)
    }

    /// A job needs one thing more of an executor: an output is read again.
    pub(crate) fn need(&mut self, life: Life, job: JobSeq) {
        if let Some(executor) = self.lives.get_mut(&life) {
            *executor.needed.entry(job).or_insert(0) += 1;
        }
    }

    /// Notes that something failed on an executor through no fault of a query. Too many such failures in a short time put
    /// it on probation, unless it is the only one that takes tasks.
    pub(crate) fn strike(&mut self, life: Life, now: Instant64, limits: &Limits) {
        let others = self.lives.iter().any(|(other, executor)| *other != life && executor.takes_tasks());
        let Some(executor) = self.lives.get_mut(&life) else { return };
        let is_old = |strike: &Instant64| strike.0.saturating_add(limits.strike_window_millis) < now.0;
        while executor.strikes.front().is_some_and(is_old) {
            executor.strikes.pop_front();
        }
        executor.strikes.push_back(now);
        if others && executor.takes_tasks() && executor.strikes.len() >= limits.max_strikes {
            executor.strikes.clear();
            let end = Instant64(now.0.saturating_add(limits.probation_millis));
            executor.probation = Some(end);
            self.probations.insert((end, life));
            self.relist(life);
        }
    }

    /// Ends the probations that are over, and all of them if nobody else takes tasks.
    pub(crate) fn end_probations(&mut self, now: Instant64) {
        let nobody = !self.lives.values().any(Executor::takes_tasks);
        while let Some((end, life)) = self.probations.first().copied() {
            if end > now && !nobody {
                break;
            }
            self.probations.pop_first();
            if let Some(executor) = self.lives.get_mut(&life) {
                executor.probation = None;
                self.relist(life);
            }
        }
    }

    /// A job needs one thing less of an executor: an output was consumed or a task cancelled.
    pub(crate) fn unneed(&mut self, life: Life, job: JobSeq) {
        let Some(executor) = self.lives.get_mut(&life) else { return };
        if let Some(count) = executor.needed.get_mut(&job) {
            *count -= 1;
            if *count == 0 {
                executor.needed.remove(&job);
            }
        }
    }

    /// A job that ended needs nothing more of an executor.
    pub(crate) fn forget(&mut self, life: Life, job: JobSeq) {
        if let Some(executor) = self.lives.get_mut(&life) {
            executor.needed.remove(&job);
        }
    }

    /// Brings the indexes of free slots up to date with one executor.
    fn relist(&mut self, life: Life) {
        let Some(executor) = self.lives.get_mut(&life) else { return };
        for pool in Pool::ALL {
            let free = executor.free(pool);
            self.free[pool as usize].set(life, executor.listed[pool as usize], free);
            executor.listed[pool as usize] = free;
        }
    }
}
