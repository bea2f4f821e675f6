// SPDX-License-Identifier: Apache-2.0
//! What must never pass for an end of the stream: cuts, bit flips, missing rows, strangers.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult,
};
use ballista_core::{ErrorClass, Incarnation};
use ballista_exchange::status::from_status;
use ballista_exchange::{ExchangeError, ExchangeServer, FetchOptions, StageInputs, Ticket, TicketKey, tune};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::data::{numbered_batches, sorted_numbers};
use crate::node::{Node, NodeConfig, collect, disk, inputs, job, memory, task};

/// Forwards connections to `port`; the first `cuts` of them break after `bytes` bytes from the server.
async fn cutting_proxy(port: u16, cuts: usize, bytes: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let limit = if seen.fetch_add(1, Ordering::SeqCst) < cuts { bytes } else { usize::MAX };
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut left = limit;
                let mut buffer = vec![0; 16 << 10];
                while left > 0 {
                    let wanted = buffer.len().min(left);
                    match from_server.read(&mut buffer[..wanted]).await {
                        Ok(read) if read > 0 => {
                            to_client.write_all(&buffer[..read]).await.unwrap_or_default();
                            left -= read;
                        }
                        _ => break,
                    }
                }
                up.abort();
            });
        }
    });
    own_port
}

/// A server that ends its streams cleanly, but too early: a lost sender in a careless server looks like this.
struct Forgetful(ExchangeServer);

#[tonic::async_trait]
impl FlightService for Forgetful {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn do_get(&self, request: Request<arrow_flight::Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let frames: Vec<_> = self.0.do_get(request).await?.into_inner().collect().await;
        let kept = frames.len() - 1;
        Ok(Response::new(futures::stream::iter(frames.into_iter().take(kept)).boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unimplemented!()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unimplemented!()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        unimplemented!()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unimplemented!()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unimplemented!()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        unimplemented!()
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        unimplemented!()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unimplemented!()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        unimplemented!()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_without_the_end_marker_is_a_fetch_error() {
    let mut pair = pair(memory()).await;
    // Without the check against reported rows, which would find it too.
    pair.inputs.sources[0].bucket_rows.clear();
    assert_eq!(pair.read().await.unwrap().len() as i64, pair.rows);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.inputs.sources[0].address.port = listener.local_addr().unwrap().port();
    let service = FlightServiceServer::new(Forgetful(pair.producer.server()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tune(Server::builder()).add_service(service).serve_with_incoming(incoming));
    let error = pair.read().await.unwrap_err();
    pair.assert_names_producer(&error);
    assert!(error.to_string().contains("end marker"), "{error}");
}

struct Pair {
    producer: Node,
    consumer: Node,
    inputs: StageInputs,
    rows: i64,
}

async fn pair(options: ballista_exchange::OutputOptions) -> Pair {
    let key = TicketKey::random();
    let producer = Node::tcp("producer", &key, NodeConfig::default()).await;
    let consumer = Node::tcp("consumer", &key, NodeConfig::default()).await;
    let batches = numbered_batches(200_000, 5000);
    let summary = producer.write(&task("j", 0), &batches, 2, options).await;
    let inputs = inputs(&[(&producer, &[(task("j", 0), summary)])]);
    Pair { producer, consumer, inputs, rows: 200_000 }
}

impl Pair {
    async fn read(&self) -> Result<Vec<i64>, ExchangeError> {
        let schema = numbered_batches(1, 1)[0].schema();
        let stream = self.consumer.client.fetch(&self.inputs, 0..2, schema, &FetchOptions::default());
        Ok(sorted_numbers(&collect(stream).await?))
    }

    fn assert_names_producer(&self, error: &ExchangeError) {
        assert_eq!(error.class(), ErrorClass::Fetch, "{error:?}");
        assert!(error.to_string().contains("producer@127.0.0.1"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_once_is_made_again_and_nothing_is_lost_or_doubled() {
    for cut in [0, 100, 10_000, 500_000, 1_500_000] {
        let mut pair = pair(memory()).await;
        pair.inputs.sources[0].address.port = cutting_proxy(pair.producer.address.port, 1, cut).await;
        assert_eq!(pair.read().await.unwrap(), (0..pair.rows).collect::<Vec<_>>(), "cut after {cut} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_is_a_fetch_error_and_never_an_end() {
    for cut in [0, 100, 10_000, 500_000, 1_500_000] {
        let mut pair = pair(disk()).await;
        pair.inputs.sources[0].address.port = cutting_proxy(pair.producer.address.port, usize::MAX, cut).await;
        let error = pair.read().await.unwrap_err();
        pair.assert_names_producer(&error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_file_is_found_before_it_is_decoded() {
    let pair = pair(disk()).await;
    let path = &pair.producer.files()[0];
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut found = 0;
    for step in 0..40 {
        let at = length * step / 40 + step;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        match pair.read().await {
            // Head and footer were read, and checked, when the file was opened.
            Ok(rows) => assert_eq!(rows, (0..pair.rows).collect::<Vec<_>>()),
            Err(error) => {
                pair.assert_names_producer(&error);
                found += 1;
            }
        }
        // The same when the producer reads its own file.
        let schema = numbered_batches(1, 1)[0].schema();
        let local = pair.producer.client.fetch(&pair.inputs, 0..2, schema, &FetchOptions::default());
        match collect(local).await {
            Ok(rows) => assert_eq!(sorted_numbers(&rows), (0..pair.rows).collect::<Vec<_>>()),
            Err(error) => pair.assert_names_producer(&error),
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(found >= 35, "only {found} of 40 flips were found");
    assert_eq!(pair.read().await.unwrap().len() as i64, pair.rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_surplus_rows_are_found_by_counting() {
    for difference in [-1_i64, 1] {
        let mut pair = pair(memory()).await;
        let expected = &mut pair.inputs.sources[0].bucket_rows[0];
        *expected = expected.checked_add_signed(difference).unwrap();
        let error = pair.read().await.unwrap_err();
        pair.assert_names_producer(&error);
        let schema = numbered_batches(1, 1)[0].schema();
        let runs = pair.consumer.client.fetch_runs(&pair.inputs, 0..2, schema, &FetchOptions::default());
        for run in runs {
            pair.assert_names_producer(&collect(run).await.unwrap_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_output_is_a_fetch_error_naming_the_producer() {
    let pair = pair(memory()).await;
    pair.producer.store.free_job(&job("j"));
    pair.assert_names_producer(&pair.read().await.unwrap_err());
    // Also for a reader on the same executor.
    let schema = numbered_batches(1, 1)[0].schema();
    let local = pair.producer.client.fetch(&pair.inputs, 0..2, schema, &FetchOptions::default());
    pair.assert_names_producer(&collect(local).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_incarnation_is_a_fetch_error_for_the_reader() {
    let mut pair = pair(memory()).await;
    pair.inputs.sources[0].address.incarnation = Incarnation(1);
    let error = pair.read().await.unwrap_err();
    pair.assert_names_producer(&error);
    assert!(error.to_string().contains("incarnation"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_refused_with_a_class_if_forged_or_for_another_life() {
    let pair = pair(memory()).await;
    let uri = format!("http://{}", pair.producer.address.authority());
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let mut client = FlightServiceClient::new(channel);
    let ticket = |incarnation| Ticket {
        outputs: vec![task("j", 0)],
        result: false,
        ..Ticket::result(incarnation, task("j", 0))
    };
    let own = pair.producer.address.incarnation;
    for (key, incarnation, code) in [
        (TicketKey::random(), own, tonic::Code::PermissionDenied),
        (pair.producer.key.clone(), Incarnation(1), tonic::Code::FailedPrecondition),
    ] {
        let signed = key.sign(&ticket(incarnation).to_proto());
        let status = client.do_get(arrow_flight::Ticket { ticket: signed }).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(from_status(&status).unwrap().class, ErrorClass::Fenced);
    }
    let garbage = client.do_get(arrow_flight::Ticket { ticket: "garbage".into() }).await.unwrap_err();
    assert_eq!(garbage.code(), tonic::Code::PermissionDenied);
    let signed = pair.producer.key.sign(&ticket(own).to_proto());
    client.do_get(arrow_flight::Ticket { ticket: signed }).await.unwrap();
}
