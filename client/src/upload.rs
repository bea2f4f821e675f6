// SPDX-License-Identifier: Apache-2.0
//! Rows of plans that run in the client, uploaded for a query of the cluster.
//!
//! ```text
//! a plan's rows ─▶ chunks ─▶ a job for each, whose rows stay ─▶ CachedExec, one per chunk, in the query's plan
//! ```
//!
//! A chunk is one partition, written by one task into its executor's shuffle store, so that the chunks of a large upload
//! spread over the cluster. The jobs that keep the chunks end, and the rows go, when the query does.
//!
//! *Memory:* the client holds the chunks that are on their way, [`IN_FLIGHT`] at most, and the one that is being filled.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_plan::cached::{CachedExec, CachedRows};
use ballista_plan::codec::PlanCodec;
use ballista_plan::memory::{batch_bytes, scan_of};
use ballista_proto as proto;
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan, ExecutionPlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::cache::ClusterRows;
use crate::cluster::Cluster;
use crate::job::Holds;
use crate::split::stack_for;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 16 << 20;

/// Larger batches are cut, so that a chunk is never much larger than it should be.
const PIECE_BYTES: usize = CHUNK_BYTES / 4;

/// Chunks that are on their way at a time.
const IN_FLIGHT: usize = 2;

/// The name of the leaf that stands for the rows of a query's plan number `index`.
pub(crate) fn upload_name(index: usize) -> String {
    format!("upload {index}")
}

/// What a query of the cluster is given of the client.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    /// What runs here; no order of its rows is kept.
    pub(crate) plans: Vec<Arc<dyn ExecutionPlan>>,
    /// What runs there, with a pending leaf for each of them.
    pub(crate) region: Arc<dyn ExecutionPlan>,
    pub(crate) codec: PlanCodec,
}

impl Uploads {
    /// Runs the plans one after the other. The encoded plan of the query that reads their rows, and what keeps those.
    pub(crate) async fn run(
        &self,
        uploader: &Uploader,
        context: &Arc<TaskContext>,
    ) -> Result<(Bytes, Vec<Arc<dyn CachedRows>>)> {
        let mut rows = vec![];
        for plan in &self.plans {
            rows.push(uploader.run(plan, context).await?);
        }
        let plan = stack_for(&self.region, || self.codec.encode(&self.reading(&rows)?))?;
        Ok((plan, rows.into_iter().flatten().map(|rows| rows as _).collect()))
    }

    /// The region with the rows in the place of the leaves that stand for them.
    fn reading(&self, rows: &[Vec<Arc<ClusterRows>>]) -> Result<Arc<dyn ExecutionPlan>> {
        let read = Arc::clone(&self.region).transform_up(|node| {
            let pending = node.downcast_ref::<CachedExec>().filter(|leaf| leaf.is_pending());
            let Some(index) = pending.and_then(|leaf| (0..rows.len()).find(|index| leaf.job() == upload_name(*index)))
            else {
                return Ok(Transformed::no(node));
            };
            Ok(Transformed::yes(reader(&rows[index], node.schema())?))
        });
        read.data()
    }
}

fn reader(rows: &[Arc<ClusterRows>], schema: SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let mut leaves: Vec<Arc<dyn ExecutionPlan>> = rows.iter().map(|rows| Arc::new(rows.leaf()) as _).collect();
    match leaves.len() {
        0 => Ok(Arc::new(EmptyExec::new(schema))),
        1 => Ok(leaves.swap_remove(0)),
        _ => UnionExec::try_new(leaves),
    }
}

/// Uploads rows for one query.
pub(crate) struct Uploader {
    cluster: Arc<Cluster>,
    request: proto::ExecuteRequest,
    holds: Holds,
    uploaded_rows: Count,
    uploaded_bytes: Count,
}

impl Uploader {
    /// Jobs are submitted as `request` is, which is the query's; `holds` lives for as long as them.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        mut request: proto::ExecuteRequest,
        holds: Holds,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        // One slot is enough for a chunk.
        let setting = ("ballista.planner.single_task_bytes".to_owned(), "0".to_owned());
        request.settings.push(proto::Setting { key: setting.0, value: setting.1 });
        request.plan = Bytes::new();
        request.stores = vec![];
        request.analyze = false;
        request.keep = true;
        Self {
            cluster,
            request,
            holds,
            uploaded_rows: MetricBuilder::new(metrics).global_counter("uploaded_rows"),
            uploaded_bytes: MetricBuilder::new(metrics).global_counter("uploaded_bytes"),
        }
    }

    /// Runs `plan` here. Its rows, in the cluster.
    async fn run(&self, plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Vec<Arc<ClusterRows>>> {
        let schema = plan.schema();
        let context = Arc::clone(context);
        let rows = match plan.output_partitioning().partition_count() {
            0 => Box::pin(EmptyRecordBatchStream::new(Arc::clone(&schema))),
            1 => plan.execute(0, context)?,
            _ => CoalescePartitionsExec::new(Arc::clone(plan)).execute(0, context)?,
        };
        let chunks = chunks(rows).map_ok(|chunk| self.keep(chunk, Arc::clone(&schema)));
        chunks.try_buffered(IN_FLIGHT).try_collect().await
    }

    /// Leaves the rows of a chunk in the cluster.
    async fn keep(&self, chunk: Vec<RecordBatch>, schema: SchemaRef) -> Result<Arc<ClusterRows>> {
        let rows: usize = chunk.iter().map(RecordBatch::num_rows).sum();
        let encoded = tokio::task::spawn_blocking({
            let schema = Arc::clone(&schema);
            move || PlanCodec::default().encode(&scan_of(&schema, chunk)?)
        });
        let plan = encoded.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
        self.uploaded_rows.add(rows);
        self.uploaded_bytes.add(plan.len());
        let request = proto::ExecuteRequest { plan, ..self.request.clone() };
        let kept = ClusterRows::keep(Arc::clone(&self.cluster), request, schema, self.holds.clone()).await?;
        Ok(Arc::new(kept))
    }
}

/// The batches of `rows`, as many together as make a chunk. A batch that is larger is cut.
fn chunks(rows: impl Stream<Item = Result<RecordBatch>>) -> impl Stream<Item = Result<Vec<RecordBatch>>> {
    let pieces = rows.map_ok(|batch| futures::stream::iter(pieces(&batch)).map(Ok::<_, DataFusionError>)).try_flatten();
    futures::stream::try_unfold(Box::pin(pieces), |mut pieces| async move {
        let (mut chunk, mut bytes) = (vec![], 0);
        while bytes < CHUNK_BYTES {
            let Some(piece) = pieces.try_next().await? else { break };
            bytes += batch_bytes(&piece);
            chunk.push(piece);
        }
        Ok((!chunk.is_empty()).then_some((chunk, pieces)))
    })
}

/// `batch` in pieces of equal numbers of rows. Nothing, if it has no rows.
fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    let rows_of_piece = rows.div_ceil(batch_bytes(batch).div_ceil(PIECE_BYTES)).max(1);
    (0..rows).step_by(rows_of_piece).map(|start| batch.slice(start, rows_of_piece.min(rows - start))).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    async fn chunk_rows(batches: Vec<RecordBatch>) -> Vec<usize> {
        let rows = futures::stream::iter(batches.into_iter().map(Ok));
        let rows_of = |chunk: Vec<RecordBatch>| chunk.iter().map(RecordBatch::num_rows).sum::<usize>();
        chunks(rows).map_ok(rows_of).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn chunks_are_filled_and_large_batches_cut() {
        let rows_of_chunk = CHUNK_BYTES / 8;
        assert_eq!(chunk_rows(vec![]).await, Vec::<usize>::new());
        assert_eq!(chunk_rows(vec![batch(0), batch(3), batch(0), batch(4)]).await, [7]);
        let large = chunk_rows(vec![batch(rows_of_chunk * 5 / 2), batch(1)]).await;
        assert_eq!(large.iter().sum::<usize>(), rows_of_chunk * 5 / 2 + 1);
        assert!(large.len() == 3 && large.iter().all(|rows| *rows <= rows_of_chunk * 5 / 4), "{large:?}");
        let many = chunk_rows(vec![batch(rows_of_chunk / 4); 9]).await;
        assert_eq!(many.iter().sum::<usize>(), rows_of_chunk / 4 * 9);
        assert_eq!(many.len(), 3, "{many:?}");
    }

    #[tokio::test]
    async fn an_error_ends_the_chunks() {
        let failure = DataFusionError::Plan("no".to_owned());
        let rows = futures::stream::iter([Ok(batch(1)), Err(failure)]);
        let chunks: Vec<_> = chunks(rows).collect().await;
        assert!(matches!(chunks.as_slice(), [Err(DataFusionError::Plan(_))]), "{chunks:?}");
    }
}
