// SPDX-License-Identifier: Apache-2.0
//! A Flight client that knows nothing of Ballista reads our streams.

use arrow_flight::FlightClient;
use ballista_core::config::Compression;
use ballista_exchange::{OutputOptions, Ticket, TicketKey};
use futures::TryStreamExt;
use tonic::transport::Endpoint;

use crate::data::{numbered_batches, sorted_numbers};
use crate::node::{Node, NodeConfig, task};

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_flight_client_reads_every_row() {
    let key = TicketKey::random();
    let node = Node::tcp("producer", &key, NodeConfig::default()).await;
    let batches = numbered_batches(50_000, 5000);
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address.authority())).unwrap();
    let mut client = FlightClient::new(endpoint.connect().await.unwrap());
    let mut index = 0;
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        for memory_tier in [true, false] {
            index += 1;
            let output = task("j", index);
            node.write(&output, &batches, 3, OutputOptions { compression, memory_tier }).await;
            let ticket = Ticket { buckets: 0..3, result: false, ..Ticket::result(node.address.incarnation, output) };
            let ticket = arrow_flight::Ticket { ticket: key.sign(&ticket.to_proto()) };
            let stream = client.do_get(ticket).await.unwrap();
            let read: Vec<_> = stream.try_collect().await.unwrap();
            assert_eq!(read[0].schema(), batches[0].schema());
            assert_eq!(sorted_numbers(&read), (0..50_000).collect::<Vec<_>>());
        }
    }
}
