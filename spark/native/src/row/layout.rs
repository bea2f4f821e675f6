// SPDX-License-Identifier: Apache-2.0
//! Spark's unsafe rows and arrays as they lie in memory; see [`super`] for the layout.

use crate::error::{Result, SparkError};

/// Bytes of a word: of slots, of null bits, of counts.
pub(super) const WORD: usize = 8;

/// One row, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct UnsafeRow<'a> {
    pub(super) bytes: &'a [u8],
    /// Words of null bits.
    pub(super) null_words: &'a [[u8; WORD]],
    pub(super) slots: &'a [[u8; WORD]],
}

impl<'a> UnsafeRow<'a> {
    /// A row of `fields` fields in `bytes`. Errors if null bits and slots do not fit.
    pub fn try_new(bytes: &'a [u8], fields: usize) -> Result<Self> {
        let (words, _) = bytes.as_chunks::<WORD>();
        let split = words.split_at_checked(fields.div_ceil(64));
        let split = split.and_then(|(null_words, slots)| Some((null_words, slots.get(..fields)?)));
        let (null_words, slots) = split.ok_or_else(|| {
            let needed = fields.div_ceil(64).saturating_add(fields).saturating_mul(WORD);
            malformed(format!("a row of {fields} fields has {} bytes, {needed} are needed", bytes.len()))
        })?;
        Ok(Self { bytes, null_words, slots })
    }

    /// A row of `fields` fields in the `length` bytes at `address`. Errors as [`Self::try_new`], and for address 0.
    ///
    /// # Safety
    ///
    /// Unless `length` is 0, the `length` bytes at `address` must be readable, and nobody may write to or free them
    /// during `'a`.
    pub unsafe fn from_address(address: u64, length: u32, fields: usize) -> Result<Self> {
        if length == 0 {
            return Self::try_new(&[], fields);
        }
        let start = usize::try_from(address).ok().filter(|start| *start != 0);
        let start = start.ok_or_else(|| malformed(format!("a row of {length} bytes at address {address:#x}")))?;
        // SAFETY: the caller's promise. The provenance is that of memory that was allocated outside of Rust.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), length as usize) };
        Self::try_new(bytes, fields)
    }

    /// The slot of field `index`, of which there are that many; none if it is null.
    pub(super) fn slot(&self, index: usize) -> Option<Slot<'a>> {
        let is_null = is_set(u64::from_ne_bytes(self.null_words[index / 64]), index % 64);
        (!is_null).then(|| Slot { container: self.bytes, at: (self.null_words.len() + index) * WORD })
    }
}

/// One array, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnsafeArray<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
}

impl<'a> UnsafeArray<'a> {
    /// An array in `bytes` with elements of `width` bytes. Errors if they do not fit.
    pub(super) fn try_new(bytes: &'a [u8], width: usize) -> Result<Self> {
        let count = read_word(bytes, 0)?;
        // Rejects negative counts too: they are huge when read unsigned.
        let needed = usize::try_from(count).ok().and_then(|count| {
            let elements = count.checked_mul(width)?;
            Self::header(count).checked_add(elements)
        });
        match needed {
            // No Java array is longer, and no offset of Arrow's counts further.
            Some(needed) if needed <= bytes.len() && count <= i32::MAX as u64 => {
                Ok(Self { bytes, count: count as usize })
            }
            _ => {
                let length = bytes.len();
                Err(malformed(format!("an array of {count} elements of {width} bytes has {length} bytes")))
            }
        }
    }

    /// Bytes before the first element of an array of `count` elements.
    pub(super) fn header(count: usize) -> usize {
        count.div_ceil(64).saturating_mul(WORD).saturating_add(WORD)
    }

    pub(super) fn slot(&self, index: usize, width: usize) -> Result<Option<Slot<'a>>> {
        if is_set(read_word(self.bytes, WORD + index / 64 * WORD)?, index % 64) {
            return Ok(None);
        }
        Ok(Some(Slot { container: self.bytes, at: Self::header(self.count) + index * width }))
    }

    /// The elements, of `N` bytes each; none if one of them is null.
    pub(super) fn dense<const N: usize>(&self) -> Option<&'a [[u8; N]]> {
        let header = Self::header(self.count);
        let nulls = self.bytes.get(WORD..header)?;
        let elements = self.bytes.get(header..)?.as_chunks::<N>().0.get(..self.count)?;
        nulls.iter().all(|byte| *byte == 0).then_some(elements)
    }
}

/// Where a value that is not null is: at byte `at` of a row or array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    container: &'a [u8],
    at: usize,
}

impl<'a> Slot<'a> {
    pub(super) fn fixed<const N: usize>(&self) -> Result<[u8; N]> {
        let from = self.container.get(self.at..);
        from.and_then(|bytes| bytes.first_chunk::<N>()).copied().ok_or_else(|| malformed("a slot ends too early"))
    }

    /// The bytes that offset and length in the slot lead to.
    pub(super) fn variable(&self) -> Result<&'a [u8]> {
        let packed = u64::from_ne_bytes(self.fixed()?);
        let (offset, length) = ((packed >> 32) as usize, packed as u32 as usize);
        let bytes = offset.checked_add(length).and_then(|end| self.container.get(offset..end));
        bytes.ok_or_else(|| {
            let size = self.container.len();
            malformed(format!("a value of {length} bytes at offset {offset} of a row or array of {size} bytes"))
        })
    }
}

/// Whether bit `index` of a word of null bits is set. Words are in the machine's order, their bits from the lowest up.
pub(super) fn is_set(word: u64, index: usize) -> bool {
    (word >> index) & 1 == 1
}

pub(super) fn read_word(bytes: &[u8], at: usize) -> Result<u64> {
    let word = bytes.get(at..).and_then(|bytes| bytes.first_chunk::<WORD>());
    word.map(|word| u64::from_ne_bytes(*word)).ok_or_else(|| malformed("a row or array ends too early"))
}

/// The unscaled value of a wide decimal: 1 to 16 bytes, big-endian, two's complement.
pub(super) fn wide_decimal(bytes: &[u8]) -> Result<i128> {
    let Some(first) = bytes.first().filter(|_| bytes.len() <= 16) else {
        return Err(malformed(format!("a decimal of {} bytes", bytes.len())));
    };
    let sign = if *first & 0x80 == 0 { 0 } else { 0xff };
    let mut padded = [sign; 16];
    padded[16 - bytes.len()..].copy_from_slice(bytes);
    Ok(i128::from_be_bytes(padded))
}

pub(super) fn malformed(detail: impl Into<String>) -> SparkError {
    SparkError::MalformedRow(detail.into())
}

/// A map's keys and values, each an array.
pub(super) fn split_map(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let key_bytes = usize::try_from(read_word(bytes, 0)?).ok();
    let arrays = bytes.get(WORD..).unwrap_or_default();
    let split = key_bytes.and_then(|key_bytes| arrays.split_at_checked(key_bytes));
    split.ok_or_else(|| malformed(format!("the keys of a map of {} bytes do not fit", bytes.len())))
}
