// SPDX-License-Identifier: Apache-2.0
//! Queries that end before their time, and what must be left of them: nothing.

use std::time::Duration;

use ballista_core::{ErrorClass, JobId, PROTOCOL_VERSION};
use ballista_proto as proto;
use proto::task_status::Status as Outcome;

use super::harness::{Cluster, buckets, inline, request};
use crate::SchedulerBuilder;
use crate::shell::message::Message;

#[tokio::test]
async fn a_client_that_leaves_cancels_its_query_and_frees_all_of_it() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let query = cluster.submit("shuffle 2").await;
    let first = executor.launch().await.task.unwrap();
    executor.finish(&first, buckets(&[1])).await;
    let second = executor.launch().await.task.unwrap();
    let job = query.job.clone();
    drop(query);
    assert_eq!(executor.cancelled().await, second);
    assert_eq!(executor.freed().await, job);
    // Its slot is free again when the task has really ended.
    let mut other = cluster.submit("shuffle 1").await;
    other.is_quiet().await;
    executor.fail(&second, ErrorClass::Infra).await;
    assert_eq!(executor.launch().await.task.unwrap().job, other.job);
    drop(other);
    executor.cancelled().await;
}

#[tokio::test]
async fn cancelling_ends_a_query_once() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    let mut client = cluster.client().await;
    let cancel = proto::CancelJobRequest { job: query.job.clone() };
    assert!(client.cancel_job(cancel.clone()).await.unwrap().into_inner().found);
    let failure = query.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Infra);
    assert!(failure.message.contains("cancelled"), "{}", failure.message);
    assert_eq!(query.next().await, None);
    assert!(!client.cancel_job(cancel).await.unwrap().into_inner().found);
    assert_eq!(executor.cancelled().await, task);
    executor.freed().await;
    executor.fail(&task, ErrorClass::Infra).await;
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_failed_task_fails_its_query_with_its_class() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 2").await;
    let task = executor.launch().await.task.unwrap();
    executor.fail(&task, ErrorClass::User).await;
    let failure = query.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::User);
    assert!(failure.message.contains("scripted failure"), "{}", failure.message);
    assert_eq!(query.next().await, None);
}

#[tokio::test]
async fn what_a_lost_executor_held_or_ran_runs_again_elsewhere() {
    let cluster = Cluster::start();
    let mut a = cluster.executor("a", 1).await;
    let mut query = cluster.submit("shuffle 2").await;
    let first = a.launch().await.task.unwrap();
    a.finish(&first, buckets(&[1, 2])).await;
    let running = a.launch().await.task.unwrap();
    let mut b = cluster.executor("b", 1).await;
    drop(a);
    // Both tasks, whatever their order.
    let mut again = Vec::new();
    for _ in 0..2 {
        let task = b.launch().await.task.unwrap();
        assert_eq!(task.attempt, 1);
        b.finish(&task, buckets(&[10, 20])).await;
        again.push(task.task);
    }
    again.sort_unstable();
    assert_eq!(again, [first.task, running.task]);
    let last = b.launch().await;
    // Nothing of the lost executor is read, or counted.
    let sources = &last.inputs[0].sources;
    assert_eq!(sources.len(), 1);
    assert_eq!((sources[0].outputs.len(), sources[0].bucket_rows.as_slice()), (2, [20, 40].as_slice()));
    b.finish(&last.task.unwrap(), inline(b"")).await;
    query.part().await;
    query.finished().await;
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_part_that_the_client_cannot_read_comes_again() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    executor.status(&task, Outcome::Streaming(proto::TaskStreaming {})).await;
    assert_eq!(query.part().await.task.unwrap().attempt, 0);
    let unread = proto::ReportPartRequest { task: Some(task.clone()), unread: Some("connection reset".into()) };
    cluster.client().await.report_part(unread.clone()).await.unwrap();
    assert_eq!(executor.cancelled().await, task);
    executor.fail(&task, ErrorClass::Infra).await;
    let again = executor.launch().await.task.unwrap();
    assert_eq!((again.task, again.attempt), (task.task, 1));
    // The report of an attempt that is over changes nothing.
    cluster.client().await.report_part(unread).await.unwrap();
    executor.finish(&again, inline(b"x")).await;
    assert_eq!(query.part().await.inline.as_ref(), b"x");
    assert_eq!(query.finished().await.parts, 1);
    cluster.is_empty().await;
}

#[tokio::test]
async fn passing_faults_are_tried_again_and_the_last_error_is_told() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    for attempt in 0..4 {
        let task = executor.launch().await.task.unwrap();
        assert_eq!(task.attempt, attempt);
        executor.fail(&task, ErrorClass::Transient).await;
    }
    let failure = query.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Transient);
    assert!(failure.message.contains("scripted failure (the last of 4 attempts)"), "{}", failure.message);
    cluster.is_empty().await;
}

#[tokio::test]
async fn duplicate_and_late_statuses_change_nothing() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("shuffle 2").await;
    let first = executor.launch().await.task.unwrap();
    executor.finish(&first, buckets(&[1, 2])).await;
    // The same status again, then the same outcome under a new number, then another outcome.
    executor.repeat_status(&first, Outcome::Finished(buckets(&[1, 2]))).await;
    executor.finish(&first, buckets(&[100, 200])).await;
    executor.fail(&first, ErrorClass::User).await;
    let second = executor.launch().await.task.unwrap();
    executor.finish(&second, buckets(&[10, 20])).await;
    let last = executor.launch().await;
    assert_eq!(last.inputs[0].sources[0].bucket_rows, [11, 22]);
    assert_eq!(cluster.script.results.lock()[0].rows, 33);
    executor.finish(&first, buckets(&[1000, 2000])).await;
    let last = last.task.unwrap();
    executor.finish(&last, inline(b"x")).await;
    executor.finish(&last, inline(b"y")).await;
    assert_eq!(query.part().await.inline.as_ref(), b"x");
    assert_eq!(query.finished().await.parts, 1);
    executor.status(&last, Outcome::Streaming(proto::TaskStreaming {})).await;
    executor.finish(&last, inline(b"z")).await;
    cluster.is_empty().await;
    let mut next = cluster.submit("final 1").await;
    let task = loop {
        if let Some(proto::scheduler_message::Message::Launch(launch)) = executor.next().await {
            break launch.task.unwrap();
        }
    };
    executor.finish(&task, inline(b"")).await;
    next.part().await;
    next.finished().await;
}

#[tokio::test]
async fn a_task_that_counts_other_buckets_than_its_stage_fails_the_query() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("shuffle 2").await;
    let first = executor.launch().await.task.unwrap();
    executor.finish(&first, buckets(&[1, 2])).await;
    let second = executor.launch().await.task.unwrap();
    executor.finish(&second, buckets(&[1])).await;
    let failure = query.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Deterministic);
    assert!(failure.message.contains("1 buckets, other tasks 2"), "{}", failure.message);
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_planner_that_panics_or_fails_ends_only_its_query() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut bystander = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    let failure = cluster.submit("panic").await.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Deterministic);
    assert!(failure.message.contains("scripted panic"), "{}", failure.message);
    let failure = cluster.submit("error").await.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::User);
    assert!(failure.message.contains("scripted error"), "{}", failure.message);
    executor.finish(&task, inline(b"")).await;
    bystander.part().await;
    bystander.finished().await;
    let mut late = cluster.submit("shuffle 1 panic").await;
    let task = loop {
        if let Some(proto::scheduler_message::Message::Launch(launch)) = executor.next().await {
            break launch.task.unwrap();
        }
    };
    executor.finish(&task, buckets(&[1])).await;
    assert_eq!(ErrorClass::from_code(late.failed().await.class), ErrorClass::Deterministic);
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_panic_in_the_loop_fails_its_job_and_nothing_else() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 2).await;
    let mut hit = cluster.submit("final 1").await;
    let hit_task = executor.launch().await.task.unwrap();
    let mut spared = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    let job = Some(JobId::new(&hit.job).unwrap());
    let look = Box::new(|_: &_| panic!("injected panic"));
    cluster.serving.scheduler().handle.send(Message::Inspect { job, look }).await.unwrap();
    let failure = hit.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Deterministic);
    assert!(failure.message.contains("injected panic"), "{}", failure.message);
    assert_eq!(executor.cancelled().await, hit_task);
    executor.fail(&hit_task, ErrorClass::Infra).await;
    executor.finish(&task, inline(b"")).await;
    spared.part().await;
    spared.finished().await;
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_query_waits_for_an_executor_and_fails_with_advice_when_none_comes() {
    let wait = Duration::from_millis(300);
    let cluster = Cluster::start_with(SchedulerBuilder::new().no_executor_wait(wait));
    let started = std::time::Instant::now();
    let failure = cluster.submit("final 1").await.failed().await;
    assert!(started.elapsed() >= wait);
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Infra);
    assert!(failure.message.contains("ballista-executor"), "{}", failure.message);
    cluster.is_empty().await;

    let mut query = cluster.submit("final 1").await;
    let mut executor = cluster.executor("a", 1).await;
    let task = executor.launch().await.task.unwrap();
    executor.finish(&task, inline(b"")).await;
    query.part().await;
    query.finished().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_an_executor_leaves_nothing() {
    let cluster = Cluster::start();
    let query = cluster.submit("final 1").await;
    assert!(cluster.inspect(|shell| shell.leftovers()).await > 0);
    drop(query);
    cluster.is_empty().await;
}

#[tokio::test]
async fn more_queries_than_the_limit_are_refused_with_a_class() {
    let cluster = Cluster::start_with(SchedulerBuilder::new().max_jobs(1));
    let mut executor = cluster.executor("a", 1).await;
    let _first = cluster.submit("final 1").await;
    executor.launch().await;
    let mut second = cluster.submit("final 1").await;
    assert_eq!(ErrorClass::from_code(second.failed().await.class), ErrorClass::Resource);
    assert_eq!(second.next().await, None);
}

#[tokio::test]
async fn clients_of_other_versions_are_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.client().await;
    let old = proto::ExecuteRequest { datafusion_version: "1.0.0".into(), ..request("final 1") };
    let status = client.execute(old).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("1.0.0"), "{status}");
    assert_eq!(ballista_exchange::status::from_status(&status).unwrap().class, ErrorClass::User);
    let new = proto::ExecuteRequest { protocol_version: PROTOCOL_VERSION + 2, ..request("final 1") };
    assert_eq!(client.execute(new).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    let next = proto::ExecuteRequest { protocol_version: PROTOCOL_VERSION + 1, ..request("final 1") };
    client.execute(next).await.unwrap();
}

#[tokio::test]
async fn stopping_tells_clients_and_executors() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    executor.launch().await;
    let Cluster { serving, .. } = cluster;
    super::harness::soon(serving.shutdown()).await.unwrap();
    let failure = query.failed().await;
    assert_eq!(ErrorClass::from_code(failure.class), ErrorClass::Infra);
    assert!(failure.message.contains("stopped"), "{}", failure.message);
    assert_eq!(executor.next().await, None);
}
