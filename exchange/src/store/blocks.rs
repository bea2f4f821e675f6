// SPDX-License-Identifier: Apache-2.0
//! How the batches of a bucket become blocks.
//!
//! Batches of a bucket may be small (many buckets) or large (one bucket). Small neighbours are joined and large ones
//! cut until a block is about [`TARGET_BLOCK_BYTES`].
//!
//! Batches of narrow dictionaries (keys below 32 bits) are not joined: together they may have more values than their
//! keys can address.
//!
//! **Invariant:** the cut depends on the batches alone, neither on the compression nor on who asks, and one piece
//! makes exactly one block. So the n-th block of an output holds the same rows whether it is encoded for a reader
//! while in memory or was written to the file by an eviction: a reader's position stays valid when the output moves
//! between two of its requests.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema};
use ballista_shuffle::{Block, BlockEncoder, TARGET_BLOCK_BYTES, used_bytes};

use crate::error::{ExchangeError, Result};

/// The rows of one block, as positions in the batches of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    first: usize,
    count: usize,
    /// Rows of a batch that is cut; `None` for whole batches.
    rows: Option<(usize, usize)>,
}

/// Cuts the batches of one bucket into the pieces of its blocks.
pub(crate) fn cut(batches: &[RecordBatch]) -> Vec<Piece> {
    let Some(first) = batches.first() else { return Vec::new() };
    let join_up_to = if has_narrow_dictionary(&first.schema()) { 0 } else { TARGET_BLOCK_BYTES };
    let mut pieces = Vec::new();
    let mut joined = Piece { first: 0, count: 0, rows: None };
    let mut joined_bytes = 0;
    for (index, batch) in batches.iter().enumerate() {
        let bytes = used_bytes(batch);
        if joined.count > 0 && joined_bytes + bytes > join_up_to {
            pieces.push(joined);
            joined.count = 0;
        }
        if joined.count == 0 {
            joined.first = index;
            joined_bytes = 0;
        }
        let rows = batch.num_rows();
        let parts = bytes.div_ceil(TARGET_BLOCK_BYTES).min(rows);
        // A quarter above the target is nearer to it than two halves.
        if parts > 1 && bytes > TARGET_BLOCK_BYTES + TARGET_BLOCK_BYTES / 4 {
            for part in 0..parts {
                let (from, to) = (rows * part / parts, rows * (part + 1) / parts);
                pieces.push(Piece { first: index, count: 1, rows: Some((from, to - from)) });
            }
        } else {
            joined.count += 1;
            joined_bytes += bytes;
        }
    }
    if joined.count > 0 {
        pieces.push(joined);
    }
    pieces
}

fn has_narrow_dictionary(schema: &Schema) -> bool {
    fn narrow(data_type: &DataType) -> bool {
        match data_type {
            DataType::Dictionary(key, value) => key.primitive_width().is_some_and(|width| width < 4) || narrow(value),
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => narrow(field.data_type()),
            DataType::Struct(fields) => fields.iter().any(|field| narrow(field.data_type())),
            DataType::Union(fields, _) => fields.iter().any(|(_, field)| narrow(field.data_type())),
            DataType::RunEndEncoded(_, values) => narrow(values.data_type()),
            _ => false,
        }
    }
    schema.fields().iter().any(|field| narrow(field.data_type()))
}

/// Encodes one piece as one block.
pub(crate) fn encode(encoder: &mut BlockEncoder, batches: &[RecordBatch], piece: Piece) -> Result<Block> {
    let context = "cannot encode a shuffle block";
    let batches = &batches[piece.first..piece.first + piece.count];
    let block = match (batches, piece.rows) {
        ([batch], Some((from, count))) => encoder.encode(&batch.slice(from, count)),
        ([batch], None) => encoder.encode(batch),
        _ => {
            let joined = concat_batches(&batches[0].schema(), batches)
                .map_err(|error| ExchangeError::Background(format!("{context}: {error}")))?;
            encoder.encode(&joined)
        }
    };
    block.map_err(ExchangeError::shuffle(context))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    fn rows(batches: &[RecordBatch], piece: &Piece) -> usize {
        piece.rows.map_or_else(
            || batches[piece.first..piece.first + piece.count].iter().map(RecordBatch::num_rows).sum(),
            |(_, count)| count,
        )
    }

    #[test]
    fn small_batches_are_joined_and_large_ones_cut_without_losing_rows() {
        let sizes = [1, 100, 400_000, 10_000, 10_000, 100_000, 100_000, 1_000_000, 5];
        let batches: Vec<_> = sizes.into_iter().map(batch).collect();
        let pieces = cut(&batches);
        let all: usize = pieces.iter().map(|piece| rows(&batches, piece)).sum();
        assert_eq!(all, sizes.iter().sum::<usize>());
        for piece in &pieces {
            assert!(rows(&batches, piece) * 8 <= TARGET_BLOCK_BYTES * 5 / 4, "{piece:?}");
        }
        let small: Vec<_> = (0..1000).map(|_| batch(100)).collect();
        assert_eq!(cut(&small).len(), 1);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn pieces_keep_the_order_of_rows() {
        let batches: Vec<_> = [3, 300_000, 7].into_iter().map(batch).collect();
        let firsts: Vec<_> = cut(&batches).iter().map(|piece| (piece.first, piece.rows.map(|rows| rows.0))).collect();
        let mut sorted = firsts.clone();
        sorted.sort();
        assert_eq!(firsts, sorted);
    }
}
