// SPDX-License-Identifier: Apache-2.0
//! Rows that the scheduler computes itself, as the events of a job: ordered inline parts, and their number at the end.
//!
//! *Invariant:* a client that does not read costs a few parts of [`PART_BYTES`]; then the plan is not polled any more.

use std::sync::Arc;

use arrow::array::RecordBatch;
use ballista_plan::codec::encode_batches;
use ballista_proto as proto;
use ballista_shuffle::{ShuffleError, compact, used_bytes};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use proto::job_event::Event;
use tokio::sync::mpsc::Sender;

/// Most bytes of rows in a part, unless one row has more.
const PART_BYTES: usize = 1 << 20;

/// Runs `plan` here and sends its rows. Ends early, without an error, when nobody listens any more.
pub(super) async fn send_rows(
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    events: &Sender<Result<Event>>,
) -> Result<()> {
    let mut rows = execute_stream(plan, task)?;
    let mut finished = proto::JobFinished::default();
    while let Some(batch) = rows.next().await {
        let mut pieces = vec![batch?];
        while let Some(piece) = pieces.pop() {
            if piece.num_rows() == 0 {
                continue;
            }
            if piece.num_rows() > 1 && used_bytes(&piece) > PART_BYTES {
                let half = piece.num_rows() / 2;
                pieces.push(piece.slice(half, piece.num_rows() - half));
                pieces.push(piece.slice(0, half));
                continue;
            }
            let order = finished.parts;
            finished.parts += 1;
            finished.rows += piece.num_rows() as u64;
            let part = proto::ResultPart { order, ordered: true, inline: encode(piece)?, ..Default::default() };
            if events.send(Ok(Event::Result(part))).await.is_err() {
                return Ok(());
            }
        }
    }
    // Nobody has to hear it.
    let _ = events.send(Ok(Event::Finished(finished))).await;
    Ok(())
}

fn encode(batch: RecordBatch) -> Result<prost::bytes::Bytes> {
    let batch = compact(batch).map_err(|error: ShuffleError| DataFusionError::External(Box::new(error)))?;
    encode_batches(batch.schema_ref(), std::slice::from_ref(&batch))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::AsArray;
    use arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use arrow::datatypes::Int64Type;
    use ballista_plan::codec::decode_batches;
    use datafusion::datasource::memory::MemorySourceConfig;
    use tokio::sync::mpsc;

    use super::*;

    fn plan(batches: Vec<RecordBatch>) -> Arc<dyn ExecutionPlan> {
        let schema = batches[0].schema();
        MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap()
    }

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let text: ArrayRef =
            Arc::new(StringViewArray::from_iter_values(rows.clone().map(|row| format!("{row:01000}"))));
        let number: ArrayRef = Arc::new(Int64Array::from_iter_values(rows));
        RecordBatch::try_from_iter([("n", number), ("t", text)]).unwrap()
    }

    #[tokio::test]
    async fn parts_are_small_and_hold_all_rows_in_order() {
        let (sender, mut events) = mpsc::channel(1);
        let plan = plan(vec![batch(0..5000), batch(0..0), batch(5000..5001)]);
        let sent = async move { send_rows(plan, Arc::default(), &sender).await };
        let received = async move {
            let (mut parts, mut numbers) = (0, vec![]);
            loop {
                match events.recv().await.unwrap().unwrap() {
                    Event::Result(part) => {
                        assert_eq!((part.order, part.ordered), (parts, true));
                        assert!(part.inline.len() < PART_BYTES + (PART_BYTES >> 1), "{}", part.inline.len());
                        for batch in decode_batches(&part.inline).unwrap() {
                            numbers.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
                        }
                        parts += 1;
                    }
                    Event::Finished(finished) => break (parts, numbers, finished),
                    other => panic!("{other:?}"),
                }
            }
        };
        let (sent, (parts, numbers, finished)) = tokio::join!(sent, received);
        sent.unwrap();
        assert!(parts > 5, "{parts}");
        assert_eq!(numbers, (0..5001).collect::<Vec<_>>());
        assert_eq!((finished.parts, finished.rows), (parts, 5001));
    }

    #[tokio::test]
    async fn who_does_not_read_stops_the_plan_and_who_leaves_ends_it() {
        let (sender, events) = mpsc::channel(1);
        let plan = plan(vec![batch(0..5000)]);
        let sending = tokio::spawn(async move { send_rows(plan, Arc::default(), &sender).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!sending.is_finished());
        drop(events);
        sending.await.unwrap().unwrap();
    }
}
