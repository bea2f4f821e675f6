// SPDX-License-Identifier: Apache-2.0
//! Random histories of a cluster: whatever happens, no promise breaks and every job ends.
#![allow(clippy::unwrap_used)]

mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use world::{Mix, World};

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
};

const CRASHES: Mix =
    Mix { crash: 3, away: 6, join: 6, lose: 1, silence: 3, fail: 1, repeat: 5, done: 2, cancel: 1, ..QUIET };

/// Runs 5,000 histories, prints what they came to, and fails with the shortest one that breaks a promise.
fn simulate(mix: Mix) -> [u64; 3] {
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5_000),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
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
    println!("5000 histories: {steps} steps, {launches} launches, {ends:?} jobs finished, failed, cancelled");
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
    let mix = Mix { away: 12, join: 4, lose: 1, silence: 3, fail: 1, repeat: 3, done: 2, ..QUIET };
    let [finished, failed, _] = simulate(mix);
    assert!(finished > 1_000 && failed > 100);
}

#[test]
fn the_scheduler_may_die_at_any_time() {
    let [finished, failed, _] = simulate(CRASHES);
    assert!(finished > 1_000 && failed > 100);
}

/// Replays one history: `SCRIPT=1,2,3 TRACE=1 cargo test --test simulation replay -- --ignored --nocapture`.
#[test]
#[ignore = "for debugging"]
fn replay() {
    let script = std::env::var("SCRIPT").unwrap();
    let script: Vec<u64> = script.split(',').map(|number| number.trim().parse().unwrap()).collect();
    World::run(&script, CRASHES).unwrap();
}
