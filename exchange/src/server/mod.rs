// SPDX-License-Identifier: Apache-2.0
//! The data service: outputs and results over standard Arrow Flight.
//!
//! Only `DoGet` does anything. Its ticket is checked in this order: signature, ids, incarnation, existence of every
//! output; so nothing is said about outputs to someone without a valid ticket, and nothing is streamed before it is
//! known that all is there. Errors carry their class (see [`crate::status`]).
//!
//! Disk reads, encoding and compression happen on blocking threads in windows of a few blocks; a slow consumer holds
//! a few blocks of memory and no thread. The reactor only copies bytes to the socket.

mod outputs;
mod results;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
};
use async_trait::async_trait;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{ExchangeError, Result};
use crate::results::ResultStreams;
use crate::status::to_status;
use crate::store::ShuffleStore;
use crate::ticket::TicketKey;
use crate::wire::Ticket;

/// Window of a stream, both sides: bandwidth × delay of 25 Gbit/s over 5 ms.
pub const STREAM_WINDOW: u32 = 16 << 20;

/// Window of a connection, both sides.
pub const CONNECTION_WINDOW: u32 = 64 << 20;

/// Largest HTTP/2 frame, both sides: one block.
pub const MAX_FRAME_BYTES: u32 = 1 << 20;

/// A block has about 1 MiB, but a single row may be larger.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Tickets name every output they ask for.
const MAX_TICKET_BYTES: usize = 64 << 20;

/// Frames between the threads that read and encode and the connection.
const READ_AHEAD_FRAMES: usize = 4;

/// Bytes of blocks that are read or encoded in one go on a blocking thread.
const WINDOW_BYTES: usize = 2 << 20;

/// The data service of one executor.
#[derive(Debug, Clone)]
pub struct ExchangeServer {
    store: Arc<ShuffleStore>,
    results: Arc<ResultStreams>,
    key: TicketKey,
}

type Frames = mpsc::Sender<Result<FlightData, Status>>;

impl ExchangeServer {
    /// Serves what `store` and `results` hold to whoever has a ticket signed with `key`.
    pub fn new(store: Arc<ShuffleStore>, results: Arc<ResultStreams>, key: TicketKey) -> Self {
        Self { store, results, key }
    }

    /// The gRPC service, with message limits set; to be added to a server made by [`tune`].
    pub fn into_service(self) -> FlightServiceServer<Self> {
        FlightServiceServer::new(self)
            .max_decoding_message_size(MAX_TICKET_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn start(&self, signed: &[u8]) -> Result<ReceiverStream<Result<FlightData, Status>>> {
        let ticket = self.key.verify(signed)?;
        self.check_incarnation(&ticket)?;
        let (frames, stream) = mpsc::channel(READ_AHEAD_FRAMES);
        if ticket.result {
            let result = self.results.take(&ticket.outputs[0])?;
            tokio::spawn(results::send(result, ticket.same_host, frames));
        } else {
            let outputs = outputs::resolve(&self.store, &ticket)?;
            tokio::spawn(outputs::send(outputs, ticket, frames));
        }
        Ok(ReceiverStream::new(stream))
    }

    fn check_incarnation(&self, ticket: &Ticket) -> Result<()> {
        let own = self.store.incarnation();
        if ticket.incarnation != own {
            return Err(ExchangeError::Fenced(format!(
                "ticket is for incarnation {} of this executor, which is now {own}",
                ticket.incarnation
            )));
        }
        Ok(())
    }
}

/// Sends the error that ended a stream. If nobody listens any longer, nobody misses it.
async fn send_error(frames: &Frames, error: &ExchangeError) {
    let _ = frames.send(Err(to_status(error))).await;
}

/// Sets a server up for bulk data: HTTP/2 windows, frame size, keep-alive.
pub fn tune(server: Server) -> Server {
    server
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_adaptive_window(Some(false))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .tcp_nodelay(true)
}

type Reply<T> = std::result::Result<Response<T>, Status>;
type ReplyStream<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

fn only_do_get<T>() -> Reply<T> {
    Err(Status::unimplemented("this Flight service only knows DoGet"))
}

#[async_trait]
impl FlightService for ExchangeServer {
    type HandshakeStream = ReplyStream<HandshakeResponse>;
    type ListFlightsStream = ReplyStream<FlightInfo>;
    type DoGetStream = ReceiverStream<std::result::Result<FlightData, Status>>;
    type DoPutStream = ReplyStream<PutResult>;
    type DoActionStream = ReplyStream<arrow_flight::Result>;
    type ListActionsStream = ReplyStream<ActionType>;
    type DoExchangeStream = ReplyStream<FlightData>;

    async fn do_get(&self, request: Request<FlightTicket>) -> Reply<Self::DoGetStream> {
        match self.start(&request.into_inner().ticket) {
            Ok(stream) => Ok(Response::new(stream)),
            Err(error) => {
                tracing::debug!(error = %error.full_text(), "refused a ticket");
                Err(to_status(&error))
            }
        }
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Reply<Self::HandshakeStream> {
        only_do_get()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Reply<Self::ListFlightsStream> {
        only_do_get()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Reply<FlightInfo> {
        only_do_get()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Reply<PollInfo> {
        only_do_get()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Reply<SchemaResult> {
        only_do_get()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Reply<Self::DoPutStream> {
        only_do_get()
    }

    async fn do_action(&self, _: Request<Action>) -> Reply<Self::DoActionStream> {
        only_do_get()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Reply<Self::ListActionsStream> {
        only_do_get()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Reply<Self::DoExchangeStream> {
        only_do_get()
    }
}
