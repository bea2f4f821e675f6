// SPDX-License-Identifier: Apache-2.0
//! 1,000 executors of 16 slots: how many task transitions a second, and that records grow with tasks and partitions,
//! never with producers × consumers. Prints the figures: `cargo test --test scale -- --nocapture`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use ballista_core::{ExecutorId, Incarnation, JobId, StageId};
use ballista_scheduler_core::{
    Effect, Event, Footprint, Instant64, JobState, Limits, OutputStats, Slicing, StageSpec, State,
};

const EXECUTORS: u32 = 1_000;
const SLOTS: u32 = 16;

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

struct Run {
    transitions: u64,
    seconds: f64,
    /// The largest count of records seen at a stage's end or at one of many samples in between.
    largest: Footprint,
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
    let mut state = State::new(Limits { ended_jobs: 10_000, ..Limits::default() });
    let now = Instant64(0);
    for number in 0..EXECUTORS {
        let executor = ExecutorId::new(format!("e{number}")).unwrap();
        state.step(Event::ExecutorJoined { executor, incarnation: Incarnation(1), slots: SLOTS, held: vec![] }, now);
    }
    let mut events = VecDeque::new();
    let ids: Vec<_> = (0..jobs).map(|job| JobId::new(format!("job-{job}")).unwrap()).collect();
    events.extend(ids.iter().map(|job| Event::JobSubmitted { job: job.clone(), weight: 1 }));
    let mut plans = BTreeMap::new();
    for job in &ids {
        let both = [stage(0, maps, vec![], false, local), stage(1, reduces, vec![StageId(0)], true, local)];
        plans.insert(job.clone(), VecDeque::from(both));
    }
    let mut run = Run { transitions: 0, seconds: 0.0, largest: Footprint::default() };
    let mut steps = 0_u64;
    while let Some(event) = events.pop_front() {
        steps += 1;
        if steps.is_multiple_of(5_000) {
            run.sample(&state);
        }
        let started = Instant::now();
        let effects = state.step(event, now);
        run.seconds += started.elapsed().as_secs_f64();
        for effect in effects {
            match effect {
                Effect::Plan { job, .. } => {
                    run.sample(&state);
                    let stages: Vec<_> = plans.get_mut(&job).unwrap().pop_front().into_iter().collect();
                    let complete = stages.iter().any(|stage| stage.is_final);
                    events.push_back(Event::Planned { job, stages, small: false, complete });
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
    assert!(ids.iter().all(|job| state.job(job).unwrap().state == JobState::Finished));
    assert_eq!(records(state.footprint()), 0, "records are left");
    run
}

#[test]
fn transitions_per_second_are_printed() {
    for (jobs, maps, reduces, local) in
        [(1, 10_000, 10_000, 0), (1, 10_000, 10_000, 2), (100, 1_000, 1_000, 0), (2_000, 20, 5, 2)]
    {
        let Run { transitions, seconds, .. } = run(jobs, maps, reduces, local);
        let expected = 2 * u64::from(jobs) * u64::from(maps + reduces);
        assert_eq!(transitions, expected);
        let rate = transitions as f64 / seconds;
        println!(
            "{EXECUTORS} executors × {SLOTS} slots, {jobs} jobs of {maps} × {reduces} tasks, {local} holders each: \
             {transitions} transitions in {seconds:.2} s, {rate:.0}/s"
        );
    }
}

#[test]
fn records_grow_with_maps_plus_reduces() {
    for (maps, reduces) in [(2_500, 2_500), (10_000, 2_500), (10_000, 10_000), (40_000, 40_000)] {
        let largest = run(1, maps, reduces, 2).largest;
        let linear = (maps + reduces + EXECUTORS) as usize;
        println!("{maps} × {reduces}: at most {} records, {largest:?}", records(largest));
        assert!(records(largest) <= 4 * linear, "{maps} × {reduces}: {largest:?}");
    }
}
