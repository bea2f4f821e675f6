// SPDX-License-Identifier: Apache-2.0
//! Executors that join, leave and misbehave.

use std::time::Duration;

use ballista_core::{ErrorClass, PROTOCOL_VERSION};
use ballista_proto as proto;
use proto::executor_message::Message as FromExecutor;

use super::harness::{Cluster, inline, registration, soon};
use crate::SchedulerBuilder;

#[tokio::test]
async fn the_welcome_says_how_to_stay() {
    let cluster = Cluster::start_with(SchedulerBuilder::new().lease(Duration::from_secs(20)));
    let welcome = cluster.executor("a", 1).await.welcome.unwrap();
    assert_eq!((welcome.lease_millis, welcome.heartbeat_millis), (20_000, 4_000));
    assert_eq!(welcome.ticket_key.len(), 32);
    assert!(welcome.scheduler_epoch > 0);
}

#[tokio::test]
async fn executors_that_would_give_wrong_answers_may_not_join() {
    let cluster = Cluster::start();
    let _first = cluster.executor("a", 1).await;
    let refused = [
        proto::Register { protocol_version: PROTOCOL_VERSION + 2, ..registration("b", 1) },
        proto::Register { protocol_version: PROTOCOL_VERSION - 2, ..registration("b", 1) },
        proto::Register { datafusion_version: "1.0.0".into(), ..registration("b", 1) },
        proto::Register { hash_fingerprint: 43, ..registration("b", 1) },
    ];
    for register in refused {
        let status = cluster.register(register).await.err().unwrap();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    }
    let mut evil = registration("b", 1);
    evil.address.as_mut().unwrap().executor = "../b".into();
    assert_eq!(cluster.register(evil).await.err().unwrap().code(), tonic::Code::InvalidArgument);
    // Neighbours work together, so that a cluster is upgraded one process after the other.
    for (name, protocol_version) in [("b", PROTOCOL_VERSION), ("c", PROTOCOL_VERSION - 1), ("d", PROTOCOL_VERSION + 1)]
    {
        cluster.register(proto::Register { protocol_version, ..registration(name, 1) }).await.unwrap();
    }
}

#[tokio::test]
async fn an_incarnation_has_one_session_and_one_life() {
    let cluster = Cluster::start();
    let register = registration("a", 1);
    let mut first = cluster.register(register.clone()).await.unwrap();
    // Its connection broke, and the scheduler has not noticed yet.
    let mut second = cluster.register(register.clone()).await.unwrap();
    assert!(second.welcome.is_some());
    assert_eq!(first.next().await, None);
    // Nobody is at its address, so the end of the session is the end of this life.
    drop(second.outgoing);
    second.outgoing = tokio::sync::mpsc::channel(1).0;
    assert_eq!(second.next().await, None);
    soon(async {
        while cluster.inspect(|shell| shell.cluster().executors.len()).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // It hears that before anything else, and so begins another life at once.
    let register = proto::Register { jobs: vec!["gone".to_owned()], ..register };
    let mut again = cluster.register(register).await.unwrap();
    assert!(again.welcome.is_none());
    assert_eq!(again.next().await, None);
    assert!(cluster.executor("a", 1).await.welcome.is_some());
}

#[tokio::test]
async fn a_new_process_takes_the_place_of_the_old_one() {
    let cluster = Cluster::start();
    let mut old = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    old.launch().await;
    let mut new = cluster.executor("a", 1).await;
    let again = new.launch().await.task.unwrap();
    assert_eq!(again.attempt, 1);
    new.finish(&again, inline(b"")).await;
    query.part().await;
    query.finished().await;
    old.fenced().await;
}

#[tokio::test]
async fn an_executor_without_heartbeat_is_lost_and_one_with_it_is_not() {
    let lease = Duration::from_millis(400);
    let cluster = Cluster::start_with(SchedulerBuilder::new().lease(lease).heartbeat(Duration::from_millis(80)));
    let alive = cluster.executor("alive", 1).await;
    let beat = alive.outgoing.clone();
    tokio::spawn(async move {
        let message = FromExecutor::Heartbeat(proto::Heartbeat::default());
        let message = proto::ExecutorMessage { message: Some(message) };
        while beat.send(message.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    });
    let mut silent = cluster.executor("silent", 1).await;
    silent.fenced().await;
    let seen = cluster.client().await.get_cluster(proto::GetClusterRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = seen.executors.into_iter().map(|executor| executor.address.unwrap().executor).collect();
    assert_eq!(names, ["alive"]);
}

#[tokio::test]
async fn statuses_are_acknowledged_up_to_the_last_one() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let query = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    drop(query);
    executor.cancelled().await;
    executor.freed().await;
    for _ in 0..3 {
        executor.fail(&task, ErrorClass::Infra).await;
    }
    let mut acknowledged = 0;
    while acknowledged < 3 {
        let ack = executor.ack().await;
        assert!(ack > acknowledged);
        acknowledged = ack;
    }
    executor.repeat_status(&task, proto::task_status::Status::Failed(proto::Failure::default())).await;
    assert_eq!(executor.ack().await, 3);
}

#[tokio::test]
async fn a_message_that_makes_no_sense_ends_the_session() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    executor.say(FromExecutor::Status(proto::TaskStatus::default())).await;
    assert_eq!(executor.next().await, None);
}

#[tokio::test]
async fn a_draining_executor_ends_its_tasks_and_gets_no_more() {
    let cluster = Cluster::start();
    let mut leaving = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    let task = leaving.launch().await.task.unwrap();
    leaving.say(FromExecutor::Draining(proto::Draining {})).await;
    let mut staying = cluster.executor("b", 1).await;
    let mut other = cluster.submit("final 1").await;
    let other_task = staying.launch().await.task.unwrap();
    leaving.finish(&task, inline(b"a")).await;
    staying.finish(&other_task, inline(b"b")).await;
    assert_eq!(query.part().await.inline.as_ref(), b"a");
    assert_eq!(other.part().await.inline.as_ref(), b"b");
}
