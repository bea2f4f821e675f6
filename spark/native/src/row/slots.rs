// SPDX-License-Identifier: Apache-2.0
//! The values of one column, wherever they lie: a field of many rows or structs, or the elements of many arrays.

use arrow::array::builder::NullBufferBuilder;

use super::layout::{Slot, UnsafeArray, UnsafeRow, is_set};
use crate::error::Result;

/// The slots of one column, row by row or element by element.
pub(super) trait Slots<'a> {
    /// Number of values, nulls included.
    fn count(&self) -> usize;

    /// Calls `value` for each value in order, `None` for nulls.
    fn each(&self, value: &mut impl FnMut(Option<Slot<'a>>) -> Result<()>) -> Result<()>;

    /// Appends all values, which have `N` bytes.
    fn append_to<T: Default, const N: usize>(
        &self,
        nulls: &mut NullBufferBuilder,
        values: &mut Vec<T>,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<()> {
        values.reserve(self.count());
        self.each(&mut |slot| push(slot, nulls, values, &read))
    }
}

/// Appends one value, which has `N` bytes.
fn push<T: Default, const N: usize>(
    slot: Option<Slot<'_>>,
    nulls: &mut NullBufferBuilder,
    values: &mut Vec<T>,
    read: impl Fn([u8; N]) -> T,
) -> Result<()> {
    nulls.append(slot.is_some());
    values.push(match slot {
        Some(slot) => read(slot.fixed::<N>()?),
        None => T::default(),
    });
    Ok(())
}

/// Field `field` of many rows.
pub(super) struct RowSlots<'r, 'a> {
    pub(super) rows: &'r [UnsafeRow<'a>],
    pub(super) field: usize,
    /// Whether it is null in one of them.
    pub(super) has_nulls: bool,
}

impl<'a> Slots<'a> for RowSlots<'_, 'a> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn each(&self, value: &mut impl FnMut(Option<Slot<'a>>) -> Result<()>) -> Result<()> {
        self.rows.iter().try_for_each(|row| value(row.slot(self.field)))
    }

    fn append_to<T: Default, const N: usize>(
        &self,
        nulls: &mut NullBufferBuilder,
        values: &mut Vec<T>,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<()> {
        let value = |row: &UnsafeRow<'a>| row.slots[self.field].first_chunk::<N>().map(|bytes| read(*bytes));
        if self.has_nulls {
            for row in self.rows {
                let is_null = is_set(u64::from_ne_bytes(row.null_words[self.field / 64]), self.field % 64);
                nulls.append(!is_null);
                values.push(if is_null { T::default() } else { value(row).unwrap_or_default() });
            }
        } else {
            nulls.append_n_non_nulls(self.rows.len());
            // No value has more bytes than a slot.
            values.extend(self.rows.iter().map(|row| value(row).unwrap_or_default()));
        }
        Ok(())
    }
}

/// Field `field` of many structs; the fields of one that is null itself are null.
pub(super) struct StructSlots<'r, 'a> {
    pub(super) rows: &'r [Option<UnsafeRow<'a>>],
    pub(super) field: usize,
}

impl<'a> Slots<'a> for StructSlots<'_, 'a> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn each(&self, value: &mut impl FnMut(Option<Slot<'a>>) -> Result<()>) -> Result<()> {
        self.rows.iter().try_for_each(|row| value(row.and_then(|row| row.slot(self.field))))
    }
}

/// All elements of many arrays, one array after the other.
pub(super) struct ElementSlots<'r, 'a> {
    pub(super) arrays: &'r [UnsafeArray<'a>],
    pub(super) width: usize,
}

impl<'a> Slots<'a> for ElementSlots<'_, 'a> {
    fn count(&self) -> usize {
        self.arrays.iter().map(|array| array.count).sum()
    }

    fn each(&self, value: &mut impl FnMut(Option<Slot<'a>>) -> Result<()>) -> Result<()> {
        for array in self.arrays {
            for index in 0..array.count {
                value(array.slot(index, self.width)?)?;
            }
        }
        Ok(())
    }

    fn append_to<T: Default, const N: usize>(
        &self,
        nulls: &mut NullBufferBuilder,
        values: &mut Vec<T>,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<()> {
        values.reserve(self.count());
        for array in self.arrays {
            match array.dense::<N>() {
                Some(elements) => {
                    nulls.append_n_non_nulls(elements.len());
                    values.extend(elements.iter().map(|element| read(*element)));
                }
                None => {
                    for index in 0..array.count {
                        push(array.slot(index, self.width)?, nulls, values, &read)?;
                    }
                }
            }
        }
        Ok(())
    }
}
