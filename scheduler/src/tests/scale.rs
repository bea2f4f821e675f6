// SPDX-License-Identifier: Apache-2.0
//! Many queries, and clients that do not read.

use std::time::{Duration, Instant};

use ballista_proto as proto;
use futures::future::join_all;
use prost::bytes::Bytes;
use proto::job_event::Event;

use super::harness::{Cluster, Query, inline, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_small_queries_from_fifty_connections_leave_nothing() {
    let cluster = Cluster::start();
    let executors =
        [cluster.executor("a", 2).await.obey(inline(b"a")), cluster.executor("b", 2).await.obey(inline(b"b"))];
    let connections = join_all((0..50).map(|_| cluster.client())).await;
    let queries = connections.into_iter().map(|mut client| async move {
        for round in 0..20 {
            let plan = if round % 2 == 0 { "final 3" } else { "final 1" };
            let mut query = Query::open(client.execute(request(plan)).await.unwrap().into_inner()).await;
            let (mut parts, mut end) = (0, None);
            while let Some(event) = query.next().await {
                match event {
                    Event::Result(_) => parts += 1,
                    Event::Finished(finished) => end = Some(finished),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(end.unwrap().parts, parts);
        }
    });
    join_all(queries).await;
    cluster.is_empty().await;
    let seen = cluster.client().await.get_cluster(proto::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(seen.jobs.len(), 100);
    assert!(seen.executors.iter().all(|executor| executor.slots_used == 0));
    cluster.serving.shutdown().await.unwrap();
    let tasks: usize = join_all(executors).await.into_iter().map(|count| count.unwrap()).sum();
    assert!(tasks >= 1000, "{tasks}");
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody() {
    let cluster = Cluster::start();
    let rows = proto::TaskOutput { inline: Bytes::from(vec![0; 256 << 10]), is_inline: true, ..Default::default() };
    let _executor = cluster.executor("a", 4).await.obey(rows);
    // 64 MiB of results that nobody takes.
    let mut slow = cluster.submit("final 256").await;
    for _ in 0..50 {
        let mut quick = cluster.submit("final 1").await;
        quick.part().await;
        quick.finished().await;
    }
    // Nothing was dropped either.
    for _ in 0..slow.part().await.order + 1 {
        assert!(slow.next().await.is_some());
    }
    drop(slow);
    cluster.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler_adds_little_time_to_a_query() {
    let cluster = Cluster::start();
    let _executor = cluster.executor("a", 1).await.obey(inline(b"1"));
    let mut client = cluster.client().await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        let mut query = Query::open(client.execute(request("final 1")).await.unwrap().into_inner()).await;
        query.part().await;
        query.finished().await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("median {:?}, 99th percentile {:?}", times[100], times[198]);
    // A tenth of it on an idle machine.
    assert!(times[100] < Duration::from_millis(5), "median {:?}", times[100]);
}
