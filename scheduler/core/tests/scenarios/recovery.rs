// SPDX-License-Identifier: Apache-2.0
//! Executors that are lost, tasks that fail, outputs that cannot be read.

use ballista_core::{ClassifiedError, ErrorClass, Incarnation, StageId, TaskId, UnreadInput};
use ballista_scheduler_core::{
    Effect, Event, Limits, PlanReason, RestoredJob, RestoredStage, RestoredTask, Slicing, StageSpec,
};

use crate::cluster::*;

#[test]
fn a_job_of_one_task_that_runs_out_of_memory_is_planned_again_once() {
    let mut cluster = Cluster::new(&[("a", 4)]);
    let whole = |number| StageSpec { slicing: Slicing::Whole { slots: 4 }, ..last(number, 2, &[]) };
    let task = launches(&cluster.start("j", vec![whole(0)])).remove(0);
    let effects = cluster.fail(&task, ErrorClass::Resource);
    assert!(effects.contains(&Effect::Plan { job: job("j"), reason: PlanReason::OutOfMemory }));
    assert_eq!(failure(&effects), None);
    let again = launches(&cluster.plan("j", vec![whole(1)])).remove(0);
    // Then every task may try once more with all slots of its executor.
    let alone = launches(&cluster.fail(&again, ErrorClass::Resource)).remove(0);
    assert_eq!((alone.task.attempt, alone.slots), (1, 4));
    assert_eq!(failure(&cluster.fail(&alone, ErrorClass::Resource)), Some((job("j"), ErrorClass::Resource)));
}

#[test]
fn a_job_is_not_planned_again_for_other_errors_or_once_its_client_reads() {
    let mut cluster = Cluster::new(&[("a", 4)]);
    let task = launches(&cluster.start("j", vec![last(0, 2, &[])])).remove(0);
    assert_eq!(failure(&cluster.fail(&task, ErrorClass::User)), Some((job("j"), ErrorClass::User)));
    let task = launches(&cluster.start("k", vec![last(0, 2, &[])])).remove(0);
    cluster.stream(&task);
    let effects = cluster.fail(&task, ErrorClass::Resource);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Plan { .. })));
    assert_eq!(launches(&effects)[0].task.attempt, 1);
}

#[test]
fn a_commit_that_fails_or_is_lost_is_made_by_another_attempt_that_writes_the_same_files() {
    let writing = |deterministic| vec![StageSpec { commits: true, deterministic, ..last(0, 1, &[]) }];
    let class = |class| ClassifiedError::new(class, "broken");
    for is_lost in [true, false] {
        let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
        let task = launches(&cluster.start("j", writing(true))).remove(0);
        cluster.finish(&task, 1);
        let effects = if is_lost {
            cluster.lose(task.executor.as_str())
        } else {
            let (executor, error) = (task.executor.clone(), class(ErrorClass::Transient));
            let failed = Event::CommitFailed { task: task.task.clone(), executor, incarnation: Incarnation(1), error };
            assert_eq!(cluster.step(failed), []);
            cluster.now = 1_000;
            cluster.step(Event::Tick)
        };
        assert_eq!(failure(&effects), None);
        let again = launches(&effects).remove(0);
        assert_eq!((again.task.attempt, again.executor != task.executor), (1, true));
        // Too late to go back, all the same.
        assert_eq!(cluster.step(Event::JobCancelled { job: job("j"), reason: "asked to".into() }), []);
        let effects = cluster.finish(&again, 1);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Commit { task, .. } if *task == again.task)));
        assert!(cluster.commit(&again).contains(&Effect::JobFinished { job: job("j") }));
    }
    // Another attempt would not help, or would write other files.
    for (error, deterministic) in [(ErrorClass::User, true), (ErrorClass::Transient, false)] {
        let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
        let task = launches(&cluster.start("j", writing(deterministic))).remove(0);
        cluster.finish(&task, 1);
        let (executor, failed) = (task.executor.clone(), class(error));
        let failed = Event::CommitFailed { task: task.task, executor, incarnation: Incarnation(1), error: failed };
        assert_eq!(failure(&cluster.step(failed)), Some((job("j"), error)));
    }
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let task = launches(&cluster.start("j", writing(false))).remove(0);
    cluster.finish(&task, 1);
    assert_eq!(failure(&cluster.lose(task.executor.as_str())), Some((job("j"), ErrorClass::Infra)));
    // The same if the executor is back, and the output is not.
    let mut cluster = Cluster::new(&[("a", 1)]);
    let task = launches(&cluster.start("j", writing(false))).remove(0);
    cluster.finish(&task, 1);
    let effects = cluster.join("a", 1, 1);
    assert_eq!((failure(&effects), launches(&effects)), (Some((job("j"), ErrorClass::Infra)), vec![]));
}

#[test]
fn enough_rows_do_not_cut_what_is_published() {
    let mut cluster = Cluster::new(&[("a", 2)]);
    let slicing = Slicing::PerSlot { max_partitions: 1 };
    let writing = StageSpec { commits: true, row_limit: Some(1), slicing, deterministic: false, ..last(0, 2, &[]) };
    let tasks = launches(&cluster.start("j", vec![writing]));
    let commits = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Commit { .. })).count();
    assert_eq!(commits(&cluster.finish(&tasks[0], 5)), 0);
    assert_eq!(commits(&cluster.finish(&tasks[1], 5)), 2);
}

#[test]
fn a_job_that_was_publishing_when_the_scheduler_died_is_not_planned_again() {
    let mut cluster = Cluster::new(&[]);
    let written = RestoredTask { task: TaskId(0), attempt: 0, partitions: vec![0, 1] };
    let spec = StageSpec { commits: true, ..last(0, 2, &[]) };
    let restored = RestoredJob {
        job: job("j"),
        weight: 1,
        small: false,
        complete: true,
        planned_again: false,
        publishing: vec![written],
        stages: vec![RestoredStage { spec, attempt: 0, announced: None, first_new: 10 }],
    };
    cluster.step(Event::Restored { executors: vec![], jobs: vec![restored], first_attempt: 10 });
    let again = launches(&cluster.join("a", 1, 4)).remove(0);
    assert_eq!((again.task.task, again.task.attempt), (TaskId(0), 10));
    // What it writes takes the place of what may be out there; that of another plan would lie beside.
    let effects = cluster.fail(&again, ErrorClass::Resource);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Plan { .. })));
    assert_eq!(launches(&effects)[0].task.attempt, 11);
}

#[test]
fn what_is_lost_with_an_executor_runs_again_and_nothing_else() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let first = launches(&cluster.start("j", vec![stage(0, 2), last(1, 2, &[0])]));
    cluster.finish(&first[0], 1);
    let second = launches(&cluster.finish(&first[1], 1));
    assert_eq!(second.len(), 2);
    let effects = cluster.lose(first[0].executor.as_str());
    let (executor, incarnation) = (first[0].executor.clone(), Incarnation(1));
    assert!(effects.contains(&Effect::OutputsLost { job: job("j"), stage: StageId(0), executor, incarnation }));
    assert_eq!(failure(&effects), None);
    // The other executor is busy with a task that has all it needs, as far as anybody knows.
    assert_eq!(launches(&effects), []);
    let left = second.iter().find(|task| task.executor != first[0].executor).unwrap();
    let again = launches(&cluster.finish(left, 1));
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].task.task, again[0].task.attempt), (first[0].task.task, 1));
    let effects = cluster.finish(&again[0], 1);
    let moved = |effect: &Effect| match effect {
        Effect::OutputsMoved { finished, .. } => Some(finished.outputs.len()),
        _ => None,
    };
    assert_eq!(effects.iter().find_map(moved), Some(2));
    let last = launches(&effects).remove(0);
    assert!(cluster.finish(&last, 1).contains(&Effect::JobFinished { job: job("j") }));
}

#[test]
fn a_loss_reaches_back_to_the_files_through_what_was_released() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let reading = |number, input| StageSpec { inputs: vec![StageId(input)], ..stage(number, 1) };
    let first = launches(&cluster.start("j", vec![stage(0, 1), reading(1, 0), last(2, 1, &[1])])).remove(0);
    let second = launches(&cluster.finish(&first, 1)).remove(0);
    let third = launches(&cluster.finish(&second, 1)).remove(0);
    assert_eq!(launches(&cluster.lose("a")), []);
    let again = launches(&cluster.join("a", 2, 1)).remove(0);
    assert_eq!(again.task.stage, StageId(0));
    assert_eq!(cluster.finish(&third, 1).len(), 1, "the zombie is fenced and nothing else");
}

#[test]
fn an_executor_that_dies_takes_no_time_off_a_task_but_its_third_death_quarantines_the_query() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let mut task = launches(&cluster.start("j", vec![last(0, 1, &[])])).remove(0);
    for life in 2..4 {
        cluster.now += 10_000;
        let effects = cluster.join("a", life, 1);
        assert_eq!(failure(&effects), None);
        let again = launches(&effects).remove(0);
        assert_eq!(again.task.attempt, task.task.attempt + 1);
        task = again;
    }
    cluster.now += 10_000;
    let effects = cluster.join("a", 4, 1);
    assert_eq!(failure(&effects), Some((job("j"), ErrorClass::Deterministic)));
}

#[test]
fn the_last_attempt_of_a_task_shares_no_executor_with_another_suspect() {
    let mut cluster = Cluster::new(&[("a", 2)]);
    for name in ["poison", "innocent"] {
        cluster.start(name, vec![last(0, 1, &[])]);
    }
    // Both have seen one die, and may still run together.
    cluster.now += 10_000;
    assert_eq!(launches(&cluster.join("a", 2, 2)).len(), 2);
    // Both have seen two die: the second of them waits for another executor, and gets the first one there is.
    cluster.now += 10_000;
    assert_eq!(launches(&cluster.join("a", 3, 2)).len(), 1);
    cluster.now += 200;
    assert_eq!(launches(&cluster.step(Event::Tick)), []);
    cluster.join("b", 1, 2);
    cluster.now += 200;
    let launched = launches(&cluster.step(Event::Tick)).remove(0);
    assert_eq!(launched.executor, executor("b"));
    // So the next death tells which it was.
    cluster.now += 5_000;
    let (name, class) = failure(&cluster.join("a", 4, 2)).unwrap();
    assert_eq!(class, ErrorClass::Deterministic);
    assert_ne!(name, launched.task.job);
    assert_eq!(failure(&cluster.finish(&launched, 1)), None);
}

#[test]
fn executors_that_are_lost_at_one_moment_count_once() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    cluster.start("j", vec![last(0, 1, &[])]);
    for life in 2..9 {
        cluster.now += 10;
        assert_eq!(failure(&cluster.join("a", life, 1)), None);
    }
}

#[test]
fn passing_faults_are_tried_again_after_a_while_and_elsewhere() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let mut task = launches(&cluster.start("j", vec![last(0, 1, &[])])).remove(0);
    for attempt in 1..4 {
        let effects = cluster.fail(&task, ErrorClass::Transient);
        assert_eq!((launches(&effects), failure(&effects)), (vec![], None));
        assert_eq!(launches(&cluster.step(Event::Tick)), []);
        cluster.now += 1_000;
        let again = launches(&cluster.step(Event::Tick)).remove(0);
        assert_eq!(again.task.attempt, attempt);
        assert!(attempt > 1 || again.executor != task.executor);
        task = again;
    }
    assert_eq!(failure(&cluster.fail(&task, ErrorClass::Transient)), Some((job("j"), ErrorClass::Transient)));
}

#[test]
fn outputs_that_cannot_be_read_are_computed_again_and_those_out_of_reach_only_later() {
    for gone in [true, false] {
        let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
        let first = launches(&cluster.start("j", vec![stage(0, 1), last(1, 1, &[0])])).remove(0);
        let mut reader = launches(&cluster.finish(&first, 1)).remove(0);
        let mut tries = 0;
        let again = loop {
            tries += 1;
            let input = UnreadInput {
                job: job("j"),
                stage: StageId(0),
                executor: first.executor.clone(),
                incarnation: Incarnation(1),
                gone,
            };
            let effects = cluster.fail_to_read(&reader, input);
            assert_eq!(failure(&effects), None);
            cluster.now += 20_000;
            cluster.heartbeat(&["a", "b"]);
            let tick = cluster.step(Event::Tick);
            let next = launches(&effects).into_iter().chain(launches(&tick)).next().unwrap();
            if next.task.stage == StageId(0) {
                break next;
            }
            reader = next;
        };
        assert_eq!(tries, if gone { 1 } else { 3 });
        let reader = launches(&cluster.finish(&again, 1)).remove(0);
        assert!(cluster.finish(&reader, 1).contains(&Effect::JobFinished { job: job("j") }));
    }
}

#[test]
fn a_stage_that_gives_other_rows_runs_again_as_a_whole_with_its_readers() {
    for deterministic in [true, false] {
        let mut cluster = Cluster::new(&[("a", 2), ("b", 2)]);
        let reader = StageSpec { inputs: vec![StageId(0)], ..stage(1, 2) };
        let stages = vec![StageSpec { deterministic, ..stage(0, 4) }, reader, last(2, 1, &[1])];
        let first = launches(&cluster.start("j", stages));
        cluster.finish(&first[0], 1);
        let readers = launches(&cluster.finish(&first[1], 1));
        let elsewhere = readers.iter().find(|reader| reader.executor != first[0].executor).unwrap();
        cluster.finish(elsewhere, 1);
        let effects = cluster.lose(first[0].executor.as_str());
        let resets = effects.iter().filter(|effect| matches!(effect, Effect::ResetStage { .. })).count();
        assert_eq!(resets, if deterministic { 0 } else { 2 });
        let partitions: usize = launches(&effects).iter().map(|task| task.partitions.len()).sum();
        assert_eq!(partitions, 2, "as many as there are slots");
        assert_eq!(launches(&effects)[0].task.stage_attempt, u32::from(!deterministic));
    }
}

#[test]
fn rows_at_the_client_are_never_mixed_with_others() {
    let mut cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let stages = vec![StageSpec { deterministic: false, ..stage(0, 2) }, last(1, 2, &[0])];
    let first = launches(&cluster.start("j", stages));
    cluster.finish(&first[0], 1);
    let readers = launches(&cluster.finish(&first[1], 1));
    cluster.stream(&readers[0]);
    cluster.stream(&readers[1]);
    assert_eq!(failure(&cluster.lose("a")), Some((job("j"), ErrorClass::Infra)));
}

#[test]
fn a_late_task_gets_a_second_attempt_and_the_first_success_counts() {
    let mut cluster = Cluster::new(&[("a", 2), ("b", 2)]);
    let tasks = launches(
        &cluster.start("j", vec![StageSpec { slicing: Slicing::PerSlot { max_partitions: 1 }, ..last(0, 4, &[]) }]),
    );
    cluster.now = 100;
    for task in &tasks[1..] {
        cluster.finish(task, 1);
    }
    cluster.now = 900;
    assert_eq!(launches(&cluster.step(Event::Tick)), []);
    cluster.now = 1_100;
    let copy = launches(&cluster.step(Event::Tick)).remove(0);
    assert_eq!((copy.task.task, copy.task.attempt), (tasks[0].task.task, 1));
    assert_ne!(copy.executor, tasks[0].executor);
    assert_eq!(launches(&cluster.step(Event::Tick)), []);
    let effects = cluster.finish(&copy, 1);
    assert_eq!(cancels(&effects), std::slice::from_ref(&tasks[0].task));
    assert!(effects.contains(&Effect::JobFinished { job: job("j") }));
}

#[test]
fn an_executor_that_keeps_failing_gets_no_tasks_for_a_while() {
    let mut cluster = Cluster::with(
        &[("a", 1), ("b", 1)],
        Limits { reserve_slots: 0, max_task_failures: 100, max_strikes: 3, ..Limits::default() },
    );
    cluster.start("busy", vec![last(0, 1, &[])]);
    let mut failed = 0;
    for name in ["j", "k", "l"] {
        let task = launches(&cluster.start(name, vec![last(0, 1, &[])])).remove(0);
        failed += launches(&cluster.fail(&task, ErrorClass::Transient)).len();
    }
    assert_eq!(failed, 0);
    let on_probation = |cluster: &Cluster| cluster.state.executors().filter(|view| view.on_probation).count();
    assert_eq!(on_probation(&cluster), 1);
    cluster.now = 50_000;
    cluster.heartbeat(&["a", "b"]);
    assert_eq!(launches(&cluster.step(Event::Tick)), []);
    cluster.now = 60_000;
    cluster.heartbeat(&["a", "b"]);
    assert_eq!(on_probation(&cluster), 0);
    // Whoever is the only one is not sent away.
    cluster.lose("b");
    for _ in 0..9 {
        cluster.now += 20_000;
        cluster.heartbeat(&["a"]);
        for task in launches(&cluster.step(Event::Tick)) {
            cluster.fail(&task, ErrorClass::Transient);
        }
        assert_eq!(on_probation(&cluster), 0);
    }
}

#[test]
fn a_replaced_incarnation_is_fenced_for_good() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let task = launches(&cluster.start("j", vec![stage(0, 1)])).remove(0);
    let effects = cluster.join("a", 2, 1);
    let fence = Effect::FenceExecutor { executor: executor("a"), incarnation: Incarnation(1) };
    assert_eq!(effects[0], fence);
    assert_eq!((failure(&effects), launches(&effects).len()), (None, 1));
    assert_eq!(cluster.finish(&task, 1), std::slice::from_ref(&fence));
    assert_eq!(cluster.join("a", 1, 1), [fence]);
    assert_eq!(cluster.state.executors().next().unwrap().incarnation, Incarnation(2));
}

#[test]
fn a_silent_executor_is_lost_when_its_lease_expires() {
    let mut cluster = Cluster::with(&[("a", 1), ("b", 1)], Limits { lease_millis: 10, ..Limits::default() });
    cluster.now = 9;
    cluster.step(Event::ExecutorHeartbeat { executor: executor("b"), incarnation: Incarnation(1) });
    assert_eq!(cluster.step(Event::Tick), []);
    cluster.now = 10;
    let fence = Effect::FenceExecutor { executor: executor("a"), incarnation: Incarnation(1) };
    assert_eq!(cluster.step(Event::Tick), [fence]);
    assert_eq!(cluster.state.executors().count(), 1);
}

#[test]
fn a_draining_executor_gets_no_task_and_keeps_its_jobs() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let task = launches(&cluster.start("j", vec![stage(0, 2)])).remove(0);
    cluster.step(Event::ExecutorDraining { executor: executor("a"), incarnation: Incarnation(1) });
    assert_eq!(cluster.finish(&task, 1), []);
    assert_eq!(cluster.state.executors().next().unwrap().jobs, 1);
    assert_eq!(placed(&cluster.join("b", 1, 1)), [("b".to_string(), vec![1])]);
}

#[test]
fn released_outputs_may_be_read_again() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let reading = |number| StageSpec { inputs: vec![StageId(0)], ..stage(number, 1) };
    let first = launches(&cluster.start("j", vec![stage(0, 1)])).remove(0);
    cluster.finish(&first, 1);
    let second = launches(&cluster.plan("j", vec![reading(1)])).remove(0);
    assert!(cluster.finish(&second, 1).iter().any(|effect| matches!(effect, Effect::ReleaseStage { .. })));
    assert_eq!(launches(&cluster.plan("j", vec![reading(2)])).len(), 1);
}
