// SPDX-License-Identifier: Apache-2.0
//! Gathering rows of one column into new, owned arrays: the inner loop of repartitioning.
//!
//! `arrow::compute::take` does the work for most types. It keeps the text buffers of views and the values of
//! dictionaries shared with the source, which is what a bucket must not do, so these are copied:
//! views in the same pass (below), the rest afterwards by [`own_shared`].
//!
//! ```text
//!   source   views  [0|1|2|3|4]      text ░░░░░░░░▓▓▓░░░▓▓░░░
//!   indices         1, 3
//!   result   views  [1'|3']          text ▓▓▓▓▓                 one allocation, nothing unused
//! ```

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, MutableArrayData, UInt32Array, make_array};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};

use crate::compact::{long_length, own_shared, view_buffer, view_offset};
use crate::dictionary::any_type;
use crate::error::{ArrowContext, Result};

/// Text of one gathered view array that is kept in a single buffer; views address at most 2 GiB.
const MAX_TEXT: usize = i32::MAX as usize;

/// The rows `indices` of `column`, sharing no buffer with it. Every index is below `column.len()` and not null.
pub(crate) fn gather(column: &ArrayRef, indices: &UInt32Array) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Utf8View => gather_views(column.as_byte_view::<StringViewType>(), indices),
        DataType::BinaryView => gather_views(column.as_byte_view::<BinaryViewType>(), indices),
        nested if nested.is_nested() && any_type(nested, &needs_copy) => own_shared(&gather_by_copy(column, indices)?),
        _ => own_shared(&take(column.as_ref(), indices, None).context("gather rows")?),
    }
}

/// What `take` does not do as needed here: it derives the length of lists of fixed size from their items, of which
/// size 0 has none; and it keeps all items of list views.
fn needs_copy(data_type: &DataType) -> bool {
    matches!(data_type, DataType::FixedSizeList(_, 0) | DataType::ListView(_) | DataType::LargeListView(_))
}

fn gather_by_copy(column: &ArrayRef, indices: &UInt32Array) -> Result<ArrayRef> {
    let data = column.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, indices.len());
    for &row in indices.values() {
        copy.try_extend(0, row as usize, row as usize + 1).context("gather rows")?;
    }
    let mut copied = make_array(copy.freeze());
    copied.shrink_to_fit();
    Ok(copied)
}

fn gather_views<T: ByteViewType>(source: &GenericByteViewArray<T>, indices: &UInt32Array) -> Result<ArrayRef> {
    let views = source.views();
    let texts = source.data_buffers();
    let nulls = source.nulls().filter(|nulls| nulls.null_count() > 0);
    let gathered_nulls =
        nulls.map(|nulls| indices.values().iter().map(|&row| nulls.is_valid(row as usize)).collect::<NullBuffer>());

    let mut gathered: Vec<u128> = indices.values().iter().map(|&row| views[row as usize]).collect();
    if let Some(nulls) = &gathered_nulls {
        // What a null's view holds is unspecified: make it empty, so that it never counts as text.
        for (view, valid) in gathered.iter_mut().zip(nulls.iter()) {
            if !valid {
                *view = 0;
            }
        }
    }
    let total: usize = if texts.is_empty() { 0 } else { gathered.iter().map(|view| long_length(*view)).sum() };
    if total > MAX_TEXT {
        let taken: ArrayRef = Arc::new(source.clone());
        return own_shared(&take(taken.as_ref(), indices, None).context("gather rows")?);
    }
    if total == 0 {
        return Ok(view_array::<T>(gathered, Vec::new(), gathered_nulls));
    }
    let mut text: Vec<u8> = Vec::with_capacity(total);
    for view in &mut gathered {
        let length = long_length(*view);
        if length == 0 {
            continue;
        }
        let start = view_offset(*view);
        let moved_to = text.len() as u128;
        text.extend_from_slice(&texts[view_buffer(*view)].as_slice()[start..start + length]);
        // Length and prefix stay, buffer becomes 0, offset becomes the new place.
        *view = (*view & u128::from(u64::MAX)) | (moved_to << 96);
    }
    Ok(view_array::<T>(gathered, vec![Buffer::from_vec(text)], gathered_nulls))
}

fn view_array<T: ByteViewType>(views: Vec<u128>, texts: Vec<Buffer>, nulls: Option<NullBuffer>) -> ArrayRef {
    // SAFETY: every view is a copy of a valid view of an array of the same type, or 0, the empty value. A view longer
    // than 12 bytes had its text copied whole to the offset it now names, in buffer 0; so bounds, prefix and, for
    // strings, UTF-8 boundaries hold as they did in the source. `nulls` has one bit per view.
    Arc::new(unsafe { GenericByteViewArray::<T>::new_unchecked(ScalarBuffer::from(views), texts, nulls) })
}
