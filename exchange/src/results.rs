// SPDX-License-Identifier: Apache-2.0
//! Result streams of running final tasks: from the task that produces rows straight to the client that waits.
//!
//! A task registers a stream, sends batches and finishes; the client reads them with a ticket for the result.
//!
//! * **Bounded:** at most [`WINDOW_BYTES`] are queued; `send` waits for the consumer.
//! * **A clean end means a complete result.** A sender that is dropped without [`ResultSender::finish`], for whatever
//!   reason, gives the consumer an error; so does [`ResultSender::fail`], with the class of the task's error.
//! * **One consumer.** Whoever shows the ticket first owns the stream. When it goes away, the sender notices at once
//!   ([`ResultSender::closed`], and `send` fails), so that the query can be cancelled.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::{ClassifiedError, ErrorClass, JobId, TaskKey};
use ballista_shuffle::used_bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::{ExchangeError, Result};

/// Bytes that may be queued between a task and its client.
pub const WINDOW_BYTES: usize = 16 << 20;

/// The window is counted in units of this many bytes, because a semaphore counts in `u32`.
const UNIT: usize = 1 << 10;

/// The result streams of one executor.
#[derive(Debug, Default)]
pub struct ResultStreams {
    streams: Mutex<HashMap<TaskKey, Entry>>,
}

#[derive(Debug)]
enum Entry {
    Waiting(ResultReceiver),
    Taken,
}

#[derive(Debug)]
enum Item {
    Batch(RecordBatch, OwnedSemaphorePermit),
    End(Result<u64, ClassifiedError>),
}

impl ResultStreams {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens the stream of a task. A stream registered earlier under the same key is dropped.
    pub fn register(self: &Arc<Self>, key: TaskKey, schema: SchemaRef) -> ResultSender {
        let (queue, receiver) = mpsc::unbounded_channel();
        let receiver = ResultReceiver { schema, queue: receiver };
        self.streams.lock().insert(key.clone(), Entry::Waiting(receiver));
        ResultSender {
            streams: Arc::clone(self),
            key,
            queue,
            window: Arc::new(Semaphore::new(WINDOW_BYTES / UNIT)),
            rows: 0.into(),
        }
    }

    /// The consumer's end of a stream, for the first who asks.
    pub fn take(&self, key: &TaskKey) -> Result<ResultReceiver> {
        let mut streams = self.streams.lock();
        match streams.get_mut(key) {
            None => Err(ExchangeError::Gone(format!("no result of task {key} here"))),
            Some(entry) => match std::mem::replace(entry, Entry::Taken) {
                Entry::Waiting(receiver) => Ok(receiver),
                Entry::Taken => Err(ExchangeError::Gone(format!("the result of task {key} is being read already"))),
            },
        }
    }

    /// Forgets the stream of a task; its sender sees its consumer gone.
    pub fn free_task(&self, key: &TaskKey) {
        self.streams.lock().remove(key);
    }

    /// Forgets the streams of a job; their senders see their consumer gone.
    pub fn free_job(&self, job: &JobId) {
        self.streams.lock().retain(|key, _| key.job != *job);
    }

    /// Number of streams that are registered.
    pub fn len(&self) -> usize {
        self.streams.lock().len()
    }

    /// Whether no stream is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The task's end of a result stream.
#[derive(Debug)]
pub struct ResultSender {
    streams: Arc<ResultStreams>,
    key: TaskKey,
    queue: mpsc::UnboundedSender<Item>,
    window: Arc<Semaphore>,
    rows: std::sync::atomic::AtomicU64,
}

impl ResultSender {
    /// Queues a batch; waits while the window is full. Fails when the consumer is gone.
    pub async fn send(&self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let units = (used_bytes(&batch).div_ceil(UNIT)).clamp(1, WINDOW_BYTES / UNIT) as u32;
        let permit = tokio::select! {
            biased;
            () = self.queue.closed() => return Err(self.consumer_gone()),
            permit = Arc::clone(&self.window).acquire_many_owned(units) => permit,
        };
        let permit = permit.map_err(|_| self.consumer_gone())?;
        self.queue.send(Item::Batch(batch, permit)).map_err(|_| self.consumer_gone())?;
        self.rows.fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Resolves when the consumer, or the registry's interest in the job, is gone.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream: the result is complete.
    pub fn finish(self) -> Result<()> {
        let rows = self.rows.load(std::sync::atomic::Ordering::Relaxed);
        self.queue.send(Item::End(Ok(rows))).map_err(|_| self.consumer_gone())
    }

    /// Ends the stream with the task's error.
    pub fn fail(self, error: ClassifiedError) {
        // Nobody is left to hear it if this fails.
        let _ = self.queue.send(Item::End(Err(error)));
    }

    fn consumer_gone(&self) -> ExchangeError {
        ExchangeError::Gone(format!("the consumer of the result of task {} is gone", self.key))
    }
}

impl Drop for ResultSender {
    fn drop(&mut self) {
        let mut streams = self.streams.streams.lock();
        if matches!(streams.get(&self.key), Some(Entry::Taken)) {
            streams.remove(&self.key);
        }
    }
}

/// The consumer's end of a result stream.
#[derive(Debug)]
pub struct ResultReceiver {
    schema: SchemaRef,
    queue: mpsc::UnboundedReceiver<Item>,
}

/// What a consumer sees next.
#[derive(Debug)]
pub enum ResultItem {
    /// Rows.
    Batch(RecordBatch),
    /// The result is complete and has this many rows in all.
    End(u64),
}

impl ResultReceiver {
    /// Schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next item; an error if the task failed or went away.
    pub async fn next(&mut self) -> Result<ResultItem> {
        let item = self.queue.recv().await;
        Self::convert(item)
    }

    /// The next batch if it is there already; never the end.
    pub fn try_next_batch(&mut self, ended: &mut Option<Result<u64>>) -> Option<RecordBatch> {
        let item = self.queue.try_recv().ok()?;
        match Self::convert(Some(item)) {
            Ok(ResultItem::Batch(batch)) => Some(batch),
            Ok(ResultItem::End(rows)) => {
                *ended = Some(Ok(rows));
                None
            }
            Err(error) => {
                *ended = Some(Err(error));
                None
            }
        }
    }

    fn convert(item: Option<Item>) -> Result<ResultItem> {
        match item {
            Some(Item::Batch(batch, window)) => {
                // The task may go on.
                drop(window);
                Ok(ResultItem::Batch(batch))
            }
            Some(Item::End(Ok(rows))) => Ok(ResultItem::End(rows)),
            Some(Item::End(Err(error))) => Err(ExchangeError::Remote(error)),
            None => Err(ExchangeError::Remote(ClassifiedError::new(
                ErrorClass::Infra,
                "the task went away before its result was complete",
            ))),
        }
    }
}
