// SPDX-License-Identifier: Apache-2.0
//! Serving shuffle outputs.

use std::sync::Arc;

use ballista_proto::EndMeta;
use tokio::task::spawn_blocking;

use super::{Frames, WINDOW_BYTES, send_error};
use crate::error::{ExchangeError, Result};
use crate::frame::{block_frame, end_frame, schema_frame};
use crate::store::{Output, Position, ShuffleStore, StoreCursor, StoredBlock};
use crate::wire::Ticket;

/// Every output of the ticket, or the error that one is missing.
pub(super) fn resolve(store: &ShuffleStore, ticket: &Ticket) -> Result<Vec<Arc<Output>>> {
    let find = |key| store.get(key).ok_or_else(|| ExchangeError::lost(key, "not held by this executor"));
    ticket.outputs.iter().map(find).collect()
}

/// Streams the outputs; an error becomes the stream's status.
pub(super) async fn send(outputs: Vec<Arc<Output>>, ticket: Ticket, frames: Frames) {
    if let Err(error) = try_send(outputs, ticket, &frames).await {
        tracing::warn!(error = %error.full_text(), "cannot serve shuffle outputs");
        send_error(&frames, &error).await;
    }
}

async fn try_send(outputs: Vec<Arc<Output>>, ticket: Ticket, frames: &Frames) -> Result<()> {
    if frames.send(Ok(schema_frame(outputs[0].schema()))).await.is_err() {
        return Ok(());
    }
    let buckets = ticket.buckets.start as usize..ticket.buckets.end as usize;
    let from = Position { output: ticket.from_output as usize, block: ticket.from_block };
    let mut cursor = StoreCursor::new(outputs, buckets, from, ticket.same_host);
    let limit = if ticket.max_bytes == 0 { u64::MAX } else { ticket.max_bytes };
    let (mut sent, mut end) = (0, EndMeta::default());
    loop {
        let window = usize::try_from(limit - sent).map_or(WINDOW_BYTES, |left| left.min(WINDOW_BYTES));
        let (returned, blocks, more) = spawn_blocking(move || read(cursor, window)).await??;
        cursor = returned;
        for StoredBlock { output, bucket, block } in blocks {
            sent += block.bytes() as u64;
            end.rows += block.rows;
            end.blocks += 1;
            if frames.send(Ok(block_frame(output, bucket, block))).await.is_err() {
                // The consumer has gone; that is its right.
                return Ok(());
            }
        }
        if !more || sent >= limit {
            let next = cursor.position();
            end.complete = !more;
            end.next_output = next.output as u32;
            end.next_block = next.block;
            let _ = frames.send(Ok(end_frame(end))).await;
            return Ok(());
        }
    }
}

fn read(mut cursor: StoreCursor, bytes: usize) -> Result<(StoreCursor, Vec<StoredBlock>, bool)> {
    let blocks = cursor.next_blocks(bytes)?;
    let more = cursor.has_next()?;
    Ok((cursor, blocks, more))
}
