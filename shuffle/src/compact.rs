// SPDX-License-Identifier: Apache-2.0
//! Owned, compact batches, and what they really cost.
//!
//! An Arrow array is a window onto reference-counted buffers. A slice of 10 rows keeps the buffers of the million rows
//! it was cut from, a string view keeps every buffer that a neighbour's string lives in, a dictionary keeps all its
//! values. Harmless while a batch passes through an operator; ruinous in a store of thousands of buckets, where the
//! same buffer would be counted, or encoded, once per bucket.
//!
//! ```text
//!   slice      ┌──────────╔══╗──────────────────┐        ┌──┐
//!              └──────────╚══╝──────────────────┘   ──▶  └──┘
//!   views      [v][v] ─▶ "…used…" in 2 MiB of text  ──▶  [v][v] ─▶ "used" "used"
//!   dictionary keys 3,9,3 ─▶ 100,000 values         ──▶  keys 0,1,0 ─▶ 2 values
//! ```
//!
//! [`compact`] copies only columns that keep noticeably more alive than they use: more than a quarter, and more than
//! a few hundred bytes, per allocation. Allocations shared by columns of the *same* batch are fine (a decoded block
//! is one allocation) and are judged by what all columns use of it together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, MutableArrayData, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{ArrowNativeType, DataType};

use crate::dictionary::{any_type, collect_dictionary};
use crate::error::{ArrowContext, Result};

/// Unused bytes of an allocation that are never worth a copy.
const SLACK_BYTES: usize = 512;

/// Mean size of allocations below which a column of many is better off in few.
const SCATTERED_BYTES: usize = 16 * 1024;

/// Bytes that `batch` keeps alive: the sum of its allocations, each counted once.
///
/// Unlike `RecordBatch::get_array_memory_size`, columns that share an allocation do not count it twice.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    let mut usage = Usage::default();
    for column in batch.columns() {
        usage.add(&column.to_data());
    }
    usage.0.values().map(|allocation| allocation.capacity).sum()
}

/// Bytes that the rows of `batch` need, whatever larger buffers they are windows onto. An estimate for list views,
/// unions, run-end encoded and dictionary columns, exact for the rest.
pub fn used_bytes(batch: &RecordBatch) -> usize {
    let mut usage = Usage::default();
    for column in batch.columns() {
        usage.add(&column.to_data());
    }
    usage.0.values().map(|allocation| allocation.used).sum()
}

/// The same rows, owning what they use and not much more. A batch that is compact already is returned as it is.
pub fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    let data: Vec<ArrayData> = batch.columns().iter().map(|column| column.to_data()).collect();
    let mut usage = Usage::default();
    for column in &data {
        usage.add(column);
    }
    if !usage.0.values().any(Allocation::is_wasteful) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(&data);
    let columns = columns
        .map(|(column, data)| if usage.wasted_by(data) { copy_array(column) } else { Ok(Arc::clone(column)) })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).context("compact a batch")
}

/// As [`compact`], for one array on its own. Views spread over many small buffers are gathered into one, too.
pub(crate) fn compact_array(array: &ArrayRef) -> Result<ArrayRef> {
    let mut usage = Usage::default();
    usage.add(&array.to_data());
    let allocations = usage.0.len();
    let capacity: usize = usage.0.values().map(|allocation| allocation.capacity).sum();
    let scattered = allocations > 8 && capacity / allocations < SCATTERED_BYTES;
    if scattered || usage.0.values().any(Allocation::is_wasteful) { copy_array(array) } else { Ok(Arc::clone(array)) }
}

/// A copy of `array` that shares no buffer with it and has offset 0 at every level.
pub(crate) fn copy_array(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Null => return Ok(Arc::clone(array)),
        DataType::Utf8View => return Ok(Arc::new(copy_nulls(array)?.as_string_view().gc())),
        DataType::BinaryView => return Ok(Arc::new(copy_nulls(array)?.as_binary_view().gc())),
        DataType::Dictionary(_, _) => {
            let collected = collect_dictionary(array)?;
            return map_children(&collected, &|child| own_shared(child));
        }
        _ => {}
    }
    let copy = copy_nulls(array)?;
    own_shared(&copy)
}

/// `MutableArrayData` copies everything but the text behind views and the values of dictionaries.
fn copy_nulls(array: &ArrayRef) -> Result<ArrayRef> {
    let data = array.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, array.len());
    copy.try_extend(0, 0, array.len()).context("copy an array")?;
    // Children of lists were grown by doubling.
    let mut copied = make_array(copy.freeze());
    copied.shrink_to_fit();
    Ok(copied)
}

/// Copies what `take` and `MutableArrayData` leave shared, at any depth: text behind views, values of dictionaries.
pub(crate) fn own_shared(array: &ArrayRef) -> Result<ArrayRef> {
    if !shares_after_copy(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    match array.data_type() {
        DataType::Utf8View => Ok(Arc::new(array.as_string_view().gc())),
        DataType::BinaryView => Ok(Arc::new(array.as_binary_view().gc())),
        DataType::Dictionary(_, _) => map_children(&collect_dictionary(array)?, &own_shared),
        _ => map_children(array, &own_shared),
    }
}

/// Whether a gathered or copied array of this type still points into its source.
pub(crate) fn shares_after_copy(data_type: &DataType) -> bool {
    any_type(data_type, &|inner| {
        matches!(inner, DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(_, _))
    })
}

fn map_children(array: &ArrayRef, convert: &dyn Fn(&ArrayRef) -> Result<ArrayRef>) -> Result<ArrayRef> {
    let data = array.to_data();
    let children = data
        .child_data()
        .iter()
        .map(|child| Ok(convert(&make_array(child.clone()))?.to_data()))
        .collect::<Result<Vec<_>>>()?;
    Ok(make_array(data.into_builder().child_data(children).build().context("copy a nested array")?))
}

/// What a batch uses of one allocation.
#[derive(Debug, Default)]
struct Allocation {
    capacity: usize,
    used: usize,
}

impl Allocation {
    fn is_wasteful(&self) -> bool {
        self.capacity > self.used + self.used / 4 + SLACK_BYTES
    }
}

/// Allocations by address.
#[derive(Debug, Default)]
struct Usage(HashMap<usize, Allocation>);

impl Usage {
    fn add(&mut self, data: &ArrayData) {
        self.visit(data, data.offset(), data.len());
    }

    /// Whether one of the allocations behind `data` is mostly unused.
    fn wasted_by(&self, data: &ArrayData) -> bool {
        let wasteful = |buffer: &Buffer| self.0.get(&address(buffer)).is_some_and(Allocation::is_wasteful);
        data.buffers().iter().any(wasteful)
            || data.nulls().is_some_and(|nulls| wasteful(nulls.buffer()))
            || data.child_data().iter().any(|child| self.wasted_by(child))
    }

    fn count(&mut self, buffer: &Buffer, used: usize) {
        let allocation = self.0.entry(address(buffer)).or_default();
        allocation.capacity = buffer.capacity();
        allocation.used += used;
    }

    /// Counts rows `start .. start + len` of `data`, measured from the start of its buffers.
    fn visit(&mut self, data: &ArrayData, start: usize, len: usize) {
        if let Some(nulls) = data.nulls() {
            self.count(nulls.buffer(), len.div_ceil(8));
        }
        let buffers = data.buffers();
        let children = data.child_data();
        match data.data_type() {
            DataType::Null => {}
            DataType::Boolean => self.count(&buffers[0], len.div_ceil(8)),
            DataType::Utf8 | DataType::Binary => {
                let (_, bytes) = self.visit_offsets::<i32>(&buffers[0], start, len);
                self.count(&buffers[1], bytes);
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                let (_, bytes) = self.visit_offsets::<i64>(&buffers[0], start, len);
                self.count(&buffers[1], bytes);
            }
            DataType::Utf8View | DataType::BinaryView => self.visit_views(buffers, start, len),
            DataType::List(_) | DataType::Map(_, _) => {
                let (first, items) = self.visit_offsets::<i32>(&buffers[0], start, len);
                self.visit(&children[0], children[0].offset() + first, items);
            }
            DataType::LargeList(_) => {
                let (first, items) = self.visit_offsets::<i64>(&buffers[0], start, len);
                self.visit(&children[0], children[0].offset() + first, items);
            }
            DataType::ListView(_) => {
                let sizes = &buffers[1].typed_data::<i32>()[start..start + len];
                let items = sizes.iter().map(|size| *size as usize).sum();
                self.visit_list_view(data, len * 4, items);
            }
            DataType::LargeListView(_) => {
                let sizes = &buffers[1].typed_data::<i64>()[start..start + len];
                let items = sizes.iter().map(|size| *size as usize).sum();
                self.visit_list_view(data, len * 8, items);
            }
            DataType::FixedSizeList(_, size) => {
                let size = usize::try_from(*size).unwrap_or_default();
                self.visit(&children[0], children[0].offset() + start * size, len * size);
            }
            DataType::Struct(_) => {
                for child in children {
                    self.visit(child, child.offset() + start, len);
                }
            }
            DataType::Union(_, _) => {
                self.count(&buffers[0], len);
                if let Some(offsets) = buffers.get(1) {
                    self.count(offsets, len * 4);
                }
                for child in children {
                    self.visit(child, child.offset(), len.min(child.len()));
                }
            }
            DataType::Dictionary(keys, _) => {
                self.count(&buffers[0], len * keys.primitive_width().unwrap_or_default());
                self.visit(&children[0], children[0].offset(), len.min(children[0].len()));
            }
            DataType::RunEndEncoded(_, _) => {
                for child in children {
                    self.visit(child, child.offset(), len.min(child.len()));
                }
            }
            DataType::FixedSizeBinary(size) => {
                self.count(&buffers[0], len * usize::try_from(*size).unwrap_or_default())
            }
            fixed => {
                let width = fixed.primitive_width().unwrap_or_default();
                for buffer in buffers {
                    self.count(buffer, len * width);
                }
            }
        }
    }

    fn visit_offsets<O: ArrowNativeType>(&mut self, offsets: &Buffer, start: usize, len: usize) -> (usize, usize) {
        let values = offsets.typed_data::<O>();
        self.count(offsets, (len + 1) * size_of::<O>());
        match (values.get(start), values.get(start + len)) {
            (Some(first), Some(last)) => (first.as_usize(), last.as_usize() - first.as_usize()),
            // An empty array may have an empty offsets buffer.
            _ => (0, 0),
        }
    }

    fn visit_list_view(&mut self, data: &ArrayData, bytes: usize, items: usize) {
        self.count(&data.buffers()[0], bytes);
        self.count(&data.buffers()[1], bytes);
        let child = &data.child_data()[0];
        self.visit(child, child.offset(), items.min(child.len()));
    }

    fn visit_views(&mut self, buffers: &[Buffer], start: usize, len: usize) {
        let views = &buffers[0].typed_data::<u128>()[start..start + len];
        self.count(&buffers[0], size_of_val(views));
        let texts = &buffers[1..];
        if let [text] = texts {
            let used = views.iter().map(|view| long_length(*view)).sum();
            self.count(text, used);
            return;
        }
        let mut used = vec![0; texts.len()];
        for &view in views {
            if let Some(bytes) = used.get_mut(view_buffer(view)) {
                *bytes += long_length(view);
            }
        }
        for (text, bytes) in texts.iter().zip(used) {
            self.count(text, bytes);
        }
    }
}

fn address(buffer: &Buffer) -> usize {
    buffer.data_ptr().as_ptr() as usize
}

/// Length of a view's value if it lives in a data buffer, 0 if it is stored in the view itself.
pub(crate) fn long_length(view: u128) -> usize {
    let length = view as u32 as usize;
    if length > 12 { length } else { 0 }
}

/// Number of the data buffer of a long view.
pub(crate) fn view_buffer(view: u128) -> usize {
    (view >> 64) as u32 as usize
}

/// Offset in its data buffer of a long view.
pub(crate) fn view_offset(view: u128) -> usize {
    (view >> 96) as u32 as usize
}
