// SPDX-License-Identifier: Apache-2.0
//! The session with the scheduler: registration, reconnection, fencing, draining.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ballista_core::{ErrorClass, PROTOCOL_VERSION};
use ballista_executor::{ExecutorBuilder, ExecutorError, hash_fingerprint};
use ballista_plan::stage::StageOutput;
use ballista_proto as proto;
use proto::scheduler_message::Message as Down;
use proto::scheduler_service_server::SchedulerServiceServer;

use crate::cluster::{Cluster, inputs};
use crate::plans::{call, hash, reader, scan};
use crate::scheduler::{FakeScheduler, Heard};

async fn registered(cluster: &mut Cluster, executor: &str) -> proto::Register {
    cluster
        .hear(executor, |heard| match heard {
            Heard::Registered(register) => Some(register),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_says_who_and_what_the_executor_is() {
    let mut cluster = Cluster::empty().await;
    let handle = cluster.builder("e1").await.start().await.unwrap();
    let register = registered(&mut cluster, "e1").await;
    assert_eq!(register.protocol_version, PROTOCOL_VERSION);
    assert_eq!(register.datafusion_version, datafusion::DATAFUSION_VERSION);
    assert_eq!(register.hash_fingerprint, hash_fingerprint());
    assert_eq!((register.slots, register.memory_bytes), (2, 256 << 20));
    assert_eq!(register.address.unwrap(), handle.address().to_proto());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_survive_a_lost_connection_until_they_are_acknowledged() {
    let mut cluster = Cluster::start(&["e1"]).await;
    let incarnation = cluster.executors["e1"].incarnation();
    cluster.scheduler.acknowledge.store(false, Ordering::Relaxed);
    cluster.plan(0, scan(&[0..10], 5), hash(2));
    cluster.plan(1, call("slow", scan(&[0..30], 1)), hash(2));
    let first = cluster.launch("e1", 0, 0, &[0], &[]);
    assert_eq!(cluster.status("e1", &first).await.0, 1);
    // This one ends while there is no connection.
    let second = cluster.launch("e1", 1, 0, &[0], &[]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.scheduler.disconnect("e1");
    let register = registered(&mut cluster, "e1").await;
    assert_eq!(register.address.unwrap().incarnation, incarnation.0);
    assert_eq!(cluster.status("e1", &first).await.0, 1);
    assert_eq!(cluster.status("e1", &second).await.0, 2);
    // What is acknowledged never comes again.
    cluster.scheduler.tell("e1", Down::Ack(proto::StatusAck { sequence: 1 }));
    cluster.scheduler.tell("e1", Down::FreeStage(proto::FreeStage { job: "job".into(), stage: 7, stage_attempt: 0 }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.scheduler.disconnect("e1");
    registered(&mut cluster, "e1").await;
    let next = cluster
        .hear("e1", |heard| match heard {
            Heard::Status(status) => Some(status.sequence),
            _ => None,
        })
        .await;
    assert_eq!(next, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_executor_drops_everything_and_comes_back_as_another() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    cluster.plan(0, scan(&[0..1000], 100), hash(2));
    cluster.plan(1, call("slow", scan(&[0..6000], 1)), hash(2));
    cluster.plan(2, Arc::new(reader(0, &[0..2])), StageOutput::Result { ordered: false });
    let done = cluster.run("e1", 0, 0, &[0], &[]).await;
    cluster.launch("e1", 1, 0, &[0], &[]);
    cluster.scheduler.tell("e1", Down::Fenced(proto::Fenced { reason: "lease expired".into() }));
    let register = registered(&mut cluster, "e1").await;
    assert_ne!(register.address.unwrap().incarnation, done.address.incarnation.0);
    cluster.executors["e1"].registered().await.unwrap();
    cluster.holds_nothing("e1").await;
    // Statuses are numbered anew, and nothing of the old life is said.
    let again = cluster.launch("e1", 0, 0, &[0], &[]);
    assert_eq!(cluster.status("e1", &again).await.0, 1);
    // A consumer that was sent to the old life learns that its data is lost.
    let reading = cluster.launch("e2", 2, 0, &[0], &[inputs(0, &[done])]);
    let (class, message) = cluster.failed("e2", &reading).await;
    assert_eq!(class, ErrorClass::Fetch, "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_executor_finishes_its_tasks_and_serves_until_nobody_needs_it() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    cluster.plan(0, call("slow", scan(&[0..20], 1)), hash(2));
    cluster.plan(1, Arc::new(reader(0, &[0..2])), StageOutput::Result { ordered: false });
    let key = cluster.launch("e1", 0, 0, &[0], &[]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.executors["e1"].drain();
    cluster.hear("e1", |heard| matches!(heard, Heard::Draining).then_some(())).await;
    let done = cluster.finished("e1", &key).await;
    let read = cluster.run("e2", 1, 0, &[0], &[inputs(0, &[done])]).await;
    assert_eq!(read.output.rows, 20);
    let mut leaving = cluster.executors.remove("e1").unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), leaving.wait()).await.is_err());
    cluster.free_job("e1");
    tokio::time::timeout(Duration::from_secs(10), leaving.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_not_needed_leaves_at_once_and_removes_its_files() {
    let mut cluster = Cluster::empty().await;
    let work_dir = tempfile::tempdir().unwrap();
    let handle = cluster.builder("e1").await.with_work_dir(work_dir.path()).start().await.unwrap();
    registered(&mut cluster, "e1").await;
    handle.registered().await.unwrap();
    let own = work_dir.path().join(format!("{:016x}", handle.incarnation().0));
    assert!(own.is_dir());
    tokio::time::timeout(Duration::from_secs(10), handle.shutdown()).await.unwrap().unwrap();
    cluster.hear("e1", |heard| matches!(heard, Heard::Draining).then_some(())).await;
    // The directory goes with the last reference to the store, which a connection may hold for another moment.
    for _ in 0..50 {
        if !own.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} is still there", own.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_executor_ends_and_says_why() {
    let cluster = Cluster::empty().await;
    cluster.scheduler.refuse.store(true, Ordering::Relaxed);
    let mut handle = cluster.builder("e1").await.start().await.unwrap();
    let error = handle.wait().await.unwrap_err();
    assert!(matches!(&error, ExecutorError::Refused(why) if why.contains("DataFusion")), "{error}");
    assert!(handle.registered().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_works_with_the_version_before_its_own_and_the_next_and_no_other() {
    for (theirs, goes) in [
        // The first version does not say which it is.
        (0, PROTOCOL_VERSION == 2),
        (PROTOCOL_VERSION - 1, true),
        (PROTOCOL_VERSION + 1, true),
        (PROTOCOL_VERSION + 2, false),
    ] {
        let cluster = Cluster::empty().await;
        cluster.scheduler.protocol_version.store(theirs, Ordering::Relaxed);
        let mut handle = cluster.builder("e1").await.start().await.unwrap();
        assert_eq!(handle.registered().await.is_ok(), goes, "{theirs}");
        if !goes {
            let error = handle.wait().await.unwrap_err();
            assert!(matches!(&error, ExecutorError::Refused(why) if why.contains("protocol version")), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_an_executor_waits_for_its_scheduler_and_serves_on_its_port() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let handle = ExecutorBuilder::new().with_slots(1).with_scheduler("127.0.0.1", port).start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (scheduler, _ears) = FakeScheduler::new();
    let address = ([127, 0, 0, 1], port).into();
    tokio::spawn(
        tonic::transport::Server::builder().add_service(SchedulerServiceServer::new(scheduler)).serve(address),
    );
    tokio::time::timeout(Duration::from_secs(10), handle.registered()).await.unwrap().unwrap();
    assert_ne!(handle.address().port, 0);
    tokio::net::TcpStream::connect(("127.0.0.1", handle.address().port)).await.unwrap();
    handle.shutdown().await.unwrap();
}
