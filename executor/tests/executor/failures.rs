// SPDX-License-Identifier: Apache-2.0
//! Tasks that fail, are cancelled, or come twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ballista_core::ErrorClass;
use ballista_executor::ExecutorError;
use ballista_plan::stage::StageOutput;

use crate::cluster::{Cluster, inline, inputs};
use crate::plans::{ENDLESS, IN_ENDLESS, call, hash, ids, reader, scan};
use crate::scheduler::Heard;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_ends_promptly_and_leaves_nothing() {
    let mut cluster = Cluster::start(&["e1"]).await;
    // Two minutes of work.
    cluster.plan(0, call("slow", scan(&[0..6000, 0..6000], 1)), hash(4));
    let key = cluster.launch("e1", 0, 0, &[0, 1], &[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let cancelled = Instant::now();
    cluster.cancel("e1", &key);
    let (class, message) = cluster.failed("e1", &key).await;
    assert_eq!((class, message.as_str()), (ErrorClass::Infra, "cancelled"));
    assert!(cancelled.elapsed() < Duration::from_secs(2));
    cluster.holds_nothing("e1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freeing_a_job_stops_its_tasks_and_frees_its_outputs() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..5000], 1000), hash(4));
    cluster.plan(1, call("slow", scan(&[0..6000], 1)), hash(4));
    cluster.run("e1", 0, 0, &[0], &[]).await;
    cluster
        .hear("e1", |heard| match heard {
            Heard::Heartbeat(beat) if beat.store_bytes + beat.disk_used > 0 => Some(()),
            _ => None,
        })
        .await;
    let running = cluster.launch("e1", 1, 0, &[0], &[]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.free_job("e1");
    assert_eq!(cluster.failed("e1", &running).await.0, ErrorClass::Infra);
    cluster.holds_nothing("e1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_function_fails_its_task_alone() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, call("boom", scan(&[0..10, 10..20], 5)), hash(2));
    cluster.plan(1, scan(&[0..10], 5), hash(2));
    let key = cluster.launch("e1", 0, 0, &[0, 1], &[]);
    let (class, message) = cluster.failed("e1", &key).await;
    assert_eq!(class, ErrorClass::Deterministic);
    assert!(message.contains("boom in a function"), "{message}");
    assert_eq!(cluster.run("e1", 1, 0, &[0], &[]).await.output.rows, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_that_computes_on_for_ever_ends_the_executor_once_the_others_are_done() {
    let mut cluster = Cluster::empty().await;
    let builder = cluster.builder("e1").await.with_stuck_task_limit(Duration::from_millis(200));
    cluster.add("e1", builder).await;
    cluster.plan(0, call("endless", scan(&[0..10], 5)), hash(2));
    // A second of work.
    cluster.plan(1, call("slow", scan(&[0..50], 1)), hash(2));
    let endless = cluster.launch("e1", 0, 0, &[0], &[]);
    let other = cluster.launch("e1", 1, 0, &[0], &[]);
    while !IN_ENDLESS.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.cancel("e1", &endless);
    cluster.hear("e1", |heard| matches!(heard, Heard::Draining).then_some(())).await;
    assert_eq!(cluster.finished("e1", &other).await.output.rows, 50);
    cluster.free_job("e1");
    let mut executor = cluster.executors.remove("e1").unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), executor.wait()).await.unwrap();
    ENDLESS.store(false, Ordering::Relaxed);
    assert!(matches!(ended, Err(ExecutorError::Stuck)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_comes_twice_runs_once() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..10], 5), hash(2));
    let key = cluster.launch("e1", 0, 0, &[0], &[]);
    cluster.launch("e1", 0, 0, &[0], &[]);
    cluster.finished("e1", &key).await;
    cluster.launch("e1", 0, 0, &[0], &[]);
    // The next status is that of another task, numbered 2.
    let other = cluster.launch("e1", 0, 1, &[0], &[]);
    assert_eq!(cluster.status("e1", &other).await.0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scalar_subquery_has_one_row_or_none() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..1, 0..0], 5), StageOutput::Scalar);
    cluster.plan(1, scan(&[0..0], 5), StageOutput::Scalar);
    cluster.plan(2, scan(&[0..1, 1..2], 5), StageOutput::Scalar);
    assert_eq!(ids(&inline(&cluster.run("e1", 0, 0, &[0, 1], &[]).await)), [0]);
    assert!(ids(&inline(&cluster.run("e1", 1, 0, &[0], &[]).await)).is_empty());
    let key = cluster.launch("e1", 2, 0, &[0, 1], &[]);
    let (class, message) = cluster.failed("e1", &key).await;
    assert_eq!((class, message.as_str()), (ErrorClass::User, "scalar subquery returned more than one row"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_is_gone_is_a_fetch_error_that_names_the_producer() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    cluster.plan(0, scan(&[0..100], 10), hash(2));
    cluster.plan(1, Arc::new(reader(0, &[0..2])), StageOutput::Result { ordered: false });
    let done = cluster.run("e1", 0, 0, &[0], &[]).await;
    cluster.free_job("e1");
    cluster.holds_nothing("e1").await;
    for executor in ["e2", "e1"] {
        let key = cluster.launch(executor, 1, 0, &[0], &[inputs(0, std::slice::from_ref(&done))]);
        let (class, message) = cluster.failed(executor, &key).await;
        assert_eq!(class, ErrorClass::Fetch, "{message}");
        assert!(message.contains("e1"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_run_fails_with_its_class() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..10], 5), hash(2));
    // No such stage: its attempt is over.
    let unknown = cluster.launch("e1", 9, 0, &[0], &[]);
    assert_eq!(cluster.failed("e1", &unknown).await.0, ErrorClass::Fenced);
    // No such partition: the engine's fault.
    let outside = cluster.launch("e1", 0, 0, &[7], &[]);
    assert_eq!(cluster.failed("e1", &outside).await.0, ErrorClass::Deterministic);
    // No such setting: the user's.
    cluster.set("ballista.no.such", "1");
    let misspelt = cluster.launch("e1", 0, 1, &[0], &[]);
    assert_eq!(cluster.failed("e1", &misspelt).await.0, ErrorClass::User);
    // A cancel for a task that never arrived is answered, so that nobody waits.
    let never = crate::cluster::key(3, 3);
    cluster.cancel("e1", &never);
    assert_eq!(cluster.failed("e1", &never).await.0, ErrorClass::Infra);
}
