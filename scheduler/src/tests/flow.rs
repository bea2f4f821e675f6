// SPDX-License-Identifier: Apache-2.0
//! Queries that go well.

use ballista_core::Incarnation;
use ballista_exchange::TicketKey;
use ballista_proto as proto;
use proto::task_status::Status as Outcome;

use super::harness::{Cluster, buckets, inline};

#[tokio::test]
async fn a_query_goes_from_submission_to_an_inline_result() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 2).await;
    let mut query = cluster.submit("final 1").await;
    let launch = executor.launch().await;
    assert!(launch.is_final && launch.inputs.is_empty());
    assert_eq!((launch.partitions, launch.session_id.as_str()), (vec![0], "session"));
    assert_eq!(launch.settings[0].value, "final 1");
    let task = launch.task.unwrap();
    assert_eq!(task.job, query.job);
    executor.finish(&task, inline(b"rows")).await;
    let part = query.part().await;
    assert_eq!((part.inline.as_ref(), part.location), (&b"rows"[..], None));
    let finished = query.finished().await;
    assert_eq!((finished.stages, finished.tasks, finished.rows, finished.parts), (1, 1, 1, 1));
    assert_eq!(query.next().await, None);
    assert_eq!(executor.freed().await, query.job);
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_plan_comes_in_chunks_and_is_gone_with_its_job() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let query = cluster.submit("final 1").await;
    executor.launch().await;
    let ask = |job: &str| proto::GetStagePlanRequest { job: job.into(), stage: 0, stage_attempt: 0 };
    let mut chunks = executor.client.get_stage_plan(ask(&query.job)).await.unwrap().into_inner();
    let mut sizes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(chunk.data.iter().all(|byte| *byte == 1));
        sizes.push(chunk.data.len());
    }
    assert_eq!(sizes, [1 << 20, 1 << 18]);
    let job = query.job.clone();
    drop(query);
    executor.cancelled().await;
    executor.freed().await;
    let gone = executor.client.get_stage_plan(ask(&job)).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    let evil = executor.client.get_stage_plan(ask("../etc")).await.unwrap_err();
    assert_eq!(evil.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_stage_learns_where_its_input_is_and_planning_how_much() {
    let cluster = Cluster::start();
    let mut a = cluster.executor("a", 2).await;
    let mut b = cluster.executor("b", 1).await;
    let mut query = cluster.submit("shuffle 3").await;
    let on_a = a.launch().await.task.unwrap();
    let on_b = b.launch().await.task.unwrap();
    b.finish(&on_b, proto::TaskOutput { sample: "b".into(), ..buckets(&[10, 0, 1]) }).await;
    query.is_quiet().await;
    a.finish(&on_a, buckets(&[1, 2, 3])).await;
    // Most of the input is on b, and so is its reader.
    let launch = b.launch().await;
    assert!(launch.is_final);
    let [input] = &launch.inputs[..] else { panic!("{:?}", launch.inputs) };
    assert_eq!(input.stage, 0);
    let [first, second] = &input.sources[..] else { panic!("{:?}", input.sources) };
    assert_eq!((first.address.as_ref(), second.address.as_ref()), (Some(&a.address), Some(&b.address)));
    assert_eq!((&first.outputs[..], &second.outputs[..]), (&[on_a][..], &[on_b][..]));
    assert_eq!((&first.bucket_rows[..], &second.bucket_rows[..]), (&[1, 2, 3][..], &[10, 0, 1][..]));
    let result = cluster.script.results.lock().remove(0);
    assert_eq!((result.bucket_rows, result.rows, result.bytes), (vec![11, 2, 4], 17, 17 * 8));
    assert_eq!(result.bucket_bytes, [88, 16, 32]);
    assert_eq!(result.samples, [(11, "b".into())]);
    b.finish(&launch.task.unwrap(), inline(b"")).await;
    query.part().await;
    let finished = query.finished().await;
    assert_eq!((finished.stages, finished.tasks, finished.bytes_exchanged), (2, 3, 17 * 8));
    cluster.is_empty().await;
}

#[tokio::test]
async fn a_streamed_result_has_a_valid_ticket_and_stays_until_the_client_leaves() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    executor.status(&task, Outcome::Streaming(proto::TaskStreaming {})).await;
    let part = query.part().await;
    assert_eq!(part.location.as_ref(), Some(&executor.address));
    let key = TicketKey::from_bytes(&executor.welcome.clone().unwrap().ticket_key).unwrap();
    let ticket = key.verify(&part.ticket).unwrap();
    assert!(ticket.result);
    assert_eq!(ticket.incarnation, Incarnation(executor.address.incarnation));
    assert_eq!(ticket.outputs[0].job.as_str(), query.job);
    query.is_quiet().await;
    executor.finish(&task, proto::TaskOutput { rows: 7, ..Default::default() }).await;
    let finished = query.finished().await;
    assert_eq!((finished.parts, finished.rows), (1, 7));
    query.is_quiet().await;
    let job = query.job.clone();
    drop(query);
    assert_eq!(executor.freed().await, job);
    cluster.is_empty().await;
}

#[tokio::test]
async fn parts_of_an_ordered_result_hold_one_partition_each_in_order() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 2).await;
    let mut query = cluster.submit("final 4 ordered").await;
    let first = executor.launch().await;
    let second = executor.launch().await;
    assert_eq!((&first.partitions[..], &second.partitions[..]), (&[0][..], &[1][..]));
    executor.finish(&second.task.unwrap(), inline(b"1")).await;
    let third = executor.launch().await;
    assert_eq!(third.partitions, [2]);
    executor.finish(&first.task.unwrap(), inline(b"0")).await;
    executor.finish(&third.task.unwrap(), inline(b"2")).await;
    let fourth = executor.launch().await;
    executor.finish(&fourth.task.unwrap(), inline(b"3")).await;
    let mut parts = Vec::new();
    for _ in 0..4 {
        let part = query.part().await;
        assert!(part.ordered);
        parts.push((part.order, part.inline));
    }
    parts.sort();
    let rows: Vec<_> = parts.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    assert_eq!(rows, b"0123");
    assert_eq!(query.finished().await.parts, 4);
}

#[tokio::test]
async fn progress_comes_while_a_long_query_runs() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut query = cluster.submit("shuffle 2").await;
    let task = executor.launch().await.task.unwrap();
    let progress = query.progress().await;
    assert_eq!((progress.stages_planned, progress.tasks_done, progress.tasks_planned), (1, 0, 2));
    executor.finish(&task, buckets(&[5])).await;
    let progress = query.progress().await;
    assert_eq!((progress.tasks_done, progress.tasks_running, progress.bytes), (1, 1, 40));
}

#[tokio::test]
async fn the_cluster_shows_executors_and_jobs() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 3).await;
    let mut query = cluster.submit("final 1").await;
    let task = executor.launch().await.task.unwrap();
    let mut client = cluster.client().await;
    let seen = client.get_cluster(proto::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(seen.executors.len(), 1);
    assert_eq!(seen.executors[0].address.as_ref(), Some(&executor.address));
    assert_eq!((seen.executors[0].slots, seen.executors[0].slots_used), (3, 1));
    assert_eq!((seen.jobs[0].name.as_str(), seen.jobs[0].state.as_str()), ("final 1", "running"));
    executor.finish(&task, inline(b"")).await;
    query.part().await;
    query.finished().await;
    cluster.is_empty().await;
    let seen = client.get_cluster(proto::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((seen.jobs.len(), seen.jobs[0].state.as_str()), (1, "finished"));
    assert_eq!(seen.jobs[0].progress.as_ref().unwrap().tasks_done, 1);
}
