// SPDX-License-Identifier: Apache-2.0
//! One promise per test, on a cluster small enough to follow by hand.

#![allow(clippy::unwrap_used)]

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskKey, UnreadInput};
use ballista_scheduler_core::{
    Effect, Event, Instant64, JobState, Limits, OutputStats, PlanReason, Slicing, StageFinished, StageSpec, State,
};

fn executor(name: &str) -> ExecutorId {
    ExecutorId::new(name).unwrap()
}

fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn stage(number: u32, partitions: u32) -> StageSpec {
    StageSpec {
        stage: StageId(number),
        partitions,
        slicing: Slicing::PerSlot { max_partitions: 16 },
        inputs: vec![],
        row_limit: None,
        is_final: false,
        commits: false,
        is_kept: false,
        deterministic: true,
        preferred: vec![],
    }
}

/// A launch, reduced to what tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Launched {
    task: TaskKey,
    executor: ExecutorId,
    partitions: Vec<u32>,
    slots: u32,
}

struct Cluster {
    state: State,
    now: u64,
}

impl Cluster {
    fn new(executors: &[(&str, u32)]) -> Self {
        Self::with(executors, Limits { reserve_slots: 0, ..Limits::default() })
    }

    fn with(executors: &[(&str, u32)], limits: Limits) -> Self {
        let mut cluster = Self { state: State::new(limits), now: 0 };
        for (name, slots) in executors {
            cluster.join(name, 1, *slots);
        }
        cluster
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.state.step(event, Instant64(self.now));
        self.state.check_invariants().unwrap();
        effects
    }

    fn join(&mut self, name: &str, incarnation: u64, slots: u32) -> Vec<Effect> {
        let incarnation = Incarnation(incarnation);
        self.step(Event::ExecutorJoined { executor: executor(name), incarnation, slots })
    }

    fn lose(&mut self, name: &str) -> Vec<Effect> {
        let reason = "stream closed".to_string();
        self.step(Event::ExecutorLost { executor: executor(name), incarnation: Incarnation(1), reason })
    }

    fn submit(&mut self, name: &str) -> Vec<Effect> {
        self.step(Event::JobSubmitted { job: job(name), weight: 1 })
    }

    fn plan(&mut self, name: &str, stages: Vec<StageSpec>) -> Vec<Effect> {
        self.plan_as(name, stages, false)
    }

    fn plan_as(&mut self, name: &str, stages: Vec<StageSpec>, small: bool) -> Vec<Effect> {
        let complete = stages.iter().any(|stage| stage.is_final);
        self.step(Event::Planned { job: job(name), stages, small, complete })
    }

    /// Submits and plans at once.
    fn start(&mut self, name: &str, stages: Vec<StageSpec>) -> Vec<Effect> {
        self.submit(name);
        self.plan(name, stages)
    }

    fn finish(&mut self, launched: &Launched, rows: u64) -> Vec<Effect> {
        let output = OutputStats { rows, bytes: rows };
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFinished { task, executor, incarnation: Incarnation(1), output, delivered: false })
    }

    fn fail(&mut self, launched: &Launched, class: ErrorClass) -> Vec<Effect> {
        let error = ClassifiedError::new(class, "broken");
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFailed { task, executor, incarnation: Incarnation(1), error })
    }

    fn fail_to_read(&mut self, launched: &Launched, input: UnreadInput) -> Vec<Effect> {
        let error = ClassifiedError::new(ErrorClass::Fetch, "broken").with_unread(Some(input));
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskFailed { task, executor, incarnation: Incarnation(1), error })
    }

    fn heartbeat(&mut self, names: &[&str]) {
        for name in names {
            self.step(Event::ExecutorHeartbeat { executor: executor(name), incarnation: Incarnation(1) });
        }
    }

    fn stream(&mut self, launched: &Launched) -> Vec<Effect> {
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskStreaming { task, executor, incarnation: Incarnation(1) })
    }

    fn commit(&mut self, launched: &Launched) -> Vec<Effect> {
        let (task, executor) = (launched.task.clone(), launched.executor.clone());
        self.step(Event::TaskCommitted { task, executor, incarnation: Incarnation(1) })
    }

    fn used(&self, name: &str) -> (u32, u32) {
        let view = self.state.executors().find(|view| view.executor == executor(name)).unwrap();
        (view.slots_used, view.reserve_used)
    }
}

fn launches(effects: &[Effect]) -> Vec<Launched> {
    let launch = |effect: &Effect| match effect.clone() {
        Effect::Launch { task, executor, partitions, slots, .. } => {
            Some(Launched { task, executor, partitions, slots })
        }
        _ => None,
    };
    effects.iter().filter_map(launch).collect()
}

/// Where partitions were launched, by executor.
fn placed(effects: &[Effect]) -> Vec<(String, Vec<u32>)> {
    launches(effects).into_iter().map(|launch| (launch.executor.to_string(), launch.partitions)).collect()
}

fn cancels(effects: &[Effect]) -> Vec<TaskKey> {
    let cancel = |effect: &Effect| match effect {
        Effect::CancelTask { task, .. } => Some(task.clone()),
        _ => None,
    };
    effects.iter().filter_map(cancel).collect()
}

fn failure(effects: &[Effect]) -> Option<(JobId, ErrorClass)> {
    effects.iter().find_map(|effect| match effect {
        Effect::JobFailed { job, error } => Some((job.clone(), error.class)),
        _ => None,
    })
}

fn finished(effects: &[Effect]) -> Option<StageFinished> {
    effects.iter().find_map(|effect| match effect {
        Effect::Plan { reason: PlanReason::Finished(finished), .. } => Some(finished.clone()),
        _ => None,
    })
}

fn last(number: u32, partitions: u32, inputs: &[u32]) -> StageSpec {
    let inputs = inputs.iter().copied().map(StageId).collect();
    StageSpec { inputs, is_final: true, ..stage(number, partitions) }
}

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

fn is_freed(effects: &[Effect], id: &str) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::FreeJob { job: freed, .. } if *freed == job(id)))
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
fn released_outputs_may_be_read_again() {
    let mut cluster = Cluster::new(&[("a", 1)]);
    let reading = |number| StageSpec { inputs: vec![StageId(0)], ..stage(number, 1) };
    let first = launches(&cluster.start("j", vec![stage(0, 1)])).remove(0);
    cluster.finish(&first, 1);
    let second = launches(&cluster.plan("j", vec![reading(1)])).remove(0);
    assert!(cluster.finish(&second, 1).iter().any(|effect| matches!(effect, Effect::ReleaseStage { .. })));
    assert_eq!(launches(&cluster.plan("j", vec![reading(2)])).len(), 1);
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
