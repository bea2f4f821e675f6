// SPDX-License-Identifier: Apache-2.0
//! Reading the result of a final task, for the end client: needs a connection and a ticket, no executor.

use arrow::datatypes::SchemaRef;
use ballista_shuffle::BlockDecoder;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::BatchStream;
use super::chunk::do_get;
use crate::error::{ExchangeError, Result};
use crate::frame::Frame;
use crate::status::from_status;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;

/// The rows of a result, as they are produced. Nothing is requested before the first poll; dropping the stream cancels
/// the task that produces them. An error of the task keeps its class. The stream cannot be resumed.
pub fn read_result(channel: Channel, ticket: Bytes, schema: SchemaRef) -> BatchStream {
    let start = State::Unopened { channel, ticket, schema };
    stream::unfold(start, |state| async move {
        match next(state).await {
            Ok(Some((batch, state))) => Some((Ok(batch), state)),
            Ok(None) => None,
            Err(error) => Some((Err(error), State::Ended)),
        }
    })
    .boxed()
}

enum State {
    Unopened { channel: Channel, ticket: Bytes, schema: SchemaRef },
    Open { stream: Box<Streaming<FlightData>>, decoder: BlockDecoder, rows: u64 },
    Ended,
}

async fn next(mut state: State) -> Result<Option<(RecordBatch, State)>> {
    loop {
        match state {
            State::Ended => return Ok(None),
            State::Unopened { channel, ticket, schema } => {
                let decoder =
                    BlockDecoder::try_new(schema).map_err(ExchangeError::shuffle("cannot decode a result"))?;
                let stream = Box::new(do_get(channel, ticket).await.map_err(broken)?);
                state = State::Open { stream, decoder, rows: 0 };
            }
            State::Open { mut stream, mut decoder, rows } => {
                let data = stream.message().await.map_err(broken)?;
                let data = data.ok_or_else(|| ExchangeError::Gone("the result ends without an end marker".into()))?;
                match Frame::parse(data)? {
                    Frame::Schema => state = State::Open { stream, decoder, rows },
                    Frame::Block { block, .. } => {
                        let batch = decoder
                            .decode_block(&block)
                            .map_err(ExchangeError::shuffle("a block of the result cannot be decoded"))?;
                        let rows = rows + block.rows;
                        return Ok(Some((batch, State::Open { stream, decoder, rows })));
                    }
                    Frame::End(end) if end.rows == rows && end.complete => return Ok(None),
                    Frame::End(end) => {
                        let text = format!("{rows} rows of the result received, {} were sent", end.rows);
                        return Err(ExchangeError::Gone(text));
                    }
                }
            }
        }
    }
}

fn broken(status: Status) -> ExchangeError {
    match from_status(&status) {
        Some(error) => ExchangeError::Remote(error),
        None => ExchangeError::Gone(format!("connection to the executor broke: {}", status.message())),
    }
}
