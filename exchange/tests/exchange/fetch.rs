// SPDX-License-Identifier: Apache-2.0
//! Fetching: local, remote and in memory; chunks, ordered runs, broadcast.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::StageId;
use ballista_core::config::Compression;
use ballista_exchange::{
    ExchangeError, FetchConfig, FetchMetrics, FetchOptions, LocalConnector, OutputOptions, StageInputs, TicketKey,
};
use futures::TryStreamExt;
use futures::future::join_all;

use crate::data::{numbered, numbered_batches, numbers, sorted_numbers};
use crate::node::{Node, NodeConfig, collect, disk, fetch, inputs, job, memory, task};

fn small_chunks() -> NodeConfig {
    let fetch = FetchConfig { bytes_in_flight: 64 << 10, chunk_bytes: 64 << 10, run_chunk_bytes: 64 << 10 };
    NodeConfig { fetch, ..NodeConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_from_several_executors_over_tcp_and_in_memory() {
    let key = TicketKey::random();
    let connector = LocalConnector::new();
    for over_tcp in [true, false] {
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(match over_tcp {
                true => Node::tcp(name, &key, NodeConfig::default()).await,
                false => Node::local(name, &key, &connector, NodeConfig::default()).await,
            });
        }
        let batches = numbered_batches(30_000, 500);
        let mut outputs = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let index = index as u32;
            let part = &batches[index as usize * 20..][..20];
            let options = [memory(), disk(), OutputOptions { compression: Compression::Zstd, memory_tier: false }];
            let summary = node.write(&task("j", index), part, 6, options[index as usize]).await;
            outputs.push(vec![(task("j", index), summary)]);
        }
        let sources: Vec<_> = nodes.iter().zip(&outputs).map(|(node, outputs)| (node, outputs.as_slice())).collect();
        let inputs = inputs(&sources);
        let metrics = Arc::new(FetchMetrics::default());
        let options = FetchOptions { memory_tier: true, metrics: Arc::clone(&metrics) };
        let stream = nodes[0].client.fetch(&inputs, 0..6, batches[0].schema(), &options);
        let read = collect(stream).await.unwrap();
        assert_eq!(sorted_numbers(&read), (0..30_000).collect::<Vec<_>>());
        assert_eq!((metrics.local_rows(), metrics.remote_rows()), (10_000, 20_000));
        assert!(metrics.local_bytes() > 0 && metrics.remote_bytes() > 0);
        // Each bucket on its own adds up to the same, everything through Flight.
        let mut read = Vec::new();
        for bucket in 0..6 {
            let metrics = Arc::new(FetchMetrics::default());
            let options = FetchOptions { memory_tier: false, metrics: Arc::clone(&metrics) };
            let stream = nodes[0].client.fetch(&inputs, bucket..bucket + 1, batches[0].schema(), &options);
            read.extend(collect(stream).await.unwrap());
            assert_eq!(metrics.local_rows(), 0);
        }
        assert_eq!(sorted_numbers(&read), (0..30_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_from_chunk_to_chunk_also_across_an_eviction() {
    let key = TicketKey::random();
    let producer = Node::tcp("producer", &key, NodeConfig::default()).await;
    let consumer = Node::tcp("consumer", &key, small_chunks()).await;
    let batches = numbered_batches(400_000, 5000);
    for options in [memory(), disk()] {
        let summary = producer.write(&task("j", 0), &batches[..40], 3, options).await;
        let other = producer.write(&task("j", 1), &batches[40..], 3, options).await;
        let inputs = inputs(&[(&producer, &[(task("j", 0), summary), (task("j", 1), other)])]);
        let mut rows = consumer.client.fetch(&inputs, 0..3, batches[0].schema(), &FetchOptions::default());
        let mut read = vec![rows.try_next().await.unwrap().unwrap()];
        // In the middle of it the outputs move to their files.
        assert_eq!(producer.store.evict_all().await, if options.memory_tier { 2 } else { 0 });
        while let Some(batch) = rows.try_next().await.unwrap() {
            read.push(batch);
        }
        assert_eq!(sorted_numbers(&read), (0..400_000).collect::<Vec<_>>());
        drop(rows);
        producer.store.free_job(&job("j"));
        producer.expect_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_of_twelve_runs_goes_on_with_a_budget_of_one_chunk() {
    let key = TicketKey::random();
    let producer = Node::tcp("producer", &key, NodeConfig::default()).await;
    let consumer = Node::tcp("consumer", &key, small_chunks()).await;
    let mut outputs = Vec::new();
    for run in 0..12 {
        let batches: Vec<_> = (0..20).map(|part| numbered(run as usize * 100_000 + part * 2000, 2000)).collect();
        outputs.push((task("j", run), producer.write(&task("j", run), &batches, 1, memory()).await));
    }
    let inputs = inputs(&[(&producer, &outputs)]);
    let schema = numbered(0, 1).schema();
    let mut runs = consumer.client.fetch_runs(&inputs, 0..1, schema, &FetchOptions::default());
    assert_eq!(runs.len(), 12);
    // Every run has begun and holds chunks that nobody takes, while the last one is read to its end, and so on.
    let merge = async {
        let mut rows = vec![0; 12];
        for (run, stream) in runs.iter_mut().enumerate() {
            rows[run] += stream.try_next().await.unwrap().unwrap().num_rows();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        for (run, stream) in runs.iter_mut().enumerate().rev() {
            let mut last = -1;
            while let Some(batch) = stream.try_next().await.unwrap() {
                let numbers = numbers(&[batch]);
                assert!(numbers[0] > last && numbers.is_sorted());
                last = *numbers.last().unwrap();
                rows[run] += numbers.len();
            }
        }
        rows
    };
    let rows = tokio::time::timeout(Duration::from_secs(30), merge).await.expect("the merge deadlocks");
    assert_eq!(rows, vec![40_000; 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_requested_before_the_first_poll() {
    let key = TicketKey::random();
    let consumer = Node::tcp("consumer", &key, NodeConfig::default()).await;
    // Nobody listens there; a request would fail.
    let mut address = consumer.address.clone();
    address.port = 1;
    address.executor = ballista_core::ExecutorId::new("nobody").unwrap();
    let source = ballista_exchange::InputSource { address, outputs: vec![task("j", 0)], bucket_rows: vec![5] };
    let inputs = StageInputs { stage: StageId(1), sources: vec![source] };
    let schema = numbered(0, 1).schema();
    let stream = consumer.client.fetch(&inputs, 0..1, Arc::clone(&schema), &FetchOptions::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = collect(stream).await.unwrap_err();
    assert!(matches!(&error, ExchangeError::Fetch { producer, .. } if producer == "nobody@127.0.0.1:1"), "{error}");
    // Buckets without rows are not asked for at all.
    let empty = StageInputs {
        stage: StageId(1),
        sources: vec![ballista_exchange::InputSource { bucket_rows: vec![0, 5], ..inputs.sources[0].clone() }],
    };
    let nothing = consumer.client.fetch(&empty, 0..1, schema, &FetchOptions::default());
    assert!(collect(nothing).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_fetched_once_and_accounted_until_freed() {
    let key = TicketKey::random();
    let producer = Node::tcp("producer", &key, NodeConfig::default()).await;
    let consumer = Node::tcp("consumer", &key, NodeConfig::default()).await;
    let batches = numbered_batches(20_000, 1000);
    let summary = producer.write(&task("j", 0), &batches, 1, memory()).await;
    let inputs = inputs(&[(&producer, &[(task("j", 0), summary)])]);
    let metrics = Arc::new(FetchMetrics::default());
    let options = FetchOptions { memory_tier: true, metrics: Arc::clone(&metrics) };
    let reader = job("reader");
    let readers = (0..8).map(|_| consumer.client.fetch_broadcast(&reader, &inputs, batches[0].schema(), &options));
    let copies: Vec<_> = join_all(readers).await.into_iter().map(Result::unwrap).collect();
    assert!(copies.iter().all(|copy| Arc::ptr_eq(copy, &copies[0])));
    assert_eq!(sorted_numbers(&copies[0]), (0..20_000).collect::<Vec<_>>());
    assert_eq!(metrics.remote_rows(), 20_000);
    assert!(consumer.store.pool().reserved() > 0);
    consumer.client.free_stage(&reader, StageId(1));
    assert_eq!(consumer.store.pool().reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_streams_give_their_credit_back() {
    let key = TicketKey::random();
    let producer = Node::tcp("producer", &key, NodeConfig::default()).await;
    let consumer = Node::tcp("consumer", &key, small_chunks()).await;
    let batches = numbered_batches(100_000, 5000);
    let summary = producer.write(&task("j", 0), &batches, 1, memory()).await;
    let inputs = inputs(&[(&producer, &[(task("j", 0), summary)])]);
    for _ in 0..20 {
        let mut rows = consumer.client.fetch(&inputs, 0..1, batches[0].schema(), &FetchOptions::default());
        rows.try_next().await.unwrap().unwrap();
    }
    let read = fetch(&consumer, &inputs, 0..1, &batches[0]).await;
    assert_eq!(sorted_numbers(&read), (0..100_000).collect::<Vec<_>>());
}
