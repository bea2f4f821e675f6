// SPDX-License-Identifier: Apache-2.0
//! Serving the result of a running final task.

use arrow::array::RecordBatch;
use ballista_core::config::Compression;
use ballista_proto::EndMeta;
use ballista_shuffle::{Block, BlockEncoder, TARGET_BLOCK_BYTES, used_bytes};
use tokio::task::spawn_blocking;

use super::{Frames, WINDOW_BYTES, send_error};
use crate::error::{ExchangeError, Result};
use crate::frame::{block_frame, end_frame, schema_frame};
use crate::results::{ResultItem, ResultReceiver};

/// Less than this is encoded right on the reactor: the way to another thread and back costs more.
const INLINE_BYTES: usize = 16 << 10;

/// Streams the result; the task's error becomes the stream's status.
pub(super) async fn send(mut result: ResultReceiver, same_host: bool, frames: Frames) {
    let compression = if same_host { Compression::None } else { Compression::Lz4 };
    let sending = try_send(&mut result, compression, &frames);
    // The task learns at once that its consumer has gone, also while it has nothing to send.
    let outcome = tokio::select! {
        biased;
        () = frames.closed() => return,
        outcome = sending => outcome,
    };
    if let Err(error) = outcome {
        send_error(&frames, &error).await;
    }
}

async fn try_send(result: &mut ResultReceiver, compression: Compression, frames: &Frames) -> Result<()> {
    let schema = result.schema().clone();
    let mut encoder =
        BlockEncoder::try_new(&schema, compression).map_err(ExchangeError::shuffle("cannot encode a result"))?;
    let mut end = EndMeta { complete: true, ..EndMeta::default() };
    let mut ended = None;
    if frames.send(Ok(schema_frame(&schema))).await.is_err() {
        return Ok(());
    }
    while ended.is_none() {
        let mut batches = Vec::new();
        match result.next().await? {
            ResultItem::End(rows) => ended = Some(Ok(rows)),
            ResultItem::Batch(batch) => batches.push(batch),
        }
        let mut bytes = batches.iter().map(used_bytes).sum::<usize>();
        while ended.is_none()
            && bytes < WINDOW_BYTES
            && let Some(batch) = result.try_next_batch(&mut ended)
        {
            bytes += used_bytes(&batch);
            batches.push(batch);
        }
        let (returned, blocks) = if bytes <= INLINE_BYTES {
            encode(encoder, batches)?
        } else {
            spawn_blocking(move || encode(encoder, batches)).await??
        };
        encoder = returned;
        for block in blocks {
            end.rows += block.rows;
            end.blocks += 1;
            if frames.send(Ok(block_frame(0, 0, block))).await.is_err() {
                return Ok(());
            }
        }
    }
    match ended {
        Some(Err(error)) => Err(error),
        Some(Ok(rows)) if rows != end.rows => {
            Err(ExchangeError::Protocol(format!("result of {rows} rows, {} were streamed", end.rows)))
        }
        _ => {
            let _ = frames.send(Ok(end_frame(end))).await;
            Ok(())
        }
    }
}

fn encode(mut encoder: BlockEncoder, batches: Vec<RecordBatch>) -> Result<(BlockEncoder, Vec<Block>)> {
    let mut blocks = Vec::new();
    for batch in &batches {
        let mut collect = |block| {
            blocks.push(block);
            Ok(())
        };
        encoder
            .encode_all(batch, TARGET_BLOCK_BYTES, &mut collect)
            .map_err(ExchangeError::shuffle("cannot encode a result"))?;
    }
    Ok((encoder, blocks))
}
