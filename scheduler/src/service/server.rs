// SPDX-License-Identifier: Apache-2.0
//! [`SchedulerServer`]: the generated server, except for executors' sessions, which it encodes itself.
//!
//! The generated one encodes a whole message at a time; ours appends the inputs of a launch, encoded before, to the
//! rest of it (see `shell::outgoing`). On the wire there is no difference.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use ballista_proto as proto;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use prost::Message;
use proto::scheduler_service_server::SchedulerServiceServer;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::{SchedulerService, session};
use crate::shell::message::ShellHandle;
use crate::shell::outgoing::Outgoing;
use crate::sql::SqlSessions;

const SESSION: &str = "/ballista.v1.SchedulerService/Session";

/// The scheduler as a gRPC service for a tonic server. Cheap to clone.
#[derive(Clone)]
pub struct SchedulerServer {
    shell: ShellHandle,
    generated: SchedulerServiceServer<SchedulerService>,
    max_message_bytes: usize,
}

impl std::fmt::Debug for SchedulerServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerServer").finish_non_exhaustive()
    }
}

impl SchedulerServer {
    pub(crate) fn new(shell: ShellHandle, sessions: Option<Arc<SqlSessions>>, max_message_bytes: usize) -> Self {
        let generated = SchedulerServiceServer::new(SchedulerService { shell: shell.clone(), sessions })
            .max_decoding_message_size(max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        Self { shell, generated, max_message_bytes }
    }
}

impl NamedService for SchedulerServer {
    const NAME: &'static str = <SchedulerServiceServer<SchedulerService> as NamedService>::NAME;
}

impl<B> Service<http::Request<B>> for SchedulerServer
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != SESSION {
            return self.generated.call(request);
        }
        let sessions = Sessions(self.shell.clone());
        let mut grpc =
            Grpc::new(SessionCodec).apply_max_message_size_config(Some(self.max_message_bytes), Some(usize::MAX));
        async move { Ok(grpc.streaming(sessions, request).await) }.boxed()
    }
}

struct Sessions(ShellHandle);

impl StreamingService<proto::ExecutorMessage> for Sessions {
    type Response = Outgoing;
    type ResponseStream = BoxStream<'static, Result<Outgoing, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<proto::ExecutorMessage>>) -> Self::Future {
        let shell = self.0.clone();
        async move {
            let messages = session::open(&shell, request.into_inner()).await.map_err(|error| error.to_status())?;
            Ok(Response::new(messages.map(Ok).boxed()))
        }
        .boxed()
    }
}

struct SessionCodec;

impl Codec for SessionCodec {
    type Encode = Outgoing;
    type Decode = proto::ExecutorMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SessionCodec {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer);
        Ok(())
    }
}

impl Decoder for SessionCodec {
    type Item = proto::ExecutorMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<proto::ExecutorMessage>, Status> {
        let message = proto::ExecutorMessage::decode(buffer);
        message.map(Some).map_err(|error| Status::internal(format!("decoding an executor's message: {error}")))
    }
}
