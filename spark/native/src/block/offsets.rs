// SPDX-License-Identifier: Apache-2.0
//! Offsets of strings, lists and maps, which lie in blocks as differences; see [`super`].

use arrow::datatypes::{DataType, Schema};

use super::corrupt;
use crate::error::Result;

/// Which buffers of a body are offsets.
pub(super) struct OffsetBuffers {
    /// Their numbers among the buffers of a message.
    numbers: Vec<usize>,
}

impl OffsetBuffers {
    pub(super) fn of(schema: &Schema) -> Self {
        fn visit(data_type: &DataType, next: &mut usize, numbers: &mut Vec<usize>) {
            // Validity comes first, but for the type that has none.
            let first = *next;
            match data_type {
                DataType::Null => {}
                DataType::Utf8 | DataType::Binary => {
                    numbers.push(first + 1);
                    *next += 3;
                }
                DataType::List(item) | DataType::Map(item, _) => {
                    numbers.push(first + 1);
                    *next += 2;
                    visit(item.data_type(), next, numbers);
                }
                DataType::Struct(fields) => {
                    *next += 1;
                    fields.iter().for_each(|field| visit(field.data_type(), next, numbers));
                }
                // Carrier schemas have no other nested types.
                _ => *next += 2,
            }
        }
        let (mut next, mut numbers) = (0, Vec::new());
        schema.fields().iter().for_each(|field| visit(field.data_type(), &mut next, &mut numbers));
        Self { numbers }
    }

    /// Changes every such buffer of the message of `header` with this `body`.
    pub(super) fn each(&self, header: &[u8], body: &mut [u8], change: fn(&mut [[u8; 4]])) -> Result<()> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let message = arrow_ipc::root_as_message(header).map_err(|error| corrupt(format!("header: {error}")))?;
        let buffers = message.header_as_record_batch().and_then(|batch| batch.buffers());
        let buffers = buffers.ok_or_else(|| corrupt("a header without buffers".to_owned()))?;
        for number in &self.numbers {
            if *number >= buffers.len() {
                return Err(corrupt(format!("{} buffers, the schema has more", buffers.len())));
            }
            let buffer = buffers.get(*number);
            let (start, length) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
            let range = start.ok().zip(length.ok()).and_then(|(start, length)| Some(start..start.checked_add(length)?));
            let offsets = range.and_then(|range| body.get_mut(range));
            let offsets = offsets.ok_or_else(|| corrupt("a buffer lies outside the body".to_owned()))?;
            change(offsets.as_chunks_mut().0);
        }
        Ok(())
    }
}

/// Offsets become their differences; the first one stays.
pub(super) fn differences(offsets: &mut [[u8; 4]]) {
    let mut before = 0;
    for offset in offsets {
        let value = u32::from_le_bytes(*offset);
        *offset = value.wrapping_sub(before).to_le_bytes();
        before = value;
    }
}

/// The opposite of [`differences`].
pub(super) fn sums(offsets: &mut [[u8; 4]]) {
    let mut sum = 0_u32;
    for offset in offsets {
        sum = sum.wrapping_add(u32::from_le_bytes(*offset));
        *offset = sum.to_le_bytes();
    }
}
