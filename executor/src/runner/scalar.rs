// SPDX-License-Identifier: Apache-2.0
//! The output of a scalar subquery: at most one row, in the task's status.

use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::classify;
use ballista_plan::codec::encode_batches;
use ballista_proto as proto;
use ballista_shuffle::{compact, used_bytes};
use datafusion::error::DataFusionError;
use futures::TryStreamExt;

use super::partitions::Partitions;
use super::task::Instance;

/// Runs the instance; more than one row is the query's error.
pub(crate) async fn run(instance: Instance) -> Result<proto::TaskOutput, ClassifiedError> {
    let schema = instance.schema();
    let mut partitions = Partitions::new(&instance.work);
    for (_, mut stream) in instance.streams()? {
        partitions.spawn(async move {
            let mut rows = Vec::new();
            while let Some(batch) = stream.try_next().await? {
                if batch.num_rows() > 0 {
                    rows.push(batch);
                }
                if rows.iter().map(|batch| batch.num_rows()).sum::<usize>() > 1 {
                    break;
                }
            }
            Ok(rows)
        });
    }
    let mut batches = Vec::new();
    let mut rows = 0;
    while let Some(part) = partitions.next().await {
        for batch in part? {
            rows += batch.num_rows();
            batches.push(batch);
        }
        if rows > 1 {
            return Err(ClassifiedError::new(ErrorClass::User, "scalar subquery returned more than one row"));
        }
    }
    let mut bytes = 0;
    for batch in &mut batches {
        let compacted = compact(batch.clone()).map_err(|error| classify(&DataFusionError::External(error.into())))?;
        bytes += used_bytes(&compacted);
        *batch = compacted;
    }
    let inline = encode_batches(&schema, &batches).map_err(|error| classify(&error))?;
    Ok(proto::TaskOutput { rows: rows as u64, bytes: bytes as u64, inline, is_inline: true, ..Default::default() })
}
