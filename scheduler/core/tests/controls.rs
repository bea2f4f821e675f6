// SPDX-License-Identifier: Apache-2.0
//! Negative controls: without one of the core's protections the simulation fails, with the promise that it kept. Each
//! is put out of order from outside ([`world::Sabotage`]); the seeds are those that hold with all of them in order.
#![allow(clippy::unwrap_used)]

mod world;

use world::{Mix, Sabotage, World, numbers};

/// Faults that call for protection, without those that make jobs short.
const MIX: Mix = Mix {
    join: 6,
    restart: 1,
    lose: 2,
    drain: 0,
    silence: 6,
    submit: 8,
    plan: 20,
    finish: 30,
    fail: 2,
    stream: 10,
    deliver: 35,
    repeat: 8,
    cancel: 0,
    done: 1,
    garbage: 4,
    away: 4,
    crash: 1,
    clock: 0,
};

/// How many histories may pass before the promise breaks.
const SEEDS: u64 = 2_000;

/// Some history breaks the promise whose text that is. Others may break other ones before.
fn assert_breaks(sabotage: Sabotage, promise: &str) {
    let mut others = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..SEEDS {
        let Err(problem) = World::run_with(&numbers(seed, 300), MIX, sabotage) else { continue };
        let problem = problem.lines().next().unwrap_or_default();
        if problem.contains(promise) {
            println!("{sabotage:?}: seed {seed}: {problem}");
            return;
        }
        *others.entry(problem.to_owned()).or_default() += 1;
    }
    panic!("{sabotage:?} is not noticed in {SEEDS} histories; others: {others:#?}");
}

#[test]
fn a_process_that_was_given_up_changes_nothing() {
    assert_breaks(Sabotage::Fence, "a fenced process changed something");
}

#[test]
fn a_process_that_was_given_up_does_not_come_back() {
    assert_breaks(Sabotage::Zombies, "a launch on nobody");
}

#[test]
fn a_status_counts_for_its_own_attempt() {
    assert_breaks(Sabotage::Attempt, "did not win");
}

#[test]
fn a_status_counts_for_its_own_start_of_a_stage() {
    assert_breaks(Sabotage::StageAttempt, "did not win");
}

#[test]
fn a_status_counts_once() {
    assert_breaks(Sabotage::Repeat, "did not win");
}

#[test]
fn one_success_of_a_task_counts() {
    assert_breaks(Sabotage::FirstSuccess, "did not win");
}

#[test]
fn outputs_go_with_their_process() {
    assert_breaks(Sabotage::Losses, "counts, and its process is lost");
}

#[test]
fn a_cancelled_task_keeps_its_slots_until_it_has_ended() {
    assert_breaks(Sabotage::Slots, "is over-committed");
}

#[test]
fn outputs_of_two_attempts_are_not_mixed() {
    assert_breaks(Sabotage::Mixing, "have read different rows");
}

#[test]
fn rows_at_the_client_are_not_taken_back() {
    assert_breaks(Sabotage::Streams, "is at the client and taken back");
}

#[test]
fn a_job_is_finished_when_all_is_published() {
    assert_breaks(Sabotage::Publish, "was published");
}

#[test]
fn what_could_not_be_published_is_not_taken_for_published() {
    assert_breaks(Sabotage::CommitFailure, "finished without");
}

#[test]
fn nothing_is_published_twice_after_a_restart() {
    assert_breaks(Sabotage::CommitRecord, "publishes");
}

#[test]
fn the_planner_is_told_of_a_stage_once() {
    assert_breaks(Sabotage::Announced, "finished twice");
}

#[test]
fn an_attempt_has_its_number_for_itself() {
    assert_breaks(Sabotage::Numbers, "is launched twice");
}

#[test]
fn tasks_of_another_start_of_a_stage_are_not_taken_over() {
    assert_breaks(Sabotage::AdoptStart, "adopted a task that was never launched");
}

#[test]
fn no_other_attempt_takes_the_place_of_the_one_that_counted() {
    assert_breaks(Sabotage::AdoptAttempt, "is adopted from another process");
}

#[test]
fn tasks_that_are_not_taken_over_hold_slots() {
    assert_breaks(Sabotage::Held, "is over-committed");
}

#[test]
fn a_silent_process_is_lost() {
    assert_breaks(Sabotage::Lease, "and not lost");
}

#[test]
fn a_process_that_was_heard_of_is_not_lost() {
    assert_breaks(Sabotage::Clock, "is lost within its lease");
}

#[test]
fn every_job_ends() {
    assert_breaks(Sabotage::Statuses, "a job did not end");
}

#[test]
fn nothing_is_kept_for_a_job_that_is_over() {
    assert_breaks(Sabotage::Free, "still holds");
}

#[test]
fn the_same_events_give_the_same_effects() {
    assert_breaks(Sabotage::Determinism, "the same events gave other effects");
}

#[test]
fn with_all_protections_in_order_the_same_histories_hold() {
    for seed in 0..SEEDS {
        World::run(&numbers(seed, 300), MIX).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}
