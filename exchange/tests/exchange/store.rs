// SPDX-License-Identifier: Apache-2.0
//! The store: eviction, spilling, accounting, cleaning up.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::StageId;
use ballista_exchange::{ExchangeError, TaskSink, TcpConnector, TicketKey};
use ballista_shuffle::RoundRobinPartitioner;
use datafusion::execution::memory_pool::MemoryConsumer;
use tokio::task::JoinSet;

use crate::data::{numbered, numbered_batches, sorted_numbers};
use crate::node::{MIB, Node, NodeConfig, disk, fetch, inputs, job, memory, task};

fn lone(config: NodeConfig) -> Node {
    Node::new("lone", "127.0.0.1", 1, &TicketKey::random(), Arc::new(TcpConnector), config)
}

fn tiny() -> NodeConfig {
    NodeConfig { pool: 12 * MIB, high: 8 * MIB, low: 4 * MIB, ..NodeConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_reader_gets_the_very_batches_that_were_written() {
    let node = lone(NodeConfig::default());
    let batches = numbered_batches(10_000, 1000);
    let summary = node.write(&task("j", 0), &batches, 4, memory()).await;
    assert_eq!((summary.rows, summary.bucket_rows.iter().sum::<u64>()), (10_000, 10_000));
    let inputs = inputs(&[(&node, &[(task("j", 0), summary)])]);
    let read = fetch(&node, &inputs, 0..4, &batches[0]).await;
    assert_eq!(sorted_numbers(&read), (0..10_000).collect::<Vec<_>>());
    let written: Vec<_> = batches.iter().map(|batch| batch.column(0).to_data().buffers()[0].as_ptr()).collect();
    let shared = |ptr: *const u8| written.contains(&ptr);
    assert!(read.iter().all(|batch| shared(batch.column(0).to_data().buffers()[0].as_ptr())), "copied");
    drop((read, batches));
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_larger_than_memory_are_evicted_and_stay_readable() {
    let node = lone(tiny());
    let batches = numbered_batches(64 * 2048, 2048);
    let mut outputs = Vec::new();
    for index in 0..8 {
        let summary = node.write(&task("j", index), &batches, 4, memory()).await;
        outputs.push((task("j", index), summary));
    }
    let stats = node.store.stats();
    assert!(stats.memory_bytes <= 9 * MIB, "{stats:?}");
    assert!(stats.disk_bytes > 0, "{stats:?}");
    node.expect_memory_below(4 * MIB).await;
    let inputs = inputs(&[(&node, &outputs)]);
    for bucket in 0..4 {
        let read = fetch(&node, &inputs, bucket..bucket + 1, &batches[0]).await;
        assert_eq!(read.iter().map(|batch| batch.num_rows()).sum::<usize>(), 8 * 16 * 2048);
    }
    let read = sorted_numbers(&fetch(&node, &inputs, 0..4, &batches[0]).await);
    let expected: Vec<i64> = (0..64 * 2048).flat_map(|row| [row; 8]).collect();
    assert!(read == expected);
    node.store.free_stage(&job("j"), StageId(1), 0);
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_gives_way_to_an_operator() {
    let node = lone(NodeConfig { pool: 64 * MIB, high: 60 * MIB, low: 60 * MIB, ..NodeConfig::default() });
    let batches = numbered_batches(100 * 2048, 2048);
    for index in 0..3 {
        node.write(&task("j", index), &batches, 1, memory()).await;
    }
    let held = node.store.stats().memory_bytes;
    assert!(held > 20 * MIB, "{held}");
    // The operator needs what the store has. Each step is granted at once, and paid back by an eviction.
    let join = MemoryConsumer::new("join").register(node.store.pool());
    for _ in 0..55 {
        join.try_grow(MIB).unwrap();
        for _ in 0..500 {
            if node.store.pool().reserved() <= 64 * MIB {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    node.expect_memory_below(10 * MIB).await;
    drop(join);
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_costs_the_eviction_but_no_rows() {
    let node = lone(tiny());
    // Nothing can be written below a file.
    let incarnation = node.dir.path().join(format!("{:016x}", node.address.incarnation.0));
    std::fs::write(incarnation.join("j"), b"").unwrap();
    let batches = numbered_batches(20 * 2048, 2048);
    let summary = node.write(&task("j", 0), &batches, 2, memory()).await;
    assert_eq!(node.store.evict_all().await, 0);
    let read = fetch(&node, &inputs(&[(&node, &[(task("j", 0), summary)])]), 0..2, &batches[0]).await;
    assert_eq!(sorted_numbers(&read).len(), 20 * 2048);
    // A writer that has to spill fails with the disk's error instead of hanging or losing rows.
    let writer = node.store.create(task("j", 1), batches[0].schema(), 2, memory());
    let error = loop {
        if let Err(error) = writer.append(0, batches[0].clone()).await {
            break error;
        }
    };
    assert!(matches!(error, ExchangeError::Io { .. }), "{error:?}");
    assert!(writer.finish().await.is_err(), "rows are missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_take_no_more_than_they_may_and_work_goes_on_when_others_have_gone() {
    let node = lone(NodeConfig { disk: 10 << 20, ..tiny() });
    let batches = numbered_batches(64 * 1024, 1024);
    let write = async |name: u32| {
        let writer = node.store.create(task("j", name), batches[0].schema(), 2, disk());
        for batch in batches.iter().cycle().take(200) {
            writer.append(0, batch.clone()).await?;
        }
        writer.finish().await
    };
    let mut written = 0;
    let error = loop {
        match write(written).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(written > 0 && node.store.stats().disk_bytes <= 10 << 20, "{written}, {:?}", node.store.stats());
    assert_eq!(error.class(), ballista_core::ErrorClass::Resource);
    assert!(error.to_string().contains("and may take 10.0 MiB"), "{error}");
    node.store.free_job(&job("j"));
    node.expect_empty().await;
    write(0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_partitions_and_gives_back_the_memory_of_its_buffer() {
    let node = lone(NodeConfig::default());
    let writer = Arc::new(node.store.create(task("j", 0), numbered(0, 1).schema(), 16, memory()));
    let mut sinks = Vec::new();
    for start in 0..2 {
        sinks.push(TaskSink::new(Box::new(RoundRobinPartitioner::new(16, start)), Arc::clone(&writer)));
    }
    for (index, batch) in numbered_batches(50_000, 1000).into_iter().enumerate() {
        sinks[index % 2].push(batch, &[]).await.unwrap();
    }
    assert!(node.store.pool().reserved() > node.store.stats().memory_bytes, "the buffer is accounted");
    for sink in sinks {
        sink.finish().await.unwrap();
    }
    let summary = Arc::into_inner(writer).unwrap().finish().await.unwrap();
    assert_eq!(summary.rows, 50_000);
    assert!(summary.bucket_rows.iter().all(|rows| (3000..3250).contains(rows)), "{summary:?}");
    assert_eq!(node.store.pool().reserved(), node.store.stats().memory_bytes);
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_output_larger_than_memory_spills_segments_and_keeps_the_order_of_each_bucket() {
    let node = lone(tiny());
    let batches = numbered_batches(600 * 1024, 1024);
    let summary = node.write(&task("j", 0), &batches, 3, memory()).await;
    assert_eq!(summary.rows, 600 * 1024);
    node.expect_files(1).await;
    let inputs = inputs(&[(&node, &[(task("j", 0), summary)])]);
    for bucket in 0..3 {
        let read = crate::data::numbers(&fetch(&node, &inputs, bucket..bucket + 1, &batches[0]).await);
        assert_eq!(read.len(), 200 * 1024);
        assert!(read.is_sorted());
    }
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_a_tiny_pool_without_a_hang_or_a_leak() {
    let node = Arc::new(lone(tiny()));
    let mut writers = JoinSet::new();
    for index in 0..6 {
        let node = Arc::clone(&node);
        writers.spawn(async move {
            let writer = Arc::new(node.store.create(task("j", index), numbered(0, 1).schema(), 5, memory()));
            let mut streams = JoinSet::new();
            for stream in 0..3 {
                let writer = Arc::clone(&writer);
                streams.spawn(async move {
                    for batch in numbered_batches(20 * 2048, 2048) {
                        writer.append(stream, batch).await.unwrap();
                    }
                });
            }
            streams.join_all().await;
            (task("j", index), Arc::into_inner(writer).unwrap().finish().await.unwrap())
        });
    }
    let mut outputs = tokio::time::timeout(std::time::Duration::from_secs(60), writers.join_all()).await.unwrap();
    outputs.sort_by(|a, b| a.0.cmp(&b.0));
    let inputs = inputs(&[(&node, &outputs)]);
    let read = fetch(&node, &inputs, 0..5, &numbered(0, 1)).await;
    let expected: Vec<i64> = (0..20 * 2048).flat_map(|row| [row; 18]).collect();
    assert!(sorted_numbers(&read) == expected);
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_memory_tier_everything_goes_to_files() {
    let node = lone(NodeConfig::default());
    let batches = numbered_batches(50_000, 1000);
    let summary = node.write(&task("j", 0), &batches, 7, disk()).await;
    let stats = node.store.stats();
    assert_eq!(stats.memory_bytes, 0);
    assert!(stats.disk_bytes > 0);
    let inputs = inputs(&[(&node, &[(task("j", 0), summary)])]);
    let read = fetch(&node, &inputs, 0..7, &batches[0]).await;
    assert_eq!(sorted_numbers(&read), (0..50_000).collect::<Vec<_>>());
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_writer_leaves_nothing() {
    let node = lone(tiny());
    let writer = node.store.create(task("j", 0), numbered(0, 1).schema(), 2, memory());
    for batch in numbered_batches(200_000, 2000) {
        writer.append(1, batch).await.unwrap();
    }
    assert!(node.store.stats().disk_bytes > 0, "it has spilled");
    drop(writer);
    node.expect_files(0).await;
    node.store.free_job(&job("j"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_job_was_freed_is_fenced() {
    let node = lone(NodeConfig::default());
    let writer = node.store.create(task("j", 0), numbered(0, 1).schema(), 2, memory());
    let other = node.store.create(task("k", 0), numbered(0, 1).schema(), 2, memory());
    writer.append(0, numbered(0, 10)).await.unwrap();
    node.store.free_job(&job("j"));
    assert!(matches!(writer.append(0, numbered(0, 10)).await, Err(ExchangeError::Fenced(_))));
    assert!(matches!(writer.finish().await, Err(ExchangeError::Fenced(_))));
    other.append(0, numbered(0, 10)).await.unwrap();
    other.finish().await.unwrap();
    node.store.free_job(&job("k"));
    node.expect_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_keeps_its_batches_when_the_output_is_freed_under_it() {
    use futures::TryStreamExt;
    let node = lone(NodeConfig::default());
    let batches = numbered_batches(30_000, 1000);
    let summary = node.write(&task("j", 0), &batches, 1, disk()).await;
    let inputs = inputs(&[(&node, &[(task("j", 0), summary)])]);
    let mut rows = node.client.fetch(&inputs, 0..1, batches[0].schema(), &Default::default());
    let mut read = vec![rows.try_next().await.unwrap().unwrap()];
    node.store.free_job(&job("j"));
    while let Some(batch) = rows.try_next().await.unwrap() {
        read.push(batch);
    }
    assert_eq!(sorted_numbers(&read), (0..30_000).collect::<Vec<_>>());
    drop(rows);
    node.expect_empty().await;
}
