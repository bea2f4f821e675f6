// SPDX-License-Identifier: Apache-2.0
//! Getting one chunk: the blocks from a position on, up to a number of bytes, all in memory.
//!
//! A chunk is buffered as a whole before any of it is handed on. That makes repeating it safe: a request that broke
//! is sent once more, over a fresh connection, from the same position, and nothing is delivered twice.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket as FlightTicket};
use ballista_core::{ErrorClass, TaskKey, fault};
use ballista_shuffle::Block;
use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::Inner;
use super::credit::Credit;
use crate::error::{ExchangeError, Result};
use crate::frame::Frame;
use crate::server::MAX_MESSAGE_BYTES;
use crate::status::from_status;
use crate::store::{Output, Position, StoreCursor, StoredBlock};
use crate::wire::{ExecutorAddress, Ticket};

/// A block and its place, from where it can be fetched again.
#[derive(Debug)]
pub(super) struct FetchedBlock {
    pub(super) position: Position,
    pub(super) block: Block,
}

/// Blocks that have arrived.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) blocks: VecDeque<FetchedBlock>,
    /// Where the next chunk starts; `None` after the last.
    pub(super) next: Option<Position>,
    /// Held for as long as the blocks are.
    pub(super) credit: Option<Credit>,
}

impl Chunk {
    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.block.bytes()).sum()
    }
}

/// Where the chunks of a run come from.
#[derive(Debug)]
pub(super) enum Origin {
    /// Another executor, or this one if everything has to go through Flight.
    Remote { client: Arc<Inner>, outputs: Vec<TaskKey>, buckets: Range<u32> },
    /// A file of this executor.
    File { output: Arc<Output>, buckets: Range<u32> },
}

impl Origin {
    /// Fetches the blocks from `from` on, up to `bytes`. Errors name `address`.
    pub(super) async fn fetch(&self, address: &ExecutorAddress, from: Position, bytes: usize) -> Result<Chunk> {
        match self {
            Self::Remote { client, outputs, buckets } => {
                // What has been read completely is left out of the ticket.
                let outputs = outputs.get(from.output..).unwrap_or_default();
                let ticket = Ticket {
                    incarnation: address.incarnation,
                    outputs: outputs.to_vec(),
                    buckets: buckets.clone(),
                    from_output: 0,
                    from_block: from.block,
                    max_bytes: bytes as u64,
                    same_host: client.own.host == address.host,
                    result: false,
                };
                let signed = client.key.sign(&ticket.to_proto());
                let request = Request { client, address, signed, outputs: outputs.len(), from };
                let chunk = request.send().await;
                fault::at("fetch");
                chunk
            }
            Self::File { output, buckets } => {
                let (output, buckets) = (Arc::clone(output), buckets.start as usize..buckets.end as usize);
                let read = move || read_file(output, buckets, from, bytes);
                tokio::task::spawn_blocking(read).await?.map_err(|error| as_fetch(address, error))
            }
        }
    }
}

fn read_file(output: Arc<Output>, buckets: Range<usize>, from: Position, bytes: usize) -> Result<Chunk> {
    let mut cursor = StoreCursor::new(vec![output], buckets, from, true);
    let mut position = from;
    let blocks = cursor.next_blocks(bytes)?.into_iter().map(|StoredBlock { block, .. }| {
        let fetched = FetchedBlock { position, block };
        position.block += 1;
        fetched
    });
    let blocks = blocks.collect();
    let next = cursor.has_next()?.then(|| cursor.position());
    Ok(Chunk { blocks, next, credit: None })
}

/// Errors of reading a producer's data mean that the data is lost, except when it is us who lack something.
pub(super) fn as_fetch(address: &ExecutorAddress, error: ExchangeError) -> ExchangeError {
    match error.class() {
        // Whoever could not be reached may have it still.
        ErrorClass::Fetch if matches!(&error, ExchangeError::Fetch { gone: false, .. }) => error,
        ErrorClass::Fetch | ErrorClass::Transient | ErrorClass::Fenced | ErrorClass::Infra => {
            ExchangeError::gone(address, error.full_text())
        }
        ErrorClass::Resource | ErrorClass::Deterministic | ErrorClass::User => error,
    }
}

struct Request<'a> {
    client: &'a Inner,
    address: &'a ExecutorAddress,
    signed: Bytes,
    outputs: usize,
    from: Position,
}

/// Why a request failed.
enum Failure {
    /// The connection or the stream broke: worth a second try.
    Broken(String),
    /// The producer has said no.
    Refused(ExchangeError),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match from_status(&status) {
            Some(error) => Self::Refused(ExchangeError::Remote(error)),
            None => Self::Broken(format!("{:?}: {}", status.code(), status.message())),
        }
    }
}

impl Request<'_> {
    /// Fetches the chunk, unless the producer is out of the cluster.
    async fn send(&self) -> Result<Chunk> {
        let mut lost = self.client.lost.subscribe();
        let incarnation = self.address.incarnation;
        tokio::select! {
            chunk = self.send_twice() => chunk,
            // The sender lives in the client, so waiting cannot fail.
            _ = lost.wait_for(|lost| lost.contains(&incarnation)) => {
                Err(ExchangeError::unreachable(self.address, "the executor is lost"))
            }
        }
    }

    async fn send_twice(&self) -> Result<Chunk> {
        let mut first_failure = None;
        loop {
            let connection = match self.client.connections.get(self.address).await {
                Ok(connection) => connection,
                Err(error) if first_failure.is_some() => return Err(as_fetch(self.address, error)),
                Err(error) => {
                    first_failure = Some(error.to_string());
                    continue;
                }
            };
            match self.try_send(connection.channel.clone()).await {
                Ok(chunk) => return Ok(chunk),
                Err(Failure::Refused(error)) => return Err(as_fetch(self.address, error)),
                Err(Failure::Broken(message)) => {
                    connection.discard().await;
                    if let Some(first) = first_failure {
                        return Err(ExchangeError::unreachable(
                            self.address,
                            format!("{message}; at the first try {first}"),
                        ));
                    }
                    tracing::debug!(producer = %self.address, %message, "repeating a fetch over a fresh connection");
                    first_failure = Some(message);
                }
            }
        }
    }

    async fn try_send(&self, channel: Channel) -> Result<Chunk, Failure> {
        let mut stream = do_get(channel, self.signed.clone()).await?;
        let mut chunk = Chunk { blocks: VecDeque::new(), next: None, credit: None };
        let (mut rows, mut position) = (0, self.from);
        loop {
            let data = stream.message().await?;
            let data = data.ok_or_else(|| Failure::Broken("stream ends without an end marker".into()))?;
            match Frame::parse(data).map_err(|error| Failure::Broken(error.to_string()))? {
                Frame::Schema => {}
                Frame::Block { output, block } => {
                    let output = self.from.output + output as usize;
                    if output < position.output || output >= self.from.output + self.outputs {
                        return Err(Failure::Broken(format!("block of output {output} out of order")));
                    }
                    if output > position.output {
                        position = Position { output, block: 0 };
                    }
                    rows += block.rows;
                    chunk.blocks.push_back(FetchedBlock { position, block });
                    position.block += 1;
                }
                Frame::End(end) => {
                    let blocks = chunk.blocks.len();
                    if end.rows != rows || end.blocks != blocks as u64 {
                        return Err(Failure::Broken(format!(
                            "{rows} rows in {blocks} blocks received, {} in {} were sent",
                            end.rows, end.blocks
                        )));
                    }
                    let next = Position { output: self.from.output + end.next_output as usize, block: end.next_block };
                    if !end.complete && blocks == 0 {
                        return Err(Failure::Broken("an incomplete stream without a block".into()));
                    }
                    chunk.next = (!end.complete).then_some(next);
                    // The status follows the last message; it is read so that the stream is not reset.
                    let _ = stream.message().await;
                    return Ok(chunk);
                }
            }
        }
    }
}

/// Opens a Flight stream for a signed ticket.
pub(super) async fn do_get(channel: Channel, signed: Bytes) -> std::result::Result<Streaming<FlightData>, Status> {
    let mut client = FlightServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.do_get(FlightTicket { ticket: signed }).await?.into_inner())
}
