// SPDX-License-Identifier: Apache-2.0
//! Random histories of a cluster: whatever happens, no promise breaks and every job ends.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use world::{Mix, World, numbers};

const QUIET: Mix = Mix {
    join: 3,
    restart: 0,
    lose: 0,
    drain: 0,
    silence: 0,
    submit: 8,
    plan: 20,
    finish: 30,
    fail: 0,
    stream: 10,
    deliver: 40,
    repeat: 0,
    cancel: 0,
    done: 0,
    garbage: 0,
    away: 0,
    crash: 0,
    clock: 0,
};

const BREAKS: Mix = Mix { away: 12, join: 4, lose: 1, silence: 3, fail: 1, repeat: 3, done: 2, ..QUIET };

const CRASHES: Mix =
    Mix { crash: 3, away: 6, join: 6, lose: 1, silence: 3, fail: 1, repeat: 5, done: 2, cancel: 1, ..QUIET };

/// Every fault there is.
const EVERYTHING: Mix = Mix {
    restart: 1,
    lose: 2,
    drain: 1,
    silence: 5,
    fail: 1,
    repeat: 8,
    cancel: 1,
    done: 2,
    garbage: 6,
    away: 5,
    crash: 2,
    clock: 2,
    join: 8,
    ..QUIET
};

/// How many numbers a history of one seed has.
const LENGTH: u64 = 300;

/// Runs 5,000 histories or `PROPTEST_CASES`, prints what they came to, and fails with the shortest one that breaks a promise.
fn simulate(mix: Mix) -> [u64; 3] {
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5_000),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let cases = config.cases;
    let script = prop::collection::vec(any::<u64>(), 0..300);
    let sums = std::cell::RefCell::new(([0_u64; 3], 0_u64, 0_u64));
    let result = TestRunner::new(config).run(&script, |script| {
        let world = World::run(&script, mix).map_err(TestCaseError::fail)?;
        let mut sums = sums.borrow_mut();
        for (sum, ends) in sums.0.iter_mut().zip(world.ends) {
            *sum += ends;
        }
        sums.1 += world.steps;
        sums.2 += world.launches;
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (ends, steps, launches) = *sums.borrow();
    println!("{cases} histories: {steps} steps, {launches} launches, {ends:?} jobs finished, failed, cancelled");
    ends
}

#[test]
fn without_faults_every_job_finishes_or_its_plan_fails() {
    let [finished, _, cancelled] = simulate(QUIET);
    assert!(finished > 1_000 && cancelled == 0);
}

#[test]
fn executors_may_leave_restart_and_return_as_zombies() {
    let [finished, failed, _] =
        simulate(Mix { join: 8, restart: 3, lose: 4, drain: 2, silence: 8, garbage: 2, ..QUIET });
    assert!(finished > 1_000 && failed > 1_000);
}

#[test]
fn statuses_may_be_late_repeated_reordered_and_wrong() {
    let [finished, failed, _] = simulate(Mix { fail: 1, repeat: 25, deliver: 25, garbage: 25, restart: 1, ..QUIET });
    assert!(finished > 1_000 && failed > 1_000);
}

#[test]
fn clients_may_cancel_and_leave_at_any_time() {
    let mix = Mix { cancel: 5, done: 5, fail: 1, repeat: 5, silence: 2, lose: 1, restart: 1, drain: 1, ..QUIET };
    let [finished, failed, cancelled] = simulate(mix);
    assert!(finished > 1_000 && failed > 1_000 && cancelled > 1_000);
}

#[test]
fn connections_may_break_and_come_back() {
    let [finished, failed, _] = simulate(BREAKS);
    assert!(finished > 1_000 && failed > 100);
}

#[test]
fn the_scheduler_may_die_at_any_time() {
    let [finished, failed, _] = simulate(CRASHES);
    assert!(finished > 1_000 && failed > 100);
}

#[test]
fn time_may_jump_and_run_backwards() {
    let mix = Mix { clock: 6, join: 8, silence: 4, away: 3, fail: 1, repeat: 5, ..QUIET };
    let [finished, failed, _] = simulate(mix);
    assert!(finished > 1_000 && failed > 100);
}

#[test]
fn all_faults_may_come_together() {
    let [finished, failed, cancelled] = simulate(EVERYTHING);
    assert!(finished > 1_000 && failed > 100 && cancelled > 100);
}

/// `SEEDS=100000` for more than 2,000 histories.
#[test]
fn two_thousand_seeds_hold_every_promise_and_a_seed_is_one_history() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2_000);
    let run =
        |seed| World::run(&numbers(seed, LENGTH), EVERYTHING).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let (mut traces, mut sums) = (BTreeSet::new(), [0; 4]);
    for seed in 0..seeds {
        let (once, again) = (run(seed), run(seed));
        assert!(once.trace == again.trace, "seed {seed} has two histories: {:?}, {:?}", once.trace, again.trace);
        traces.insert(once.trace);
        for (sum, count) in sums.iter_mut().zip([once.steps, once.launches, once.crashes, once.adopted]) {
            *sum += count;
        }
    }
    assert_eq!(traces.len() as u64, seeds, "two seeds have one history");
    let [steps, launches, crashes, adopted] = sums;
    assert!(adopted > crashes, "what executors bring along after a restart is thrown away");
    println!("{seeds} seeds: {steps} steps, {launches} launches, {crashes} deaths of the scheduler, {adopted} adopted");
}

/// Replays one history: `SCRIPT=1,2,3 MIX=crashes TRACE=1 cargo test --test simulation replay -- --ignored --nocapture`,
/// or `SEED=7` for one of the seeds.
#[test]
#[ignore = "for debugging"]
fn replay() {
    let number = |text: &str| text.trim().parse().unwrap();
    let script = match std::env::var("SEED") {
        Ok(seed) => numbers(number(&seed), LENGTH),
        Err(_) => std::env::var("SCRIPT").unwrap().split(',').map(number).collect(),
    };
    let mix = match std::env::var("MIX").as_deref() {
        Ok("crashes") => CRASHES,
        Ok("breaks") => BREAKS,
        _ => EVERYTHING,
    };
    World::run(&script, mix).unwrap();
}
