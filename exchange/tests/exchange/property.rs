// SPDX-License-Identifier: Apache-2.0
//! Whatever is written comes out again, as a multiset of rows, whichever way it takes.

use std::sync::Arc;

use ballista_core::config::Compression;
use ballista_exchange::{FetchConfig, FetchOptions, LocalConnector, OutputOptions, TicketKey};
use proptest::prelude::*;
use rand::RngExt;

use crate::data::{multiset, random_batch, random_schema, rng};
use crate::node::{MIB, Node, NodeConfig, collect, inputs, job, task};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn write_evict_fetch_gives_the_same_rows(seed in any::<u64>(), memory_tier in any::<bool>(), evict in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(round_trip(seed, memory_tier, evict));
    }
}

async fn round_trip(seed: u64, memory_tier: bool, evict: bool) {
    let mut rng = rng(seed);
    let key = TicketKey::random();
    let connector = LocalConnector::new();
    let chunk_bytes = rng.random_range(1..200_000);
    let fetch = FetchConfig { bytes_in_flight: 100_000, chunk_bytes, run_chunk_bytes: chunk_bytes };
    let config = NodeConfig { pool: 6 * MIB, high: 3 * MIB, disk: u64::MAX, low: MIB, fetch };
    let producer = Node::local("producer", &key, &connector, config.clone()).await;
    let consumer = Node::local("consumer", &key, &connector, config).await;

    let schema = random_schema(&mut rng);
    let buckets = rng.random_range(1..6);
    let compression = [Compression::None, Compression::Lz4, Compression::Zstd][rng.random_range(0..3)];
    let options = OutputOptions { compression, memory_tier };
    let (mut outputs, mut written) = (Vec::new(), Vec::new());
    for index in 0..rng.random_range(1..4) {
        let writer = producer.store.create(task("j", index), Arc::clone(&schema), buckets, options);
        for _ in 0..rng.random_range(0..40) {
            let rows = rng.random_range(0..3000);
            let batch = random_batch(&mut rng, &schema, rows);
            let bucket = rng.random_range(0..buckets);
            writer.append(bucket, batch.clone()).await.unwrap();
            written.push((bucket as u32, batch));
        }
        outputs.push((task("j", index), writer.finish().await.unwrap()));
    }
    if evict {
        producer.store.evict_all().await;
    }
    let inputs = inputs(&[(&producer, &outputs)]);
    let split = rng.random_range(0..=buckets as u32);
    for range in [0..split, split..buckets as u32] {
        let expected: Vec<_> =
            written.iter().filter(|(bucket, _)| range.contains(bucket)).map(|(_, batch)| batch.clone()).collect();
        let expected = multiset(&schema, &expected);
        for node in [&producer, &consumer] {
            for memory_tier in [true, false] {
                let options = FetchOptions { memory_tier, ..FetchOptions::default() };
                let rows = node.client.fetch(&inputs, range.clone(), Arc::clone(&schema), &options);
                let rows = collect(rows).await.unwrap();
                assert!(multiset(&schema, &rows) == expected, "seed {seed}: other rows of {schema}");
                let mut rows = Vec::new();
                for run in node.client.fetch_runs(&inputs, range.clone(), Arc::clone(&schema), &options) {
                    rows.extend(collect(run).await.unwrap());
                }
                assert!(multiset(&schema, &rows) == expected, "seed {seed}: other rows in runs of {schema}");
            }
        }
    }
    producer.store.free_job(&job("j"));
    producer.expect_empty().await;
}
