// SPDX-License-Identifier: Apache-2.0
//! A final stage's rows to the client: in the status if they are few and quick, else as a stream while they come.
//!
//! ```text
//!   rows ─▶ hold ──┬─ all there, at most `ballista.client.inline_result_bytes` ─▶ status `finished`, inline
//!                  └─ too many, or PATIENCE after the first row ─▶ status `streaming`, then ResultSender ─▶ client
//! ```
//!
//! A stream is bounded: when the client does not read, the sender waits, then the partitions' buffers fill, then the
//! plan stops being polled. When the client goes away the task fails as `Infra`, and everything above is dropped.
//!
//! *Invariant:* the client sees a clean end only after every partition has ended without an error.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use arrow::array::RecordBatch;
use ballista_core::{ClassifiedError, ErrorClass, fault};
use ballista_exchange::{ExchangeError, ResultSender, classify};
use ballista_plan::codec::encode_batches;
use ballista_proto as proto;
use ballista_shuffle::{compact, used_bytes};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::TaskEnv;
use super::partitions::{Partitions, Turn};
use super::task::Instance;

/// A query that goes on for longer after its first rows streams them: somebody may be looking at them.
const PATIENCE: Duration = Duration::from_millis(100);

/// Batches between a partition and the task, so that a partition computes while others are read.
const BUFFERED_BATCHES: usize = 4;

/// Runs the instance towards the client; `ordered` = partition by partition.
pub(crate) async fn run(
    env: &TaskEnv,
    instance: Instance,
    ordered: bool,
) -> Result<proto::TaskOutput, ClassifiedError> {
    let limit = usize::try_from(instance.config.inline_result_bytes).unwrap_or(usize::MAX);
    let schema = instance.schema();
    let mut rows = Rows::start(&instance, ordered)?;
    let mut held = Held::default();
    let complete = held.fill(&mut rows, limit).await?;
    if complete {
        let inline = encode_batches(&schema, &held.batches).map_err(|error| classify(&error))?;
        return Ok(proto::TaskOutput { inline, is_inline: true, ..held.total });
    }
    let sender = env.results.register(instance.key.clone(), schema);
    env.outbox.push(&instance.key, proto::task_status::Status::Streaming(proto::TaskStreaming {}));
    match stream(held, &mut rows, &sender).await {
        Ok(total) => {
            sender.finish().map_err(|error| ClassifiedError::from(&error))?;
            Ok(total)
        }
        Err(error) => {
            sender.fail(error.clone());
            Err(error)
        }
    }
}

/// The first rows, until it is known how they will travel.
#[derive(Default)]
struct Held {
    batches: Vec<RecordBatch>,
    total: proto::TaskOutput,
}

impl Held {
    /// Takes rows until they end (true), or until they shall be streamed (false).
    async fn fill(&mut self, rows: &mut Rows, limit: usize) -> Result<bool, ClassifiedError> {
        let mut deadline = None;
        loop {
            let out_of_patience = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            let batch = tokio::select! {
                biased;
                batch = rows.next() => batch?,
                () = out_of_patience => return Ok(false),
            };
            let Some(batch) = batch else { return Ok(true) };
            count(&mut self.total, &batch);
            self.batches.push(batch);
            if self.total.bytes > limit as u64 {
                return Ok(false);
            }
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }
}

async fn stream(held: Held, rows: &mut Rows, sender: &ResultSender) -> Result<proto::TaskOutput, ClassifiedError> {
    let mut total = held.total;
    for batch in held.batches {
        sender.send(batch).await.map_err(|error| ClassifiedError::from(&error))?;
    }
    loop {
        let batch = tokio::select! {
            biased;
            () = sender.closed() => {
                return Err(ClassifiedError::new(ErrorClass::Infra, "the consumer of the result is gone"));
            }
            batch = rows.next() => batch?,
        };
        let Some(batch) = batch else { return Ok(total) };
        count(&mut total, &batch);
        sender.send(batch).await.map_err(|error| ClassifiedError::from(&error))?;
    }
}

fn count(total: &mut proto::TaskOutput, batch: &RecordBatch) {
    total.rows += batch.num_rows() as u64;
    total.bytes += used_bytes(batch) as u64;
}

/// The rows of all partitions, one partition after another or as they come.
struct Rows {
    partitions: Partitions<()>,
    /// Read front first; unordered partitions share one.
    buffers: VecDeque<mpsc::Receiver<RecordBatch>>,
    all_ended: bool,
}

impl Rows {
    fn start(instance: &Instance, ordered: bool) -> Result<Self, ClassifiedError> {
        let mut partitions = Partitions::new(&instance.work);
        let mut buffers = VecDeque::new();
        let streams = instance.streams()?;
        let (shared, receiver) = mpsc::channel(BUFFERED_BATCHES * streams.len().max(1));
        if !ordered {
            buffers.push_back(receiver);
        }
        for (_, mut stream) in streams {
            let buffer = if ordered {
                let (own, receiver) = mpsc::channel(BUFFERED_BATCHES);
                buffers.push_back(receiver);
                own
            } else {
                shared.clone()
            };
            partitions.spawn(async move {
                let mut turn = Turn::new();
                while let Some(batch) = stream.try_next().await? {
                    turn.give_way().await;
                    if batch.num_rows() == 0 {
                        continue;
                    }
                    fault::at("result-batch");
                    let context = "cannot compact a result".to_owned();
                    let batch = compact(batch).map_err(|source| ExchangeError::Shuffle { context, source })?;
                    if buffer.send(batch).await.is_err() {
                        // Nobody wants more: the task is over.
                        break;
                    }
                }
                Ok(())
            });
        }
        Ok(Self { partitions, buffers, all_ended: false })
    }

    /// The next rows; `None` once all partitions have ended well. Cancel safe.
    async fn next(&mut self) -> Result<Option<RecordBatch>, ClassifiedError> {
        while let Some(buffer) = self.buffers.front_mut() {
            tokio::select! {
                biased;
                // A failed partition is noticed while another one is being read.
                ended = self.partitions.next(), if !self.all_ended => match ended {
                    Some(ended) => ended?,
                    None => self.all_ended = true,
                },
                batch = buffer.recv() => match batch {
                    Some(batch) => return Ok(Some(batch)),
                    None => {
                        self.buffers.pop_front();
                    }
                },
            }
        }
        while let Some(ended) = self.partitions.next().await {
            ended?;
        }
        Ok(None)
    }
}
