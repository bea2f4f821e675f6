// SPDX-License-Identifier: Apache-2.0
//! The parts of a result, put together: ordered parts one after the other, others as their rows arrive.
//!
//! A part is what one task gives. Its executor may be lost while it is read; then the task runs again, and gives the same
//! rows in any order. So the rows of a part are **held** until all of them are here, and another attempt can take its
//! place until then. What is too large or takes too long to hold is handed on as it comes, and must come to its end:
//!
//! ```text
//!   held ──all rows are here──▶ whole ──handed on──▶ done (other attempts are ignored)
//!    │ └──▶ broken ──another attempt──▶ held
//!    └──too much, too long──▶ open ──▶ done, or an error
//! ```
//!
//! Part numbers of an ordered result start at 0 and have no gaps, which lets the first parts be read while later ones
//! are unknown yet. Only a result that is cut off by a limit may lack parts, and then their absence is known at the
//! job's end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::ErrorClass;
use ballista_exchange::{ExchangeError, ExecutorAddress, class_of, read_result};
use ballista_plan::codec::decode_batches;
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::time::{Instant, Sleep};

use crate::cluster::Cluster;
use crate::error::of_job;

type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Bytes of all parts that are held.
const HELD_BYTES: usize = 64 << 20;

/// How long the first row of a part is held.
const HELD_TIME: Duration = Duration::from_secs(2);

/// Parts that have been announced and not read to the end.
#[derive(Default)]
pub(crate) struct Parts {
    /// By number if the result is ordered, by arrival otherwise.
    parts: BTreeMap<u32, Part>,
    ordered: bool,
    /// The next number, of an ordered result; the number of the next arrival otherwise.
    next: u32,
    /// Tasks whose rows have been handed on, and by which attempts.
    done: HashMap<u32, (u32, u32)>,
    held_bytes: usize,
    complete: bool,
    /// Wakes when something has been held for too long.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Whose rows a part has: the task of the final stage, and which attempt of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartOf {
    pub(crate) task: u32,
    pub(crate) attempt: (u32, u32),
}

struct Part {
    /// `None`: there is one attempt only.
    of: Option<PartOf>,
    batches: Batches,
    state: State,
    /// Rows that are here.
    here: VecDeque<RecordBatch>,
    bytes: usize,
    since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Inline,
    Held,
    Open,
    Whole,
    Broken,
}

/// What reading the parts gives.
#[derive(Debug)]
pub(crate) enum Next {
    Rows(RecordBatch),
    /// All rows of a part are here.
    Read(PartOf),
    /// A part cannot be read, and nothing of it was handed on: its task has to run again.
    Unread(PartOf, DataFusionError),
}

impl Parts {
    /// Adds a part of number `order`, or one whose place does not matter; `is_inline` if its rows are here. An error if
    /// it replaces a part of which rows were handed on. The part, if it is known and cannot be read.
    pub(crate) fn add(
        &mut self,
        of: Option<PartOf>,
        order: Option<u32>,
        batches: Batches,
        is_inline: bool,
    ) -> Result<Option<PartOf>> {
        let state = if is_inline { State::Inline } else { State::Held };
        let part = Part { of, batches, state, here: VecDeque::new(), bytes: 0, since: None };
        if let Some(of) = of {
            if let Some(attempt) = self.done.get(&of.task) {
                if *attempt != of.attempt {
                    drain(part);
                }
                return Ok(None);
            }
            let same_task = |part: &Part| part.of.is_some_and(|other| other.task == of.task);
            if let Some(former) = self.parts.values_mut().find(|part| same_task(part)) {
                let is_same = former.of == Some(of);
                match former.state {
                    // Said again by a scheduler that does not know what was said before.
                    State::Held | State::Open | State::Inline | State::Whole if is_same => return Ok(None),
                    State::Broken if is_same => return Ok(Some(of)),
                    // All of it is here.
                    State::Inline | State::Whole => {
                        drain(part);
                        return Ok(None);
                    }
                    State::Open => return Err(handed_on()),
                    State::Held | State::Broken => {}
                }
                if former.of.is_some_and(|former| former.attempt < of.attempt) {
                    self.held_bytes -= former.bytes;
                    *former = part;
                }
                return Ok(None);
            }
        }
        let number = match order {
            Some(order) => {
                self.ordered = true;
                order
            }
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        self.parts.insert(number, part);
        Ok(None)
    }

    /// After the scheduler's restart: forgets the parts of all tasks but these. An error if rows of others were handed on.
    pub(crate) fn keep_only(&mut self, tasks: &HashSet<u32>) -> Result<()> {
        let is_gone = |of: Option<PartOf>| of.is_none_or(|of| !tasks.contains(&of.task));
        let was_handed_on = |part: &Part| matches!(part.state, State::Open | State::Whole);
        let some_are_gone = self.parts.values().any(|part| is_gone(part.of) && was_handed_on(part))
            || self.done.keys().any(|task| !tasks.contains(task));
        if some_are_gone {
            return Err(restarted());
        }
        self.parts.retain(|_, part| !is_gone(part.of));
        self.held_bytes = self.parts.values().map(|part| part.bytes).sum();
        self.complete = false;
        Ok(())
    }

    /// Whether there are rows that can be read without waiting for anything.
    pub(crate) fn has_inline(&self) -> bool {
        match self.ordered {
            true => self.parts.get(&self.next).is_some_and(|part| part.state == State::Inline),
            false => self.parts.values().any(|part| part.state == State::Inline),
        }
    }

    /// Whether a part waits for another attempt.
    pub(crate) fn is_broken(&self) -> bool {
        self.parts.values().any(|part| part.state == State::Broken)
    }

    /// All parts have been added.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// What comes next; the end once the parts are complete and read.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Next>>> {
        if self.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready()) {
            self.alarm = None;
        }
        let polled = if self.ordered { self.poll_ordered(cx) } else { self.poll_any(cx) };
        if polled.is_some() {
            return Poll::Ready(polled);
        }
        if self.complete && self.parts.is_empty() {
            return Poll::Ready(None);
        }
        self.set_alarm(cx);
        Poll::Pending
    }

    fn poll_ordered(&mut self, cx: &mut Context<'_>) -> Option<Result<Next>> {
        loop {
            if self.complete {
                self.next = self.parts.keys().next().copied().unwrap_or(self.next);
            }
            if !self.parts.contains_key(&self.next) {
                return None;
            }
            match self.poll_part(self.next, cx) {
                Some(next) => return Some(next),
                None if self.parts.contains_key(&self.next) => return None,
                None => self.next += 1,
            }
        }
    }

    /// Those whose rows are here come first.
    fn poll_any(&mut self, cx: &mut Context<'_>) -> Option<Result<Next>> {
        let (inline, others): (Vec<u32>, Vec<u32>) = self
            .parts
            .keys()
            .partition(|number| self.parts.get(number).is_some_and(|part| part.state == State::Inline));
        inline.into_iter().chain(others).find_map(|number| self.poll_part(number, cx))
    }

    /// Reads a part on, as far as it can be. `None`: nothing to hand on for now, or the part is done and gone.
    fn poll_part(&mut self, number: u32, cx: &mut Context<'_>) -> Option<Result<Next>> {
        loop {
            let part = self.parts.get_mut(&number)?;
            let is_long_held = part.since.is_some_and(|since| since.elapsed() >= HELD_TIME);
            if part.state == State::Held && (self.held_bytes >= HELD_BYTES || is_long_held) {
                part.state = State::Open;
            }
            if matches!(part.state, State::Inline | State::Open | State::Whole)
                && let Some(batch) = part.here.pop_front()
            {
                if part.here.is_empty() {
                    self.held_bytes -= std::mem::take(&mut part.bytes);
                }
                return Some(Ok(Next::Rows(batch)));
            }
            match part.state {
                State::Broken => return None,
                State::Whole => {
                    self.done.extend(part.of.map(|of| (of.task, of.attempt)));
                    self.parts.remove(&number);
                    return None;
                }
                State::Inline | State::Held | State::Open => {}
            }
            match part.batches.as_mut().poll_next(cx) {
                Poll::Pending => return None,
                Poll::Ready(None) => {
                    let is_remote = part.state != State::Inline;
                    part.state = State::Whole;
                    if let Some(of) = part.of.filter(|_| is_remote) {
                        return Some(Ok(Next::Read(of)));
                    }
                }
                Poll::Ready(Some(Ok(batch))) if part.state == State::Held => {
                    let bytes = batch.get_array_memory_size();
                    part.bytes += bytes;
                    self.held_bytes += bytes;
                    part.since.get_or_insert_with(Instant::now);
                    part.here.push_back(batch);
                }
                Poll::Ready(Some(Ok(batch))) => return Some(Ok(Next::Rows(batch))),
                Poll::Ready(Some(Err(error))) => {
                    let Some(of) = part.of.filter(|_| part.state == State::Held && may_pass(&error)) else {
                        return Some(Err(error));
                    };
                    part.state = State::Broken;
                    part.here.clear();
                    part.batches = stream::pending().boxed();
                    self.held_bytes -= std::mem::take(&mut part.bytes);
                    return Some(Ok(Next::Unread(of, error)));
                }
            }
        }
    }

    /// Wakes when the part that is held longest has been held for too long.
    fn set_alarm(&mut self, cx: &mut Context<'_>) {
        let held = self.parts.values().filter(|part| part.state == State::Held);
        if self.alarm.is_none()
            && let Some(since) = held.filter_map(|part| part.since).min()
        {
            let alarm = self.alarm.insert(Box::pin(tokio::time::sleep_until(since + HELD_TIME)));
            if alarm.as_mut().poll(cx).is_ready() {
                self.alarm = None;
                cx.waker().wake_by_ref();
            }
        }
    }
}

/// Reads an attempt that nobody wants to its end: its task waits for whoever reads it.
fn drain(part: Part) {
    let mut batches = part.batches;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { while let Some(Ok(_)) = batches.next().await {} });
    }
}

/// Whether another attempt may do better.
fn may_pass(error: &DataFusionError) -> bool {
    matches!(class_of(error), ErrorClass::Infra | ErrorClass::Transient | ErrorClass::Fetch | ErrorClass::Fenced)
}

fn handed_on() -> DataFusionError {
    let message = "an executor was lost while a large part of the result was being read from it; rows that were handed \
                   on before cannot be taken back, so run the query again";
    of_job(ballista_core::ClassifiedError::new(ErrorClass::Infra, message))
}

fn restarted() -> DataFusionError {
    let message = "the scheduler was restarted, and the executor is gone that rows of the result had come from; rows that \
                   were handed on before cannot be taken back, so run the query again";
    of_job(ballista_core::ClassifiedError::new(ErrorClass::Infra, message))
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

    impl Parts {
        fn put(&mut self, order: Option<u32>, batches: Batches, is_inline: bool) {
            self.add(None, order, batches, is_inline).unwrap();
        }
    }

    fn value(batch: RecordBatch) -> i32 {
        batch.column(0).as_any().downcast_ref::<Int32Array>().unwrap().value(0)
    }

    async fn next(parts: &mut Parts) -> Option<Result<RecordBatch>> {
        loop {
            match std::future::poll_fn(|cx| parts.poll_next(cx)).await? {
                Ok(Next::Rows(batch)) => return Some(Ok(batch)),
                Ok(Next::Read(_)) => {}
                Ok(Next::Unread(of, error)) => panic!("{of:?} cannot be read: {error}"),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn ordered_parts_are_concatenated_whatever_order_they_come_in() {
        let mut parts = Parts::default();
        parts.put(Some(1), stream::iter([batch(3), batch(4)]).boxed(), false);
        assert!(next(&mut parts).now_or_never().is_none());
        parts.put(Some(0), stream::iter([batch(1), batch(2)]).boxed(), false);
        parts.complete();
        for expected in 1..=4 {
            assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), expected);
        }
        assert!(next(&mut parts).await.is_none());
    }

    #[tokio::test]
    async fn parts_that_a_limit_made_superfluous_are_not_waited_for_after_the_end() {
        let mut parts = Parts::default();
        parts.put(Some(3), stream::iter([batch(2)]).boxed(), false);
        parts.put(Some(1), stream::iter([batch(1)]).boxed(), false);
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
        parts.put(None, slow.boxed(), false);
        parts.put(None, stream::iter([batch(1)]).boxed(), false);
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
        parts.put(Some(1), stream::iter([batch(2)]).boxed(), true);
        assert!(!parts.has_inline());
        parts.put(Some(0), stream::iter([batch(1)]).boxed(), true);
        assert!(parts.has_inline());
        for expected in 1..=2 {
            assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), expected);
        }
        assert!(next(&mut parts).now_or_never().is_none() && !parts.has_inline());
        let mut parts = Parts::default();
        parts.put(None, stream::iter([batch(3)]).boxed(), true);
        assert!(parts.has_inline());
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 3);
        assert!(next(&mut parts).now_or_never().is_none() && !parts.has_inline());
    }

    fn attempt(attempt: u32) -> Option<PartOf> {
        Some(PartOf { task: 0, attempt: (0, attempt) })
    }

    fn lost() -> Result<RecordBatch> {
        Err(ExchangeError::Gone("connection reset".into()).into())
    }

    #[tokio::test]
    async fn a_part_that_breaks_before_it_is_whole_is_replaced_by_another_attempt() {
        for order in [None, Some(0)] {
            let mut parts = Parts::default();
            parts.add(attempt(0), order, stream::iter([batch(1), lost()]).boxed(), false).unwrap();
            let broken = std::future::poll_fn(|cx| parts.poll_next(cx)).await;
            assert!(matches!(broken, Some(Ok(Next::Unread(of, _))) if Some(of) == attempt(0)), "{broken:?}");
            assert!(parts.is_broken() && next(&mut parts).now_or_never().is_none());
            parts.add(attempt(1), order, stream::iter([batch(1), batch(2)]).boxed(), false).unwrap();
            // An attempt that is late.
            parts.add(attempt(0), order, stream::iter([batch(3)]).boxed(), false).unwrap();
            parts.complete();
            for expected in 1..=2 {
                assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), expected);
            }
            assert!(next(&mut parts).await.is_none());
            parts.add(attempt(2), order, stream::iter([batch(3)]).boxed(), false).unwrap();
            assert!(next(&mut parts).await.is_none());
            assert_eq!(parts.held_bytes, 0);
        }
    }

    #[tokio::test]
    async fn an_error_of_the_query_is_final() {
        let mut parts = Parts::default();
        let divided = Err(DataFusionError::Execution("division by 0".into()));
        parts.add(attempt(0), None, stream::iter([batch(1), divided]).boxed(), false).unwrap();
        assert!(next(&mut parts).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn rows_are_handed_on_after_a_while_and_then_nothing_can_replace_them() {
        let mut parts = Parts::default();
        let slow = stream::iter([batch(1)]).chain(stream::pending());
        parts.add(attempt(0), None, slow.boxed(), false).unwrap();
        assert!(next(&mut parts).now_or_never().is_none());
        assert_eq!(value(next(&mut parts).await.unwrap().unwrap()), 1);
        assert!(parts.add(attempt(1), None, stream::iter([batch(1)]).boxed(), false).is_err());
    }
}
