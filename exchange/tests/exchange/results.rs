// SPDX-License-Identifier: Apache-2.0
//! Result streams: complete, or an error; and the task learns when nobody reads any longer.

use std::time::Duration;

use arrow::datatypes::SchemaRef;
use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::{BatchStream, ExchangeError, LocalConnector, Ticket, TicketKey};
use futures::StreamExt;
use tokio::time::timeout;

use crate::data::{numbered, numbered_batches, numbers};
use crate::node::{Node, NodeConfig, collect, job, task};

const SHORT: Duration = Duration::from_secs(10);

async fn node() -> Node {
    Node::local("final", &TicketKey::random(), &LocalConnector::new(), NodeConfig::default()).await
}

fn schema() -> SchemaRef {
    numbered(0, 1).schema()
}

async fn read(node: &Node) -> BatchStream {
    let ticket = Ticket::result(node.address.incarnation, task("j", 0));
    let signed = node.key.sign(&ticket.to_proto());
    node.client.read_result(&node.address, signed, schema()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_in_order_and_the_end_is_explicit() {
    let node = node().await;
    let sender = node.results.register(task("j", 0), schema());
    let producer = tokio::spawn(async move {
        // More than the window holds.
        for batch in numbered_batches(600_000, 10_000) {
            sender.send(batch).await.unwrap();
        }
        sender.finish().unwrap();
    });
    let rows = numbers(&collect(read(&node).await).await.unwrap());
    assert_eq!(rows, (0..600_000).collect::<Vec<_>>());
    producer.await.unwrap();
    assert!(node.results.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_can_be_empty_and_may_wait_for_its_consumer() {
    let node = node().await;
    node.results.register(task("j", 0), schema()).finish().unwrap();
    assert!(collect(read(&node).await).await.unwrap().is_empty());
    let sender = node.results.register(task("j", 0), schema());
    sender.send(numbered(0, 3)).await.unwrap();
    sender.finish().unwrap();
    assert_eq!(numbers(&collect(read(&node).await).await.unwrap()), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_the_task_keeps_its_class() {
    let node = node().await;
    let sender = node.results.register(task("j", 0), schema());
    sender.send(numbered(0, 1000)).await.unwrap();
    sender.fail(ClassifiedError::new(ErrorClass::User, "division by zero"));
    let error = collect(read(&node).await).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::User);
    assert!(error.to_string().contains("division by zero"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_dropped_is_never_a_clean_end() {
    let node = node().await;
    let sender = node.results.register(task("j", 0), schema());
    sender.send(numbered(0, 1000)).await.unwrap();
    drop(sender);
    let error = collect(read(&node).await).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Infra);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_notices_at_once_that_its_consumer_has_gone() {
    let node = node().await;
    let sender = node.results.register(task("j", 0), schema());
    sender.send(numbered(0, 1000)).await.unwrap();
    let mut stream = read(&node).await;
    assert!(stream.next().await.unwrap().is_ok());
    assert!(timeout(Duration::from_millis(50), sender.closed()).await.is_err());
    drop(stream);
    timeout(SHORT, sender.closed()).await.expect("noticed while idle");
    assert!(matches!(sender.send(numbered(0, 1)).await, Err(ExchangeError::Gone(_))));

    // Also while it waits for room in the window.
    let sender = node.results.register(task("j", 0), schema());
    let mut stream = read(&node).await;
    let producer = tokio::spawn(async move {
        loop {
            if let Err(error) = sender.send(numbered(0, 50_000)).await {
                return error;
            }
        }
    });
    assert!(stream.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!producer.is_finished(), "the window is bounded");
    drop(stream);
    assert!(matches!(timeout(SHORT, producer).await.unwrap().unwrap(), ExchangeError::Gone(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_has_one_consumer_and_ends_with_its_job() {
    let node = node().await;
    let sender = node.results.register(task("j", 0), schema());
    sender.send(numbered(0, 1000)).await.unwrap();
    let mut first = read(&node).await;
    assert!(first.next().await.unwrap().is_ok());
    assert!(collect(read(&node).await).await.is_err());
    node.results.free_job(&job("j"));
    drop(first);
    let waiting = node.results.register(task("j", 1), schema());
    node.results.free_job(&job("j"));
    timeout(SHORT, waiting.closed()).await.unwrap();
}
