// SPDX-License-Identifier: Apache-2.0
//! Connections that break and schedulers that end, with the executor's and the client's side played by the test.

use std::time::Duration;

use ballista_core::{ErrorClass, JobId};
use ballista_proto as proto;
use ballista_proto::journal::Starts;
use prost::bytes::Bytes;
use proto::job_event::Event;
use tokio::net::TcpListener;

use super::harness::{Cluster, Executor, Query, buckets, inline, registration, request, soon};
use crate::SchedulerBuilder;
use crate::journal::store::SledStore;
use crate::journal::{Op, Store, keys};

fn keyed(plan: &str, key: &str) -> proto::ExecuteRequest {
    proto::ExecuteRequest { key: key.to_owned(), ..request(plan) }
}

async fn execute(cluster: &Cluster, request: proto::ExecuteRequest) -> Query {
    Query::open(cluster.client().await.execute(request).await.unwrap().into_inner()).await
}

/// A task as its executor brings it along.
fn held(launch: &proto::Launch, finished: Option<proto::TaskOutput>) -> proto::HeldTask {
    let (task, partitions, slots) = (launch.task.clone(), launch.partitions.clone(), launch.slots);
    proto::HeldTask { task, partitions, slots, streaming: false, finished }
}

/// An executor where somebody answers, so that it counts as there.
async fn answering(name: &str, slots: u32) -> (TcpListener, proto::Register) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut register = registration(name, slots);
    let address = register.address.as_mut().unwrap();
    address.host = "127.0.0.1".to_owned();
    address.port = u32::from(listener.local_addr().unwrap().port());
    (listener, register)
}

async fn back(cluster: &Cluster, register: &proto::Register, held: Vec<proto::HeldTask>) -> Executor {
    cluster.register(proto::Register { held, ..register.clone() }).await.unwrap()
}

#[tokio::test]
async fn a_query_goes_on_after_a_restart_with_what_its_executor_brings() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Cluster::start_with(SchedulerBuilder::new().state_dir(dir.path()));
    let cluster = start();
    let (_listener, register) = answering("a", 1).await;
    let mut executor = back(&cluster, &register, vec![]).await;
    let query = execute(&cluster, keyed("shuffle 3", "k")).await;
    let first = executor.launch().await;
    executor.finish(first.task.as_ref().unwrap(), buckets(&[1, 2])).await;
    let second = executor.launch().await;
    cluster.serving.shutdown().await.unwrap();

    let cluster = start();
    let mut client = cluster.client().await;
    let again = tokio::spawn(async move { client.execute(keyed("shuffle 3", "k")).await });
    // The first task is over, the second one has ended meanwhile, the third one was never launched.
    let brought = vec![held(&first, Some(buckets(&[1, 2]))), held(&second, None)];
    let mut executor = back(&cluster, &register, brought).await;
    executor.finish(second.task.as_ref().unwrap(), buckets(&[3, 4])).await;
    let third = executor.launch().await;
    assert_ne!(third.partitions, first.partitions);
    assert_ne!(third.partitions, second.partitions);
    executor.finish(third.task.as_ref().unwrap(), buckets(&[5, 6])).await;
    let last = executor.launch().await;
    assert_eq!(last.inputs[0].sources[0].outputs.len(), 3);
    assert_eq!(last.inputs[0].sources[0].bucket_rows, [9, 12]);
    executor.finish(last.task.as_ref().unwrap(), inline(b"rows")).await;

    let mut stream = again.await.unwrap().unwrap().into_inner();
    let mut next = async || soon(stream.message()).await.unwrap().unwrap().event.unwrap();
    let Event::Accepted(accepted) = next().await else { panic!("not accepted") };
    assert_eq!((accepted.job, accepted.resumed), (query.job.clone(), true));
    loop {
        match next().await {
            Event::Result(part) => assert_eq!(part.inline, Bytes::from_static(b"rows")),
            Event::Finished(finished) => break assert_eq!(finished.parts, 1),
            Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
    executor.freed().await;
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_job_that_is_planned_in_another_way_starts_over_and_what_was_done_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Cluster::start_with(SchedulerBuilder::new().state_dir(dir.path()));
    let cluster = start();
    let (_listener, register) = answering("a", 1).await;
    let mut executor = back(&cluster, &register, vec![]).await;
    let query = execute(&cluster, keyed("shuffle 2", "k")).await;
    let first = executor.launch().await;
    cluster.serving.shutdown().await.unwrap();

    let cluster = Cluster::start_with_script(SchedulerBuilder::new().state_dir(dir.path()), ": of another version");
    let mut executor = back(&cluster, &register, vec![held(&first, Some(buckets(&[1])))]).await;
    assert_eq!(executor.freed().await, query.job);
    let again = executor.launch().await;
    assert_ne!(again.task.as_ref().unwrap().job, query.job);
    let stream = cluster.client().await.execute(keyed("shuffle 2", "k")).await.unwrap().into_inner();
    assert_eq!(Query::open(stream).await.job, again.task.unwrap().job);
}

#[tokio::test]
async fn a_query_that_was_being_planned_at_the_death_of_one_scheduler_after_the_other_is_not_planned_again() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Cluster::start_with(SchedulerBuilder::new().state_dir(dir.path()));
    let submit = async |cluster: &Cluster| execute(cluster, keyed("final 1", "k")).await;
    let cluster = start();
    let query = submit(&cluster).await;
    cluster.serving.shutdown().await.unwrap();
    let id = JobId::new(&query.job).unwrap();
    let starts = || SledStore::open(dir.path(), false).unwrap().1.jobs[&id].starts;
    let set = |count: u32| {
        let (mut store, _) = SledStore::open(dir.path(), false).unwrap();
        store.write(&[vec![Op::put(keys::starts(&id), &Starts { count })]]).unwrap();
    };

    // Once more, and the planner comes back.
    set(5);
    let cluster = start();
    let again = submit(&cluster).await;
    assert_eq!(again.job, query.job);
    cluster.executor("a", 1).await.launch().await;
    cluster.serving.shutdown().await.unwrap();
    assert_eq!(starts(), 0);

    set(6);
    let cluster = start();
    let mut again = submit(&cluster).await;
    assert_eq!(again.job, query.job);
    let failure = again.failed().await;
    assert!(failure.message.contains("6 schedulers died one after the other"), "{}", failure.message);
}

#[tokio::test]
async fn what_an_executor_has_of_jobs_that_are_gone_is_thrown_away() {
    let cluster = Cluster::start();
    let jobs = vec!["gone".to_owned()];
    let mut executor = cluster.register(proto::Register { jobs, ..registration("a", 1) }).await.unwrap();
    assert_eq!(executor.freed().await, "gone");
}

#[tokio::test]
async fn a_users_key_gives_the_same_result_and_no_second_run_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Cluster::start_with(SchedulerBuilder::new().state_dir(dir.path()));
    let request = || proto::ExecuteRequest { key_is_users: true, ..keyed("final 1", "user:once") };
    let cluster = start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = execute(&cluster, request()).await;
    let task = executor.launch().await.task.unwrap();
    executor.finish(&task, inline(b"7")).await;
    query.part().await;
    query.finished().await;
    executor.freed().await;
    for _ in 0..2 {
        let mut again = execute(&cluster, request()).await;
        assert_eq!(again.job, query.job);
        assert_eq!(again.part().await.inline, Bytes::from_static(b"7"));
        again.finished().await;
    }
    cluster.serving.shutdown().await.unwrap();
    let cluster = start();
    let mut again = execute(&cluster, request()).await;
    assert_eq!(again.job, query.job);
    assert_eq!(again.part().await.inline, Bytes::from_static(b"7"));
    again.finished().await;
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_is_waited_for() {
    let cluster = Cluster::start_with(SchedulerBuilder::new().client_grace(Duration::from_millis(300)));
    let mut executor = cluster.executor("a", 1).await;
    let query = execute(&cluster, keyed("final 1", "k")).await;
    let task = executor.launch().await.task.unwrap();
    drop(query);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut query = execute(&cluster, keyed("final 1", "k")).await;
    assert_eq!(query.job, task.job);
    // It is there, so nothing ends.
    query.is_quiet().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    query.is_quiet().await;
    drop(query);
    assert_eq!(executor.cancelled().await, task);
    executor.freed().await;
}

#[tokio::test]
async fn a_client_that_says_so_ends_its_query_at_once() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let query = execute(&cluster, keyed("final 1", "k")).await;
    let task = executor.launch().await.task.unwrap();
    let close = proto::CloseJobRequest { job: String::new(), key: "k".to_owned() };
    cluster.client().await.close_job(close).await.unwrap();
    assert_eq!(executor.cancelled().await, task);
    assert_eq!(executor.freed().await, query.job);
    executor.fail(&task, ErrorClass::Infra).await;
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_detached_query_goes_on_alone_and_its_result_waits() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Cluster::start_with(SchedulerBuilder::new().state_dir(dir.path()));
    let cluster = start();
    let mut executor = cluster.executor("a", 1).await;
    let schema = Bytes::from_static(b"schema");
    let detached = proto::ExecuteRequest { detached: true, schema: schema.clone(), ..request("final 1") };
    let query = execute(&cluster, detached).await;
    let task = executor.launch().await.task.unwrap();
    let job = query.job.clone();
    drop(query);
    tokio::time::sleep(Duration::from_millis(50)).await;
    executor.finish(&task, inline(b"7")).await;
    executor.freed().await;
    cluster.serving.shutdown().await.unwrap();

    let cluster = start();
    let attach = proto::AttachJobRequest { protocol_version: ballista_core::PROTOCOL_VERSION, job: job.clone() };
    for _ in 0..2 {
        let mut stream = cluster.client().await.attach_job(attach.clone()).await.unwrap().into_inner();
        let first = soon(stream.message()).await.unwrap().unwrap().event.unwrap();
        assert_eq!(first, Event::Schema(schema.clone()));
        let mut query = Query::open(stream).await;
        assert_eq!(query.part().await.inline, Bytes::from_static(b"7"));
        query.finished().await;
    }
    let close = proto::CloseJobRequest { job, key: String::new() };
    cluster.client().await.close_job(close).await.unwrap();
    let gone = cluster.client().await.attach_job(attach).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn an_executor_whose_connection_breaks_comes_back_with_its_tasks() {
    let cluster = Cluster::start();
    let (_listener, register) = answering("a", 2).await;
    let mut executor = back(&cluster, &register, vec![]).await;
    let mut query = cluster.submit("final 2").await;
    let launch = executor.launch().await;
    drop(executor);
    tokio::time::sleep(Duration::from_millis(100)).await;
    query.is_quiet().await;
    let mut executor = back(&cluster, &register, vec![held(&launch, None)]).await;
    executor.finish(launch.task.as_ref().unwrap(), inline(b"7")).await;
    query.part().await;
    query.finished().await;
    executor.freed().await;
}

#[tokio::test]
async fn what_was_lost_with_a_connection_is_sent_again() {
    let cluster = Cluster::start();
    let (_listener, register) = answering("a", 1).await;
    let mut executor = back(&cluster, &register, vec![]).await;
    let mut query = cluster.submit("final 1").await;
    let lost = executor.launch().await;
    drop(executor);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It never heard of the launch.
    let mut executor = back(&cluster, &register, vec![]).await;
    let again = executor.launch().await;
    assert_eq!((again.partitions.clone(), again.task.as_ref().unwrap().attempt), (lost.partitions, 1));
    executor.finish(again.task.as_ref().unwrap(), inline(b"7")).await;
    query.part().await;
    query.finished().await;
}

#[tokio::test]
async fn an_executor_that_nobody_finds_is_lost_at_once() {
    let cluster = Cluster::start();
    let (listener, register) = answering("a", 1).await;
    let mut executor = back(&cluster, &register, vec![]).await;
    let _query = cluster.submit("final 1").await;
    executor.launch().await;
    let mut other = cluster.executor("b", 1).await;
    drop((listener, executor));
    soon(other.launch()).await;
}
