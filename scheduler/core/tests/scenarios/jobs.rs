// SPDX-License-Identifier: Apache-2.0
//! Jobs from their submission to their end: planning, placement, sharing, statuses, publication.

use ballista_core::{ClassifiedError, ErrorClass, Incarnation, StageId, TaskKey};
use ballista_scheduler_core::{Effect, Event, JobState, Limits, PlanReason, Slicing, StageFinished, StageSpec};

use crate::cluster::*;

#[test]
fn a_job_runs_from_submission_to_the_last_byte_freed() {
    let mut cluster = Cluster::new(&[("a", 4), ("b", 4)]);
    assert_eq!(cluster.submit("j"), [Effect::Plan { job: job("j"), reason: PlanReason::Submitted }]);
    let maps = launches(&cluster.plan("j", vec![stage(0, 4)]));
    assert_eq!(maps.len(), 2);
    assert_eq!(cluster.finish(&maps[0], 5), []);
    let outputs = finished(&cluster.finish(&maps[1], 6)).unwrap().outputs;
    assert_eq!(outputs.iter().map(|output| output.stats.rows).collect::<Vec<_>>(), [5, 6]);
    let reduce = launches(&cluster.plan("j", vec![last(1, 1, &[0])])).remove(0);
    assert!(matches!(cluster.stream(&reduce)[..], [Effect::StreamReady { .. }]));
    assert_eq!(cluster.stream(&reduce), []);
    let ended = cluster.finish(&reduce, 3);
    assert_eq!(ended[0], Effect::JobFinished { job: job("j") });
    let holders = vec![(executor("a"), Incarnation(1)), (executor("b"), Incarnation(1))];
    assert_eq!(ended[1], Effect::ReleaseStage { job: job("j"), stage: StageId(0), executors: holders.clone() });
    assert_eq!(cluster.state.job(&job("j")).unwrap().rows, 3);
    let done = cluster.step(Event::ClientDone { job: job("j") });
    assert_eq!(done, [Effect::FreeJob { job: job("j"), executors: holders }]);
    assert_eq!(cluster.state.job(&job("j")).unwrap().state, JobState::Finished);
    assert!(!cluster.state.is_live(&job("j")));
}

#[test]
fn a_stage_spreads_over_executors_and_tasks_stay_within_their_limit() {
    let mut cluster = Cluster::new(&[("a", 8), ("b", 8)]);
    let effects =
        cluster.start("j", vec![StageSpec { slicing: Slicing::PerSlot { max_partitions: 2 }, ..stage(0, 6) }]);
    let sizes: Vec<_> = placed(&effects).into_iter().map(|(name, partitions)| (name, partitions.len())).collect();
    let sizes: Vec<_> = sizes.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    assert_eq!(sizes, [("a", 2), ("a", 1), ("b", 2), ("b", 1)]);
}

#[test]
fn partitions_go_to_their_input_but_no_slot_waits_for_them() {
    let preferred =
        vec![vec![(executor("b"), 9)], vec![(executor("b"), 5), (executor("a"), 4)], vec![], vec![(executor("b"), 7)]];
    let mut cluster = Cluster::new(&[("a", 2), ("b", 2)]);
    let effects = cluster.start("j", vec![StageSpec { preferred: preferred.clone(), ..stage(0, 4) }]);
    assert_eq!(placed(&effects), [("a".to_string(), vec![1, 2]), ("b".to_string(), vec![0, 3])]);
    let mut lone = Cluster::new(&[("a", 4)]);
    let effects = lone.start("j", vec![StageSpec { preferred, ..stage(0, 4) }]);
    assert_eq!(placed(&effects), [("a".to_string(), vec![0, 1, 2, 3])]);
}

#[test]
fn a_whole_stage_is_one_task_that_takes_what_is_free() {
    let whole = |number| StageSpec { slicing: Slicing::Whole { slots: 6 }, ..stage(number, 9) };
    let mut cluster = Cluster::new(&[("a", 4), ("b", 8)]);
    let first = launches(&cluster.start("j", vec![whole(0)])).remove(0);
    assert_eq!((first.executor.as_str(), first.slots, first.partitions.len()), ("b", 6, 9));
    let second = launches(&cluster.start("k", vec![whole(0)])).remove(0);
    assert_eq!((second.executor.as_str(), second.slots), ("a", 4));
    let third = launches(&cluster.start("l", vec![whole(0)])).remove(0);
    assert_eq!((third.executor.as_str(), third.slots), ("b", 2));
    assert_eq!(launches(&cluster.start("m", vec![whole(0)])), []);
    assert_eq!(launches(&cluster.finish(&third, 0)).len(), 1);
}

#[test]
fn free_slots_go_to_the_job_that_has_least() {
    let mut cluster = Cluster::new(&[("a", 4)]);
    let one = || StageSpec { slicing: Slicing::PerSlot { max_partitions: 1 }, ..stage(0, 100) };
    let big = launches(&cluster.start("big", vec![one()]));
    assert_eq!(big.len(), 4);
    assert_eq!(launches(&cluster.start("late", vec![one()])), []);
    let turns: Vec<_> = big.iter().map(|task| launches(&cluster.finish(task, 1))[0].task.job.to_string()).collect();
    assert_eq!(turns, ["late", "late", "big", "big"]);
}

#[test]
fn only_small_jobs_use_the_reserve_and_only_when_regular_slots_are_taken() {
    let mut cluster = Cluster::with(&[("a", 2)], Limits { reserve_slots: 1, ..Limits::default() });
    cluster.start("big", vec![stage(0, 9)]);
    assert_eq!(cluster.used("a"), (2, 0));
    cluster.submit("small");
    let small = launches(&cluster.plan_as("small", vec![stage(0, 3)], true));
    assert_eq!(small.len(), 1);
    assert_eq!(cluster.used("a"), (2, 1));
    let mut idle = Cluster::with(&[("a", 2)], Limits { reserve_slots: 1, ..Limits::default() });
    idle.submit("small");
    idle.plan_as("small", vec![stage(0, 2)], true);
    assert_eq!(idle.used("a"), (2, 0));
}

#[test]
fn the_first_success_wins_and_every_other_status_changes_nothing() {
    let mut cluster = Cluster::new(&[("a", 2), ("b", 2)]);
    let maps = launches(&cluster.start("j", vec![stage(0, 2), last(1, 1, &[0])]));
    let foreign = Launched { executor: executor("b"), ..maps[0].clone() };
    let retry = TaskKey { attempt: 1, ..maps[0].task.clone() };
    assert_eq!(cluster.finish(&foreign, 9), []);
    assert_eq!(cluster.finish(&Launched { task: retry, ..maps[0].clone() }, 9), []);
    cluster.finish(&maps[0], 1);
    assert_eq!(cluster.finish(&maps[0], 1), []);
    assert_eq!(cluster.fail(&maps[0], ErrorClass::User), []);
    let outputs = finished(&cluster.finish(&maps[1], 1)).unwrap().outputs;
    assert_eq!(outputs.len(), 2);
}

#[test]
fn a_failed_task_fails_its_job_with_its_class_and_others_go_on() {
    let mut cluster = Cluster::new(&[("a", 2), ("b", 2)]);
    let doomed = launches(&cluster.start("doomed", vec![stage(0, 2)]));
    let other = launches(&cluster.start("other", vec![last(0, 2, &[])]));
    let effects = cluster.fail(&doomed[0], ErrorClass::User);
    assert_eq!(failure(&effects), Some((job("doomed"), ErrorClass::User)));
    assert_eq!(cancels(&effects), [doomed[1].task.clone()]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::FreeJob { .. })));
    cluster.finish(&other[0], 1);
    assert!(cluster.finish(&other[1], 1).contains(&Effect::JobFinished { job: job("other") }));
}

#[test]
fn what_tasks_wrote_is_published_when_all_are_finished_and_then_the_job_is() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let tasks = launches(&cluster.start("j", vec![StageSpec { commits: true, ..last(0, 2, &[]) }]));
    let commits = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Commit { .. })).count();
    assert_eq!(commits(&cluster.finish(&tasks[0], 1)), 0);
    assert_eq!(commits(&cluster.finish(&tasks[1], 1)), 2);
    // Too late to go back.
    assert_eq!(cluster.step(Event::JobCancelled { job: job("j"), reason: "asked to".into() }), []);
    assert_eq!(cluster.step(Event::ClientDone { job: job("j") }), []);
    assert_eq!(cluster.commit(&tasks[0]), []);
    assert_eq!(cluster.commit(&tasks[0]), []);
    let end = cluster.commit(&tasks[1]);
    assert!(end.contains(&Effect::JobFinished { job: job("j") }));
    // The client, who had left by then, does not leave again.
    assert!(is_freed(&end, "j"), "{end:?}");

    let task = launches(&cluster.start("k", vec![StageSpec { commits: true, ..last(0, 1, &[]) }])).remove(0);
    cluster.finish(&task, 1);
    let end = cluster.commit(&task);
    assert!(end.contains(&Effect::JobFinished { job: job("k") }) && !is_freed(&end, "k"), "{end:?}");
    assert!(is_freed(&cluster.step(Event::ClientDone { job: job("k") }), "k"));
}

#[test]
fn slots_of_a_cancelled_task_are_held_until_it_confirms() {
    let mut cluster = Cluster::new(&[("a", 2)]);
    let task = launches(&cluster.start("j", vec![stage(0, 2)])).remove(0);
    let cancelled = cluster.step(Event::JobCancelled { job: job("j"), reason: "asked to".into() });
    assert_eq!(cancels(&cancelled), std::slice::from_ref(&task.task));
    assert_eq!(cluster.used("a"), (2, 0));
    assert_eq!(launches(&cluster.start("k", vec![stage(0, 2)])), []);
    assert_eq!(launches(&cluster.fail(&task, ErrorClass::Infra)).len(), 1);
}

#[test]
fn an_output_that_a_cancelled_task_completed_is_freed_again() {
    let mut cluster = Cluster::new(&[("a", 2)]);
    let task = launches(&cluster.start("j", vec![stage(0, 2)])).remove(0);
    cluster.step(Event::JobCancelled { job: job("j"), reason: "asked to".into() });
    let executors = vec![(executor("a"), Incarnation(1))];
    assert_eq!(cluster.finish(&task, 1), [Effect::FreeJob { job: job("j"), executors }]);
}

#[test]
fn enough_rows_end_a_stage_early() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let limited = StageSpec { row_limit: Some(10), ..stage(0, 5) };
    let first = launches(&cluster.start("j", vec![limited, last(1, 1, &[0])]));
    let next = launches(&cluster.finish(&first[0], 9));
    assert_eq!(next[0].partitions, [2]);
    let effects = cluster.finish(&next[0], 1);
    assert_eq!(cancels(&effects), [first[1].task.clone()]);
    assert_eq!(finished(&effects).unwrap().outputs.len(), 2);
    assert_eq!(launches(&effects)[0].task.stage, StageId(1));
    assert_eq!(failure(&cluster.fail(&first[1], ErrorClass::Infra)), None);
}

#[test]
fn enough_rows_do_not_cut_a_stream_that_the_client_reads() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1), ("c", 1)]);
    let limited = StageSpec { row_limit: Some(10), ..last(0, 3, &[]) };
    let tasks = launches(&cluster.start("j", vec![limited]));
    cluster.stream(&tasks[0]);
    let effects = cluster.finish(&tasks[1], 10);
    assert_eq!(cancels(&effects), [tasks[2].task.clone()]);
    assert!(cluster.finish(&tasks[0], 1).contains(&Effect::JobFinished { job: job("j") }));
}

#[test]
fn a_client_that_is_done_early_ends_its_job() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let task = launches(&cluster.start("read", vec![last(0, 1, &[])])).remove(0);
    cluster.stream(&task);
    let effects = cluster.step(Event::ClientDone { job: job("read") });
    assert_eq!(effects[0], Effect::JobFinished { job: job("read") });
    cluster.finish(&task, 1);
    cluster.start("gone", vec![last(0, 1, &[])]);
    assert_eq!(cluster.step(Event::ClientDone { job: job("gone") })[0], Effect::JobCancelled { job: job("gone") });
}

#[test]
fn a_winner_is_not_cancelled_when_its_streaming_status_comes_late() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let task = launches(&cluster.start("j", vec![last(0, 1, &[])])).remove(0);
    let effects = cluster.finish(&task, 1);
    assert!(matches!(effects[0], Effect::StreamReady { .. }));
    assert_eq!(cluster.stream(&task), []);
    let zombie = Launched { task: TaskKey { attempt: 3, ..task.task.clone() }, ..task };
    assert_eq!(cancels(&cluster.stream(&zombie)), [zombie.task]);
}

#[test]
fn impossible_plans_fail_their_job_instead_of_hanging_it() {
    let reading = |number, input| StageSpec { inputs: vec![StageId(input)], ..stage(number, 1) };
    let plans: [(&str, Vec<StageSpec>); 7] = [
        ("nothing", vec![]),
        ("unknown-input", vec![last(1, 1, &[0])]),
        ("cycle-of-one", vec![last(0, 1, &[0])]),
        ("cycle", vec![reading(0, 1), reading(1, 0), last(2, 1, &[1])]),
        ("twice", vec![stage(0, 1), stage(0, 1)]),
        ("two-finals", vec![last(0, 1, &[]), last(1, 1, &[])]),
        ("too-large", vec![last(0, 2_000_000, &[])]),
    ];
    for (name, stages) in plans {
        let mut cluster = Cluster::new(&[("a", 1)]);
        let effects = cluster.start(name, stages);
        assert_eq!(failure(&effects), Some((job(name), ErrorClass::Deterministic)), "{name}");
    }
}

#[test]
fn answers_for_jobs_that_are_over_are_ignored() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    cluster.submit("j");
    cluster.step(Event::JobCancelled { job: job("j"), reason: "asked to".into() });
    assert_eq!(cluster.plan("j", vec![last(0, 1, &[])]), []);
    assert_eq!(cluster.submit("j"), []);
    let error = ClassifiedError::new(ErrorClass::User, "late");
    assert_eq!(cluster.step(Event::PlanFailed { job: job("j"), error }), []);
}

#[test]
fn only_answers_that_were_asked_for_count() {
    let mut cluster = Cluster::new(&[("a", 2)]);
    let unread = launches(&cluster.start("j", vec![stage(0, 1), stage(1, 1)]));
    assert_eq!(cluster.plan("j", vec![stage(7, 1)]), []);
    cluster.finish(&unread[0], 1);
    cluster.finish(&unread[1], 1);
    // Two plans are due now, and the first answer is complete: the second is not waited for.
    let result = launches(&cluster.plan("j", vec![last(2, 1, &[0, 1])])).remove(0);
    assert_eq!(cluster.plan("j", vec![stage(8, 1)]), []);
    assert_eq!(cluster.state.job(&job("j")).unwrap().stages.len(), 3);
    cluster.finish(&result, 1);
    assert_eq!(cluster.plan("j", vec![stage(9, 1)]), []);
}

#[test]
fn stages_without_partitions_finish_at_once() {
    let mut cluster = Cluster::new(&[]);
    let effects = cluster.start("j", vec![stage(0, 0), last(1, 0, &[0])]);
    assert_eq!(finished(&effects), Some(StageFinished { stage: StageId(0), outputs: vec![] }));
    assert!(effects.contains(&Effect::JobFinished { job: job("j") }));
}

#[test]
fn jobs_wait_for_the_first_executor() {
    let mut cluster = Cluster::new(&[]);
    assert_eq!(cluster.start("j", vec![last(0, 3, &[])]), []);
    assert_eq!(placed(&cluster.join("a", 1, 2)), [("a".to_string(), vec![0, 1])]);
}
