// SPDX-License-Identifier: Apache-2.0
//! Executors for tests: a store, a data service and a client, connected by TCP or in memory.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use ballista_core::config::Compression;
use ballista_core::{ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey};
use ballista_exchange::client::LocalIncoming;
use ballista_exchange::{
    BatchStream, Connector, ExchangeClient, ExchangeError, ExchangeServer, ExecutorAddress, FetchConfig, FetchOptions,
    InputSource, LocalConnector, OutputOptions, OutputSummary, ResultStreams, ShuffleStore, StageInputs, StoreConfig,
    TcpConnector, TicketKey, executor_pool, tune,
};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

pub const MIB: usize = 1 << 20;

/// How an executor of a test is set up.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub pool: usize,
    pub high: usize,
    pub disk: u64,
    pub low: usize,
    pub fetch: FetchConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { pool: 256 * MIB, high: 128 * MIB, disk: u64::MAX, low: 64 * MIB, fetch: FetchConfig::default() }
    }
}

pub struct Node {
    pub address: ExecutorAddress,
    pub store: Arc<ShuffleStore>,
    pub results: Arc<ResultStreams>,
    pub client: ExchangeClient,
    pub key: TicketKey,
    pub dir: TempDir,
}

impl Node {
    /// Listens on a loopback port.
    pub async fn tcp(name: &str, key: &TicketKey, config: NodeConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let node = Self::new(name, "127.0.0.1", port, key, Arc::new(TcpConnector), config);
        let service = node.server().into_service();
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tune(Server::builder()).add_service(service).serve_with_incoming(incoming));
        node
    }

    /// Registered in `connector`.
    pub async fn local(name: &str, key: &TicketKey, connector: &LocalConnector, config: NodeConfig) -> Self {
        let incoming: LocalIncoming = connector.listen(name, 1);
        let node = Self::new(name, name, 1, key, Arc::new(connector.clone()), config);
        let service = node.server().into_service();
        tokio::spawn(tune(Server::builder()).add_service(service).serve_with_incoming(incoming));
        node
    }

    /// Without a data service.
    pub fn new(
        name: &str,
        host: &str,
        port: u16,
        key: &TicketKey,
        connector: Arc<dyn Connector>,
        config: NodeConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let incarnation = Incarnation::random();
        let store = ShuffleStore::try_new(StoreConfig {
            work_dir: dir.path().to_owned(),
            incarnation,
            pool: executor_pool(config.pool),
            high_watermark: config.high,
            low_watermark: config.low,
            overdraft: config.high / 16,
            disk_limit: config.disk,
        })
        .unwrap();
        let executor = ExecutorId::new(name).unwrap();
        let address = ExecutorAddress { executor, incarnation, host: host.to_owned(), port };
        let client =
            ExchangeClient::new(address.clone(), Some(Arc::clone(&store)), key.clone(), connector, config.fetch);
        Self { address, store, results: ResultStreams::new(), client, key: key.clone(), dir }
    }

    pub fn server(&self) -> ExchangeServer {
        ExchangeServer::new(Arc::clone(&self.store), Arc::clone(&self.results), self.key.clone())
    }

    /// Writes one output: batch `i` goes to bucket `i % buckets`.
    pub async fn write(
        &self,
        key: &TaskKey,
        batches: &[RecordBatch],
        buckets: usize,
        options: OutputOptions,
    ) -> OutputSummary {
        let writer = self.store.create(key.clone(), batches[0].schema(), buckets, options);
        for (index, batch) in batches.iter().enumerate() {
            writer.append(index % buckets, batch.clone()).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    /// The files of outputs below the work directory.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: PathBuf, files: &mut Vec<PathBuf>) {
            // Directories may go while they are listed.
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(entry.path(), files);
                } else if !entry.file_name().to_string_lossy().starts_with('.') {
                    files.push(entry.path());
                }
            }
        }
        let mut files = Vec::new();
        walk(self.dir.path().to_owned(), &mut files);
        files
    }

    /// Waits until evictions have brought the store down.
    pub async fn expect_memory_below(&self, bytes: usize) {
        for _ in 0..500 {
            if self.store.stats().memory_bytes <= bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not evicted: {:?}", self.store.stats());
    }

    /// Waits until files that nobody needs are gone and `count` are left.
    pub async fn expect_files(&self, count: usize) {
        for _ in 0..500 {
            if self.files().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("expected {count} files, not {:?}", self.files());
    }

    /// Waits until nothing is held any longer; panics if something leaks.
    pub async fn expect_empty(&self) {
        for _ in 0..500 {
            let stats = self.store.stats();
            let nothing = stats.memory_bytes == 0 && stats.disk_bytes == 0 && stats.outputs == 0;
            if nothing && self.store.pool().reserved() == 0 && self.files().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (stats, reserved) = (self.store.stats(), self.store.pool().reserved());
        panic!("leaked: {stats:?}, {reserved} bytes of the pool, files {:?}", self.files());
    }
}

pub fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

pub fn task(job_name: &str, task: u32) -> TaskKey {
    TaskKey { job: job(job_name), stage: StageId(1), stage_attempt: 0, task: TaskId(task), attempt: 0 }
}

pub fn memory() -> OutputOptions {
    OutputOptions { compression: Compression::Lz4, memory_tier: true }
}

pub fn disk() -> OutputOptions {
    OutputOptions { compression: Compression::Lz4, memory_tier: false }
}

/// The inputs made of these outputs, with the rows that their producers reported.
pub fn inputs(sources: &[(&Node, &[(TaskKey, OutputSummary)])]) -> StageInputs {
    let sources = sources.iter().map(|(node, outputs)| {
        let buckets = outputs.iter().map(|(_, summary)| summary.bucket_rows.len()).max().unwrap_or(0);
        let rows = |bucket: usize| outputs.iter().map(|(_, summary)| summary.bucket_rows[bucket]).sum();
        InputSource {
            address: node.address.clone(),
            outputs: outputs.iter().map(|(key, _)| key.clone()).collect(),
            bucket_rows: (0..buckets).map(rows).collect(),
        }
    });
    StageInputs { stage: StageId(1), sources: sources.collect() }
}

pub async fn collect(stream: BatchStream) -> Result<Vec<RecordBatch>, ExchangeError> {
    // A hanging test is worse than a failing one.
    tokio::time::timeout(Duration::from_secs(60), stream.try_collect()).await.expect("the stream hangs")
}

pub async fn fetch(node: &Node, inputs: &StageInputs, buckets: Range<u32>, schema: &RecordBatch) -> Vec<RecordBatch> {
    collect(node.client.fetch(inputs, buckets, schema.schema(), &FetchOptions::default())).await.unwrap()
}
