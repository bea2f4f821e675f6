// SPDX-License-Identifier: Apache-2.0
//! 1,000 executors of 16 slots: how many task transitions a second, how much memory the state takes for each task, and
//! that it grows with tasks and partitions, never with producers × consumers. Prints the figures:
//! `cargo test --release --test scale -- --nocapture --test-threads 1`.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use ballista_core::{ExecutorId, Incarnation, JobId, StageId};
use ballista_scheduler_core::{
    Effect, Event, Footprint, Instant64, JobState, Limits, OutputStats, Slicing, StageSpec, State,
};

const EXECUTORS: u32 = 1_000;
const SLOTS: u32 = 16;

/// More bytes than the state may take for a task at any time.
const MAX_BYTES: u64 = 1_000;

/// The allocator of the system, with a count of the bytes that each thread has taken and not given back.
struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Adds to the count of this thread.
fn count(bytes: usize, sign: i64) {
    // A thread that ends gives things back after its count is gone.
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * bytes as i64));
}

// SAFETY: every call goes to `System` unchanged, whose contract is that of the trait; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps to the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps to the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A stage of one-partition tasks; `local` says how many holders of input each partition has.
fn stage(stage: u32, partitions: u32, inputs: Vec<StageId>, is_final: bool, local: u32) -> StageSpec {
    let holder = |partition: u32, nth: u32| {
        let number = (partition * 7 + nth * 13) % EXECUTORS;
        (ExecutorId::new(format!("e{number}")).unwrap(), u64::from(100 - nth))
    };
    let preferred = (0..partitions).filter(|_| local > 0).map(|p| (0..local).map(|nth| holder(p, nth)).collect());
    StageSpec {
        stage: StageId(stage),
        partitions,
        slicing: Slicing::PerSlot { max_partitions: 1 },
        inputs,
        row_limit: None,
        is_final,
        commits: false,
        is_kept: false,
        deterministic: true,
        preferred: preferred.collect(),
    }
}

#[derive(Default)]
struct Run {
    transitions: u64,
    seconds: f64,
    /// Of a single job, the largest count of records seen at a stage's end or at one of many samples in between.
    largest: Footprint,
    /// After which step most memory was taken, and how much with all that was on its way.
    peak: u64,
    most: i64,
    /// Partitions that were planned so far.
    planned: u64,
    /// What the state gave back when it was dropped.
    bytes: i64,
}

impl Run {
    fn sample(&mut self, state: &State) {
        let footprint = state.footprint();
        if records(footprint) > records(self.largest) {
            self.largest = footprint;
        }
    }
}

fn records(footprint: Footprint) -> usize {
    footprint.pending + footprint.running + footprint.outputs + footprint.links
}

/// `jobs` jobs of a stage of `maps` tasks read by one of `reduces`, all submitted at once, run to the end.
fn run(jobs: u32, maps: u32, reduces: u32, local: u32) -> Run {
    run_until(u64::MAX, jobs, maps, reduces, local)
}

/// The same up to some step.
fn run_until(last: u64, jobs: u32, maps: u32, reduces: u32, local: u32) -> Run {
    let mut state = State::new(Limits { ended_jobs: 10_000, ..Limits::default() });
    let now = Instant64(0);
    for number in 0..EXECUTORS {
        let executor = ExecutorId::new(format!("e{number}")).unwrap();
        state.step(Event::ExecutorJoined { executor, incarnation: Incarnation(1), slots: SLOTS, held: vec![] }, now);
    }
    let mut events = VecDeque::new();
    let ids: Vec<_> = (0..jobs).map(|job| JobId::new(format!("job-{job}")).unwrap()).collect();
    events.extend(ids.iter().map(|job| Event::JobSubmitted { job: job.clone(), weight: 1 }));
    let mut plans: BTreeMap<_, _> = ids.iter().map(|job| (job.clone(), VecDeque::from([0, 1]))).collect();
    let mut run = Run::default();
    let mut step = 0_u64;
    while let Some(event) = events.pop_front().filter(|_| step < last) {
        step += 1;
        let live = LIVE.with(Cell::get);
        if live > run.most {
            (run.peak, run.most) = (step - 1, live);
        }
        // A walk over all of the state.
        if jobs == 1 && step.is_multiple_of(5_000) {
            run.sample(&state);
        }
        let started = Instant::now();
        let effects = state.step(event, now);
        run.seconds += started.elapsed().as_secs_f64();
        for effect in effects {
            match effect {
                Effect::Plan { job, .. } => {
                    if jobs == 1 {
                        run.sample(&state);
                    }
                    let stage = match plans.get_mut(&job).unwrap().pop_front() {
                        Some(0) => stage(0, maps, vec![], false, local),
                        _ => stage(1, reduces, vec![StageId(0)], true, local),
                    };
                    run.planned += u64::from(stage.partitions);
                    let complete = stage.is_final;
                    events.push_back(Event::Planned { job, stages: vec![stage], small: false, complete });
                }
                Effect::Launch { task, executor, incarnation, .. } => {
                    // Launched and finished: two transitions.
                    run.transitions += 2;
                    let output = OutputStats { rows: 1, bytes: 1 };
                    events.push_back(Event::TaskFinished { task, executor, incarnation, output, delivered: false });
                }
                Effect::JobFinished { job } => events.push_back(Event::ClientDone { job }),
                _ => {}
            }
        }
    }
    if last == u64::MAX {
        assert!(ids.iter().all(|job| state.job(job).unwrap().state == JobState::Finished));
        assert_eq!(records(state.footprint()), 0, "records are left");
    }
    let live = LIVE.with(Cell::get);
    drop(state);
    run.bytes = live - LIVE.with(Cell::get);
    run
}

/// What a run takes at the step at which it takes most: it is dropped there.
fn bytes_at_peak(whole: &Run, jobs: u32, maps: u32, reduces: u32, local: u32) -> (u64, u64) {
    let Run { bytes, planned, .. } = run_until(whole.peak, jobs, maps, reduces, local);
    (u64::try_from(bytes).unwrap(), planned)
}

#[test]
fn transitions_per_second_are_printed_and_a_task_takes_less_than_a_kilobyte() {
    for (jobs, maps, reduces, local) in [
        (1, 10_000, 10_000, 0),
        (1, 10_000, 10_000, 2),
        (100, 1_000, 1_000, 0),
        (100, 5_000, 5_000, 2),
        (2_000, 20, 5, 2),
    ] {
        let whole = run(jobs, maps, reduces, local);
        let Run { transitions, seconds, .. } = whole;
        let expected = 2 * u64::from(jobs) * u64::from(maps + reduces);
        assert_eq!(transitions, expected);
        let rate = transitions as f64 / seconds;
        let (bytes, planned) = bytes_at_peak(&whole, jobs, maps, reduces, local);
        println!(
            "{EXECUTORS} executors × {SLOTS} slots, {jobs} jobs of {maps} × {reduces} tasks, {local} holders each: \
             {transitions} transitions in {seconds:.2} s, {rate:.0}/s; {bytes} bytes for {planned} tasks, {} each",
            bytes / planned
        );
        // Jobs and executors take some, however few their tasks are.
        let most = planned + u64::from(jobs + EXECUTORS);
        assert!(bytes < MAX_BYTES * most, "{bytes} bytes");
    }
}

#[test]
fn memory_grows_with_maps_plus_reduces() {
    for (maps, reduces) in [(2_500, 2_500), (10_000, 1_000), (10_000, 10_000), (40_000, 40_000)] {
        let whole = run(1, maps, reduces, 2);
        let largest = whole.largest;
        let (bytes, _) = bytes_at_peak(&whole, 1, maps, reduces, 2);
        let linear = maps + reduces + EXECUTORS;
        println!("{maps} × {reduces}: at most {} records, {largest:?}, {bytes} bytes", records(largest));
        assert!(records(largest) <= 4 * linear as usize, "{maps} × {reduces}: {largest:?}");
        assert!(bytes <= MAX_BYTES * u64::from(linear), "{maps} × {reduces}: {bytes} bytes");
    }
}
