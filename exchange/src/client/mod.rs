// SPDX-License-Identifier: Apache-2.0
//! Fetching the outputs of a stage: from this executor without copying, from others by Flight.
//!
//! ```text
//!   fetch        all sources at once, in any order          one credit group
//!   fetch_runs   one stream per output, each in its order   one credit group per stream
//!   fetch_broadcast  everything, once per executor
//! ```
//!
//! Remote data is fetched in bounded chunks, each requested only after the governor gave credit for it and then
//! drained into memory whatever the consumer does; see [`credit`](self) for why this cannot deadlock: the bytes an
//! executor holds are bounded by its budget and one chunk per stream that is being read.
//!
//! **Failure modes.** A stream that is cut short, rows that are missing, blocks whose checksum does not match, an
//! executor that is unreachable or in another life: after one repetition an [`ExchangeError::Fetch`] that names the
//! producer, never an end of the stream.
//!
//! **Threads.** Requests run on the runtime in which the client was made; streams may be polled on any other, for
//! instance one for CPU work, and decode there.

mod broadcast;
mod chunk;
mod connect;
mod credit;
mod local;
mod result;
mod run;

use std::collections::HashSet;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::{Incarnation, JobId, StageId, TaskKey};
use ballista_shuffle::batch_bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::{ExchangeError, Result};
use crate::store::ShuffleStore;
use crate::ticket::TicketKey;
use crate::wire::{ExecutorAddress, InputSource, StageInputs};
use broadcast::{Broadcast, Broadcasts};
use chunk::Origin;
use credit::Governor;
use local::LocalRun;
use run::{RowCheck, Run, RunContext};

pub use connect::{
    CONNECTIONS_PER_PEER, Connection, ConnectionPool, Connector, LocalConnector, LocalIncoming, TcpConnector,
    bulk_endpoint,
};
pub use result::read_result;

/// A stream of batches.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// More lost executors than any fetch under way may still be waiting for.
const REMEMBERED_LOSSES: usize = 10_000;

/// Bounds on fetched data.
#[derive(Debug, Clone, Copy)]
pub struct FetchConfig {
    /// Bytes that all fetches of an executor hold together, plus one chunk per stream that is being read.
    pub bytes_in_flight: usize,
    /// Bytes of one request of an unordered fetch.
    pub chunk_bytes: usize,
    /// Bytes of one request of an ordered fetch, of which many are read at once.
    pub run_chunk_bytes: usize,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self { bytes_in_flight: 256 << 20, chunk_bytes: 8 << 20, run_chunk_bytes: 2 << 20 }
    }
}

/// How one fetch is done, and where it is counted.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Hand outputs of the own executor over directly. `false` = everything through Flight.
    pub memory_tier: bool,
    /// Counts what is read.
    pub metrics: Arc<FetchMetrics>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { memory_tier: true, metrics: Arc::default() }
    }
}

/// What has been read. Local bytes are those of Arrow batches or file blocks, remote ones those on the wire.
#[derive(Debug, Default)]
pub struct FetchMetrics {
    local_bytes: AtomicU64,
    local_rows: AtomicU64,
    remote_bytes: AtomicU64,
    remote_rows: AtomicU64,
}

impl FetchMetrics {
    fn count(&self, remote: bool, bytes: u64, batch: &RecordBatch) {
        let (byte_counter, row_counter) = match remote {
            true => (&self.remote_bytes, &self.remote_rows),
            false => (&self.local_bytes, &self.local_rows),
        };
        byte_counter.fetch_add(bytes, Ordering::Relaxed);
        row_counter.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }

    /// Bytes read from the own executor.
    pub fn local_bytes(&self) -> u64 {
        self.local_bytes.load(Ordering::Relaxed)
    }

    /// Rows read from the own executor.
    pub fn local_rows(&self) -> u64 {
        self.local_rows.load(Ordering::Relaxed)
    }

    /// Bytes read through Flight.
    pub fn remote_bytes(&self) -> u64 {
        self.remote_bytes.load(Ordering::Relaxed)
    }

    /// Rows read through Flight.
    pub fn remote_rows(&self) -> u64 {
        self.remote_rows.load(Ordering::Relaxed)
    }
}

/// Fetches for the tasks of one executor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExchangeClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: ExecutorAddress,
    store: Option<Arc<ShuffleStore>>,
    key: TicketKey,
    connections: ConnectionPool,
    config: FetchConfig,
    governor: Arc<Governor>,
    broadcasts: Broadcasts,
    /// Lives of executors that are out of the cluster.
    lost: watch::Sender<HashSet<Incarnation>>,
    runtime: Handle,
}

impl ExchangeClient {
    /// A client for the executor at `own`, whose store is `store`. Requests run on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        own: ExecutorAddress,
        store: Option<Arc<ShuffleStore>>,
        key: TicketKey,
        connector: Arc<dyn Connector>,
        config: FetchConfig,
    ) -> Self {
        let inner = Inner {
            own,
            store,
            key,
            connections: ConnectionPool::new(connector),
            governor: Governor::new(config.bytes_in_flight),
            config,
            broadcasts: Broadcasts::default(),
            lost: watch::Sender::default(),
            runtime: Handle::current(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The executor this client fetches for.
    pub fn own_address(&self) -> &ExecutorAddress {
        &self.inner.own
    }

    /// The rows of `buckets` of all sources, in any order. Nothing is requested before the first poll.
    pub fn fetch(
        &self,
        inputs: &StageInputs,
        buckets: Range<u32>,
        schema: SchemaRef,
        options: &FetchOptions,
    ) -> BatchStream {
        let context = self.context(schema, self.inner.config.chunk_bytes, options);
        let streams = inputs.sources.iter().filter(|source| has_rows(source, &buckets)).map(|source| {
            let address = Arc::new(source.address.clone());
            let check = RowCheck::new(&address, source.expected_rows(&buckets), 1);
            self.run(context.clone(), address, source.outputs.clone(), buckets.clone(), check, options.memory_tier)
        });
        stop_at_error(stream::select_all(streams))
    }

    /// The rows of `buckets`, one stream per output, each in the order in which its producer wrote it. Nothing is
    /// requested from an output before its stream's first poll.
    pub fn fetch_runs(
        &self,
        inputs: &StageInputs,
        buckets: Range<u32>,
        schema: SchemaRef,
        options: &FetchOptions,
    ) -> Vec<BatchStream> {
        let mut streams = Vec::new();
        for source in inputs.sources.iter().filter(|source| has_rows(source, &buckets)) {
            let address = Arc::new(source.address.clone());
            let check = RowCheck::new(&address, source.expected_rows(&buckets), source.outputs.len());
            for output in &source.outputs {
                let context = self.context(Arc::clone(&schema), self.inner.config.run_chunk_bytes, options);
                let (address, check, output) = (Arc::clone(&address), Arc::clone(&check), vec![output.clone()]);
                streams.push(self.run(context, address, output, buckets.clone(), check, options.memory_tier));
            }
        }
        streams
    }

    /// All rows of all sources, fetched and decoded once for all tasks of `job` on this executor, until the stage or the
    /// job is freed. Accounted in the executor's memory pool.
    pub async fn fetch_broadcast(
        &self,
        job: &JobId,
        inputs: &StageInputs,
        schema: SchemaRef,
        options: &FetchOptions,
    ) -> Result<Arc<Vec<RecordBatch>>> {
        // A stage that ran again as a whole may have given other rows.
        let attempt = inputs.sources.iter().flat_map(|source| &source.outputs).map(|output| output.stage_attempt).max();
        let cell = self.inner.broadcasts.cell(job, inputs.stage, attempt.unwrap_or(0));
        let broadcast = cell.get_or_try_init(|| self.load_broadcast(inputs, schema, options)).await?;
        Ok(Arc::clone(&broadcast.batches))
    }

    async fn load_broadcast(
        &self,
        inputs: &StageInputs,
        schema: SchemaRef,
        options: &FetchOptions,
    ) -> Result<Broadcast> {
        let reservation = self.inner.store.as_ref().map(|store| broadcast::consumer().register(store.pool()));
        let mut rows = self.fetch(inputs, 0..u32::MAX, schema, options);
        let mut batches = Vec::new();
        while let Some(batch) = rows.try_next().await? {
            if let Some(reservation) = &reservation {
                reservation
                    .try_grow(batch_bytes(&batch))
                    .map_err(|error| ExchangeError::Resource(format!("broadcast input: {error}")))?;
            }
            batches.push(batch);
        }
        Ok(Broadcast { batches: Arc::new(batches), _reservation: reservation })
    }

    /// An executor is out of the cluster: whatever is being fetched from it fails now, and not when its connection does.
    pub fn peer_lost(&self, incarnation: Incarnation) {
        self.inner.lost.send_modify(|lost| {
            if lost.len() >= REMEMBERED_LOSSES {
                lost.clear();
            }
            lost.insert(incarnation);
        });
    }

    /// Forgets the broadcast inputs of a job.
    pub fn free_job(&self, job: &JobId) {
        self.inner.broadcasts.free_job(job);
    }

    /// Forgets the broadcast input of a stage.
    pub fn free_stage(&self, job: &JobId, stage: StageId) {
        self.inner.broadcasts.free_stage(job, stage);
    }

    /// The result of a final task, see [`read_result`].
    pub async fn read_result(
        &self,
        address: &ExecutorAddress,
        ticket: bytes::Bytes,
        schema: SchemaRef,
    ) -> Result<BatchStream> {
        let connection = self.inner.connections.get(address).await?;
        Ok(read_result(connection.channel, ticket, schema))
    }

    fn context(&self, schema: SchemaRef, chunk_bytes: usize, options: &FetchOptions) -> RunContext {
        RunContext {
            runtime: self.inner.runtime.clone(),
            group: self.inner.governor.group(),
            chunk_bytes,
            metrics: Arc::clone(&options.metrics),
            schema,
        }
    }

    fn is_own(&self, address: &ExecutorAddress) -> bool {
        address.executor == self.inner.own.executor && address.incarnation == self.inner.own.incarnation
    }

    fn run(
        &self,
        context: RunContext,
        address: Arc<ExecutorAddress>,
        outputs: Vec<TaskKey>,
        buckets: Range<u32>,
        check: Arc<RowCheck>,
        memory_tier: bool,
    ) -> BatchStream {
        let output = outputs.first().cloned();
        let rows = match &self.inner.store {
            Some(store) if memory_tier && self.is_own(&address) => {
                AnyRun::Local(LocalRun::new(context, address, Arc::clone(store), outputs, buckets))
            }
            _ => {
                let origin = Origin::Remote { client: Arc::clone(&self.inner), outputs, buckets };
                AnyRun::Remote(Run::new(context, address, origin))
            }
        };
        let batches = stream::try_unfold((rows, check), |(mut rows, check)| async move {
            match rows.next().await? {
                Some(batch) => {
                    check.count(&batch);
                    Ok(Some((batch, (rows, check))))
                }
                None => check.end_of_run().map(|()| None),
            }
        });
        let of_stage = move |error: ExchangeError| match &output {
            Some(output) => error.of_stage(output),
            None => error,
        };
        batches.map_err(of_stage).boxed()
    }
}

enum AnyRun {
    Local(LocalRun),
    Remote(Run),
}

impl AnyRun {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self {
            Self::Local(run) => run.next().await,
            Self::Remote(run) => run.next().await,
        }
    }
}

/// Whether there is anything to ask a source for.
fn has_rows(source: &InputSource, buckets: &Range<u32>) -> bool {
    !source.outputs.is_empty() && !buckets.is_empty() && source.expected_rows(buckets) != Some(0)
}

/// Ends a stream after its first error and drops what it still holds.
fn stop_at_error(batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static) -> BatchStream {
    let batches = Some(batches.boxed());
    stream::unfold(batches, |batches| async move {
        let mut batches = batches?;
        match batches.next().await? {
            Ok(batch) => Some((Ok(batch), Some(batches))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}
