// SPDX-License-Identifier: Apache-2.0
//! A stage's rows into the buckets of its exchange.
//!
//! All partitions of the task write into one output, each through its own [`Route`]. Keys are evaluated here; where a
//! row goes depends on its keys alone (hash, range), on its place in its partition (round-robin), or on the number of
//! its partition (passthrough), never on timing, so that a retried task writes the same buckets.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use arrow::row::SortField;
use ballista_core::{ClassifiedError, ErrorClass, fault};
use ballista_exchange::{ExchangeError, OutputOptions, OutputWriter, TaskSink, classify};
use ballista_plan::codec::encode_columns;
use ballista_plan::stage::OutputPartitioning;
use ballista_proto as proto;
use ballista_shuffle::{
    HashPartitioner, Partitioner, RangePartitioner, RoundRobinPartitioner, ShuffleError, SinglePartitioner, compact,
    wire_type,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use futures::TryStreamExt;

use super::TaskEnv;
use super::partitions::{Partitions, Turn};
use super::sample::{self, Sampler};
use super::task::Instance;
use crate::fingerprint::repartition_hashes;

/// Runs the instance into one output of the store.
pub(crate) async fn run(
    env: &TaskEnv,
    instance: Instance,
    partitioning: &OutputPartitioning,
    sample: &[PhysicalSortExpr],
) -> Result<proto::TaskOutput, ClassifiedError> {
    let options = OutputOptions { compression: instance.config.compression, memory_tier: instance.config.memory_tier };
    let schema = instance.schema();
    let writer = env.store.create(instance.key.clone(), Arc::clone(&schema), partitioning.buckets(), options);
    let writer = Arc::new(writer);
    let mut partitions = Partitions::new(&instance.work);
    for (partition, mut stream) in instance.streams()? {
        let mut route = Route::new(partitioning, partition, &schema, &writer).map_err(|error| classify(&error))?;
        let mut sampler = (!sample.is_empty()).then(|| Sampler::new(sample.iter().map(|key| Arc::clone(&key.expr))));
        partitions.spawn(async move {
            let mut turn = Turn::new();
            while let Some(batch) = stream.try_next().await? {
                turn.give_way().await;
                if batch.num_rows() == 0 {
                    continue;
                }
                if let Some(sampler) = &mut sampler {
                    sampler.add(&batch)?;
                }
                route.push(batch).await?;
            }
            route.finish().await?;
            Ok((partition, sampler))
        });
    }
    let mut ended = partitions.join_all().await?;
    // In the order of partitions, so that the sample does not depend on timing.
    ended.sort_by_key(|(partition, _)| *partition);
    let samplers: Vec<Sampler> = ended.into_iter().filter_map(|(_, sampler)| sampler).collect();
    let sample = match sample::merge(samplers).map_err(|error| classify(&error))? {
        columns if columns.is_empty() => Default::default(),
        columns => encode_columns(&columns).map_err(|error| classify(&error))?,
    };
    let writer = Arc::into_inner(writer).ok_or_else(|| {
        ClassifiedError::new(ErrorClass::Deterministic, "an output is still being written after its partitions ended")
    })?;
    let summary = writer.finish().await.map_err(|error| ClassifiedError::from(&error))?;
    fault::at("map-end");
    Ok(proto::TaskOutput {
        bucket_rows: summary.bucket_rows,
        bucket_bytes: summary.bucket_bytes,
        rows: summary.rows,
        bytes: summary.bytes,
        sample,
        ..Default::default()
    })
}

/// The way of one partition's rows into the task's output.
enum Route {
    /// By their keys, or in turn.
    Scatter { sink: TaskSink, keys: Vec<Arc<dyn PhysicalExpr>> },
    /// As they are, into the partition's own bucket.
    Through { writer: Arc<OutputWriter>, bucket: usize },
}

impl Route {
    fn new(
        partitioning: &OutputPartitioning,
        partition: usize,
        schema: &Schema,
        writer: &Arc<OutputWriter>,
    ) -> Result<Self> {
        let (partitioner, keys): (Box<dyn Partitioner>, Vec<Arc<dyn PhysicalExpr>>) = match partitioning {
            OutputPartitioning::Passthrough { buckets } if partition < *buckets => {
                return Ok(Self::Through { writer: Arc::clone(writer), bucket: partition });
            }
            OutputPartitioning::Passthrough { buckets } => {
                let message = format!("partition {partition} of a passthrough exchange with {buckets} buckets");
                return Err(DataFusionError::Internal(message));
            }
            OutputPartitioning::Single => (Box::new(SinglePartitioner), vec![]),
            OutputPartitioning::RoundRobin { buckets } => {
                (Box::new(RoundRobinPartitioner::new(*buckets, partition)), vec![])
            }
            OutputPartitioning::Hash { keys, buckets } => (Box::new(hash_partitioner(*buckets)), keys.clone()),
            OutputPartitioning::Range { keys, bounds, .. } => {
                let fields = keys.iter().map(|key| {
                    let data_type = wire_type(&key.expr.data_type(schema)?);
                    Ok(SortField::new_with_options(data_type, key.options))
                });
                let fields = fields.collect::<Result<Vec<_>>>()?;
                let partitioner = RangePartitioner::try_new(fields, bounds).map_err(shuffle)?;
                (Box::new(partitioner), keys.iter().map(|key| Arc::clone(&key.expr)).collect())
            }
        };
        if partitioner.num_partitions() > partitioning.buckets() {
            let message =
                format!("{} range bounds for {} buckets", partitioner.num_partitions() - 1, partitioning.buckets());
            return Err(DataFusionError::Internal(message));
        }
        Ok(Self::Scatter { sink: TaskSink::new(partitioner, Arc::clone(writer)), keys })
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        fault::at("map-batch");
        match self {
            Self::Scatter { sink, keys } => {
                let keys = evaluate(keys, &batch)?;
                sink.push(batch, &keys).await?;
            }
            Self::Through { writer, bucket } => writer.append(*bucket, compact(batch).map_err(shuffle)?).await?,
        }
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        if let Self::Scatter { sink, .. } = self {
            sink.finish().await?;
        }
        Ok(())
    }
}

/// DataFusion's own rule for `Partitioning::Hash`.
fn hash_partitioner(buckets: usize) -> impl Partitioner + 'static {
    HashPartitioner::new(buckets, |keys: &[ArrayRef], hashes: &mut Vec<u64>| {
        repartition_hashes(keys, hashes).map_err(|error| ShuffleError::Invalid(error.strip_backtrace()))
    })
}

/// The values of `exprs` for each row of `batch`.
pub(super) fn evaluate(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs.iter().map(|expr| expr.evaluate(batch)?.into_array(batch.num_rows())).collect()
}

fn shuffle(source: ShuffleError) -> DataFusionError {
    ExchangeError::Shuffle { context: "cannot partition a batch".to_owned(), source }.into()
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, Int64Array, StringViewArray};
    use arrow::datatypes::Int64Type;
    use datafusion::physical_expr::Partitioning;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::metrics::Time;
    use datafusion::physical_plan::repartition::BatchPartitioner;

    use super::*;

    #[test]
    fn hash_buckets_are_those_of_datafusions_own_repartitioning() {
        let rows = 1000i64;
        let number: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 7 != 0).then_some(i * 31))));
        let text: ArrayRef = Arc::new(StringViewArray::from_iter(
            (0..rows).map(|i| (i % 5 != 0).then(|| format!("a key that is longer than a view {}", i % 91))),
        ));
        let float: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64 / 3.0)));
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("n", number), ("t", text), ("f", float), ("id", id)]).unwrap();
        for (names, buckets) in [(vec!["n"], 2), (vec!["t"], 16), (vec!["n", "t"], 7), (vec!["t", "f", "n"], 200)] {
            let keys: Vec<_> = names.iter().map(|name| col(name, &batch.schema()).unwrap()).collect();
            let mut ids = Vec::new();
            let values = evaluate(&keys, &batch).unwrap();
            hash_partitioner(buckets).partition(&values, batch.num_rows(), &mut ids).unwrap();
            let mut theirs = BatchPartitioner::try_new(Partitioning::Hash(keys, buckets), Time::new(), 0, 1).unwrap();
            let mut seen = 0;
            let check = |partition: usize, part: RecordBatch| {
                for id in part.column(3).as_primitive::<Int64Type>().values() {
                    assert_eq!(ids[*id as usize] as usize, partition, "{names:?}, {buckets} buckets, row {id}");
                }
                seen += part.num_rows();
                Ok(())
            };
            theirs.partition(batch.clone(), check).unwrap();
            assert_eq!(seen, rows as usize);
        }
    }
}
