// SPDX-License-Identifier: Apache-2.0
//! The parts of a result, put together: ordered parts one after the other, others as their rows arrive.
//!
//! Part numbers of an ordered result start at 0 and have no gaps, which lets the first parts be read while later ones
//! are unknown yet. Only a result that is cut off by a limit may lack parts, and then their absence is known at the
//! job's end.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_exchange::{ExchangeError, ExecutorAddress, read_result};
use ballista_plan::codec::decode_batches;
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use futures::stream::{self, BoxStream, SelectAll, Stream, StreamExt, TryStreamExt};

use crate::cluster::Cluster;
use crate::error::of_job;

type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Parts that have been announced and not read to the end.
#[derive(Default)]
pub(crate) struct Parts {
    unordered: SelectAll<Batches>,
    /// Unordered parts that are here.
    inline: VecDeque<Batches>,
    /// With whether they are here.
    ordered: BTreeMap<u32, (Batches, bool)>,
    next_ordered: u32,
    complete: bool,
}

impl Parts {
    /// Adds a part of number `order`, or one whose place does not matter; `is_inline` if its rows are here.
    pub(crate) fn add(&mut self, order: Option<u32>, batches: Batches, is_inline: bool) {
        match order {
            Some(order) => {
                self.ordered.insert(order, (batches, is_inline));
            }
            None if is_inline => self.inline.push_back(batches),
            None => self.unordered.push(batches),
        }
    }

    /// Whether there are rows that can be read without waiting for anything.
    pub(crate) fn has_inline(&self) -> bool {
        let current = self.ordered.get(&self.next_ordered);
        !self.inline.is_empty() || current.is_some_and(|(_, is_inline)| *is_inline)
    }

    /// All parts have been added.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The next batch; the end once the parts are complete and read.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Poll::Ready(Some(batch)) = Pin::new(&mut self.unordered).poll_next(cx) {
            return Poll::Ready(Some(batch));
        }
        while let Some(part) = self.inline.front_mut() {
            match part.as_mut().poll_next(cx) {
                Poll::Ready(Some(batch)) => return Poll::Ready(Some(batch)),
                Poll::Ready(None) => self.inline.pop_front(),
                Poll::Pending => return Poll::Pending,
            };
        }
        loop {
            if self.complete {
                self.next_ordered = self.ordered.keys().next().copied().unwrap_or(self.next_ordered);
            }
            let Some((current, _)) = self.ordered.get_mut(&self.next_ordered) else { break };
            match current.as_mut().poll_next(cx) {
                Poll::Ready(Some(batch)) => return Poll::Ready(Some(batch)),
                Poll::Ready(None) => {
                    self.ordered.remove(&self.next_ordered);
                    self.next_ordered += 1;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.complete && self.unordered.is_empty() && self.ordered.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

/// The rows of a part, read when polled.
pub(crate) fn open(cluster: Arc<Cluster>, part: proto::ResultPart, schema: SchemaRef) -> Batches {
    let Some(location) = part.location else {
        let batches = stream::once(async move { decode_batches(&part.inline) });
        return batches.map_ok(|batches| stream::iter(batches.into_iter().map(Ok))).try_flatten().boxed();
    };
    let ticket = part.ticket;
    let connect = async move {
        let address = ExecutorAddress::from_proto(&location).map_err(from_exchange)?;
        let connection = cluster.results().get(&address).await.map_err(from_exchange)?;
        let mut broken = Some(connection.clone());
        let batches = read_result(connection.channel, ticket, schema).then(move |batch| {
            // A connection that failed under a result must not serve the next query.
            let broken = if is_transport(&batch) { broken.take() } else { None };
            async move {
                if let Some(connection) = broken {
                    connection.discard().await;
                }
                batch.map_err(from_exchange)
            }
        });
        Ok::<_, DataFusionError>(batches)
    };
    stream::once(connect).try_flatten().boxed()
}

fn is_transport(batch: &Result<RecordBatch, ExchangeError>) -> bool {
    matches!(batch, Err(ExchangeError::Gone(_)))
}

fn from_exchange(error: ExchangeError) -> DataFusionError {
    match error {
        ExchangeError::Remote(failure) => of_job(failure),
        other => DataFusionError::from(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int32Array;
    use futures::FutureExt;
    use tokio::sync::mpsc;

    fn batch(value: i32) -> Result<RecordBatch> {
        let column = Arc::new(Int32Array::from(vec![value]));
        Ok(RecordBatch::try_from_iter([("v", column as _)])?)
    }

    fn value(batch: RecordBatch) -> i32 {
        batch.column(0).as_any().downcast_ref::<Int32Array>().unwrap().value(0)
    }

    async fn next(parts: &mut Parts) -> Option<Result<RecordBatch>> {
        std::future::poll_fn(|cx| parts.poll_next(cx)).await
    }

    #[tokio::test]
    async fn ordered_parts_are_concatenated_whatever_order_they_come_in() {
        let mut parts = Parts::default();
        parts.add(Some(1), stream::iter([batch(3), batch(4)]).boxed(), false);
        assert!(next(&mut parts).now_or_never().is_none());
        parts.add(Some(0), stream::iter([batch(1), batch(2)]).boxed(), false);
        parts.complete();
        for expected in 1..=4 {
            assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), expected);
        }
        assert!(next(&mut parts).await.is_none());
    }

    #[tokio::test]
    async fn parts_that_a_limit_made_superfluous_are_not_waited_for_after_the_end() {
        let mut parts = Parts::default();
        parts.add(Some(3), stream::iter([batch(2)]).boxed(), false);
        parts.add(Some(1), stream::iter([batch(1)]).boxed(), false);
        assert!(next(&mut parts).now_or_never().is_none());
        parts.complete();
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 1);
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 2);
        assert!(next(&mut parts).await.is_none());
    }

    #[tokio::test]
    async fn an_unordered_part_does_not_wait_for_a_slow_one() {
        let mut parts = Parts::default();
        let (sender, receiver) = mpsc::channel(1);
        let slow = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        parts.add(None, slow.boxed(), false);
        parts.add(None, stream::iter([batch(1)]).boxed(), false);
        parts.complete();
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 1);
        assert!(next(&mut parts).now_or_never().is_none());
        sender.send(batch(2)).await.unwrap();
        drop(sender);
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 2);
        assert!(next(&mut parts).await.is_none());
    }

    #[tokio::test]
    async fn only_a_part_whose_turn_it_is_counts_as_here() {
        let mut parts = Parts::default();
        parts.add(Some(1), stream::iter([batch(2)]).boxed(), true);
        assert!(!parts.has_inline());
        parts.add(Some(0), stream::iter([batch(1)]).boxed(), true);
        assert!(parts.has_inline());
        for expected in 1..=2 {
            assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), expected);
        }
        assert!(next(&mut parts).now_or_never().is_none() && !parts.has_inline());
        parts.add(None, stream::iter([batch(3)]).boxed(), true);
        assert!(parts.has_inline());
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 3);
        assert!(next(&mut parts).now_or_never().is_none() && !parts.has_inline());
    }
}
