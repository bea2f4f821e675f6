// SPDX-License-Identifier: Apache-2.0
//! Spark's Murmur3: the hash that decides which partition a row belongs to.
//!
//! Rows that Spark and we shuffle for the two sides of a join must meet, so every bit of this hash is Spark's
//! (`org.apache.spark.sql.catalyst.expressions.Murmur3Hash`, seed 42):
//!
//! ```text
//!   hash(row)      = fold over the columns: the hash so far is the seed of the next column
//!   null           leaves the hash as it is
//!   boolean … int, date, year-month interval          one 4-byte word (boolean: 1 or 0)
//!   long, timestamps, time, day-time interval         two 4-byte words, low one first
//!   float, double  bits, where −0.0 is 0.0 and every NaN is the canonical one (`floatToIntBits`)
//!   decimal        precision ≤ 18: the unscaled value as a long
//!                  precision > 18: the shortest big-endian two's complement of the unscaled value, as bytes
//!   string, binary whole words, then each remaining byte as a word of its own, *sign-extended*
//!   array, struct  fold over elements, fields
//!   map            fold over key, value, key, value, … in the order of the entries
//! ```
//!
//! The tail of strings is where Spark differs from the published Murmur3; both end with the same finaliser.
//!
//! Invariant: the result depends on values only, not on how they are laid out: slices, dictionaries, views and
//! large offsets hash as the plain type does.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray,
    GenericBinaryArray, GenericStringArray, OffsetSizeTrait, PrimitiveArray, StringViewArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowNativeType, DataType, Date32Type, Decimal128Type, DurationMicrosecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalUnit, IntervalYearMonthType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use ballista_shuffle::{HashPartitioner, ShuffleError};

use crate::error::{Result, SparkError};

/// The seed of `HashPartitioning`.
pub const SEED: u32 = 42;

/// Decimals of up to this precision are hashed as longs.
const MAX_LONG_DIGITS: u8 = 18;

/// The hash of one 4-byte value.
pub fn hash_int(value: i32, seed: u32) -> u32 {
    finish(mix_hash(seed, mix_word(value as u32)), 4)
}

/// The hash of one 8-byte value.
pub fn hash_long(value: i64, seed: u32) -> u32 {
    let low = mix_hash(seed, mix_word(value as u32));
    finish(mix_hash(low, mix_word((value >> 32) as u32)), 8)
}

/// The hash of a string or a binary.
pub fn hash_bytes(bytes: &[u8], seed: u32) -> u32 {
    let (words, tail) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for word in words {
        hash = mix_hash(hash, mix_word(u32::from_le_bytes(*word)));
    }
    for byte in tail {
        hash = mix_hash(hash, mix_word(i32::from(*byte as i8) as u32));
    }
    // Java's lengths are ints; an Arrow value beyond that never came from Spark.
    finish(hash, bytes.len() as u32)
}

/// The hash of a decimal's unscaled value, of the type's precision.
pub fn hash_decimal(unscaled: i128, precision: u8, seed: u32) -> u32 {
    if precision <= MAX_LONG_DIGITS {
        return hash_long(unscaled as i64, seed);
    }
    let bytes = unscaled.to_be_bytes();
    hash_bytes(&bytes[shortest_start(unscaled)..], seed)
}

/// Where the shortest two's complement of `value` starts in its 16 big-endian bytes, as `BigInteger.toByteArray` cuts.
fn shortest_start(value: i128) -> usize {
    // One bit for the sign beside those that differ from it.
    let same = if value < 0 { value.leading_ones() } else { value.leading_zeros() };
    let bits = 128 - same + 1;
    16 - (bits.div_ceil(8) as usize)
}

fn mix_word(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

fn mix_hash(hash: u32, word: u32) -> u32 {
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn finish(hash: u32, length: u32) -> u32 {
    let mut hash = hash ^ length;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Folds `columns`, in order, into `hashes`, which holds one seed per row ([`SEED`] to start with).
///
/// Errors if a column has another number of rows, or a type that Spark does not have.
pub fn hash_columns(columns: &[ArrayRef], hashes: &mut [u32]) -> Result<()> {
    for column in columns {
        if column.len() != hashes.len() {
            let (rows, expected) = (column.len(), hashes.len());
            return Err(SparkError::Invalid(format!("a key column has {rows} rows, its batch {expected}")));
        }
        Hasher::try_new(column.as_ref())?.fold(hashes);
    }
    Ok(())
}

/// Spark's partition of a row with this hash: the non-negative remainder of the hash as a signed number.
pub fn partition_of(hash: u32, num_partitions: u32) -> u32 {
    // In range: the remainder is below a u32, and the divisor at least 1.
    i64::from(hash as i32).rem_euclid(i64::from(num_partitions.max(1))) as u32
}

/// The partitioner of Spark's `HashPartitioning`: [`hash_columns`], then [`partition_of`].
///
/// Built on the shared [`HashPartitioner`], whose remainder of an id that is already in range changes nothing.
pub fn spark_hash_partitioner(
    num_partitions: u32,
) -> HashPartitioner<impl FnMut(&[ArrayRef], &mut Vec<u64>) -> ballista_shuffle::Result<()> + Send> {
    let mut scratch: Vec<u32> = Vec::new();
    HashPartitioner::new(num_partitions as usize, move |keys: &[ArrayRef], out: &mut Vec<u64>| {
        scratch.clear();
        scratch.resize(out.len(), SEED);
        hash_columns(keys, &mut scratch).map_err(|error| ShuffleError::Invalid(error.to_string()))?;
        for (id, hash) in out.iter_mut().zip(&scratch) {
            *id = u64::from(partition_of(*hash, num_partitions));
        }
        Ok(())
    })
}

/// One array with its type resolved, so that the loop over its values need not look again.
struct Hasher<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal(&'a [i128], u8),
    Utf8(&'a GenericStringArray<i32>),
    LargeUtf8(&'a GenericStringArray<i64>),
    Utf8View(&'a StringViewArray),
    Binary(&'a GenericBinaryArray<i32>),
    LargeBinary(&'a GenericBinaryArray<i64>),
    BinaryView(&'a BinaryViewArray),
    FixedBinary(&'a FixedSizeBinaryArray),
    Struct(Vec<Hasher<'a>>),
    List(&'a OffsetBuffer<i32>, Box<Hasher<'a>>),
    LargeList(&'a OffsetBuffer<i64>, Box<Hasher<'a>>),
    Map(&'a OffsetBuffer<i32>, Box<Hasher<'a>>, Box<Hasher<'a>>),
    Dictionary(Box<dyn Fn(usize) -> usize + 'a>, Box<Hasher<'a>>),
}

impl<'a> Hasher<'a> {
    fn try_new(array: &'a dyn Array) -> Result<Self> {
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Int8 => Values::Int8(native::<Int8Type>(array)),
            DataType::Int16 => Values::Int16(native::<Int16Type>(array)),
            DataType::Int32 => Values::Int32(native::<Int32Type>(array)),
            DataType::Date32 => Values::Int32(native::<Date32Type>(array)),
            DataType::Interval(IntervalUnit::YearMonth) => Values::Int32(native::<IntervalYearMonthType>(array)),
            DataType::Int64 => Values::Int64(native::<Int64Type>(array)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Int64(native::<TimestampMicrosecondType>(array)),
            DataType::Time64(TimeUnit::Nanosecond) => Values::Int64(native::<Time64NanosecondType>(array)),
            DataType::Duration(TimeUnit::Microsecond) => Values::Int64(native::<DurationMicrosecondType>(array)),
            DataType::Float32 => Values::Float32(native::<Float32Type>(array)),
            DataType::Float64 => Values::Float64(native::<Float64Type>(array)),
            DataType::Decimal128(precision, _) => Values::Decimal(native::<Decimal128Type>(array), *precision),
            DataType::Utf8 => Values::Utf8(array.as_string::<i32>()),
            DataType::LargeUtf8 => Values::LargeUtf8(array.as_string::<i64>()),
            DataType::Utf8View => Values::Utf8View(array.as_string_view()),
            DataType::Binary => Values::Binary(array.as_binary::<i32>()),
            DataType::LargeBinary => Values::LargeBinary(array.as_binary::<i64>()),
            DataType::BinaryView => Values::BinaryView(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Values::FixedBinary(array.as_fixed_size_binary()),
            DataType::Struct(_) => {
                let columns = array.as_struct().columns().iter();
                Values::Struct(columns.map(|column| Self::try_new(column.as_ref())).collect::<Result<_>>()?)
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Values::List(list.offsets(), Box::new(Self::try_new(list.values().as_ref())?))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Values::LargeList(list.offsets(), Box::new(Self::try_new(list.values().as_ref())?))
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let keys = Box::new(Self::try_new(map.keys().as_ref())?);
                Values::Map(map.offsets(), keys, Box::new(Self::try_new(map.values().as_ref())?))
            }
            DataType::Dictionary(keys, _) => return Self::dictionary(array, keys),
            other => return Err(SparkError::Unsupported(format!("hash of type {other}"))),
        };
        Ok(Self { nulls: array.nulls().filter(|nulls| nulls.null_count() > 0), values })
    }

    fn dictionary(array: &'a dyn Array, keys: &DataType) -> Result<Self> {
        fn at<'b, K: ArrowDictionaryKeyType>(array: &'b dyn Array) -> Box<dyn Fn(usize) -> usize + 'b> {
            let keys: &'b ScalarBuffer<K::Native> = array.as_dictionary::<K>().keys().values();
            Box::new(move |index| keys[index].as_usize())
        }
        let key_at = match keys {
            DataType::Int8 => at::<Int8Type>(array),
            DataType::Int16 => at::<Int16Type>(array),
            DataType::Int32 => at::<Int32Type>(array),
            DataType::Int64 => at::<Int64Type>(array),
            DataType::UInt8 => at::<UInt8Type>(array),
            DataType::UInt16 => at::<UInt16Type>(array),
            DataType::UInt32 => at::<UInt32Type>(array),
            DataType::UInt64 => at::<UInt64Type>(array),
            other => return Err(SparkError::Unsupported(format!("dictionary keys of type {other}"))),
        };
        let values = Self::try_new(array.as_any_dictionary().values().as_ref())?;
        // The keys' nulls; those of the values are looked at when a key leads to them.
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        Ok(Self { nulls, values: Values::Dictionary(key_at, Box::new(values)) })
    }

    /// Folds value `i` into `hashes[i]`, for all of them.
    fn fold(&self, hashes: &mut [u32]) {
        match &self.values {
            Values::Null => {}
            Values::Int32(values) => self.fold_with(hashes, |index, seed| hash_int(values[index], seed)),
            Values::Int64(values) => self.fold_with(hashes, |index, seed| hash_long(values[index], seed)),
            Values::Utf8(values) => self.fold_with(hashes, |i, seed| hash_bytes(values.value(i).as_bytes(), seed)),
            Values::Binary(values) => self.fold_with(hashes, |index, seed| hash_bytes(values.value(index), seed)),
            Values::Decimal(values, precision) => {
                self.fold_with(hashes, |index, seed| hash_decimal(values[index], *precision, seed));
            }
            // The rest looks its type up again for each value; rare as keys, or dear anyway.
            _ => self.fold_with(hashes, |index, seed| self.hash_value(index, seed)),
        }
    }

    fn fold_with(&self, hashes: &mut [u32], hash: impl Fn(usize, u32) -> u32) {
        match self.nulls {
            None => {
                for (index, seed) in hashes.iter_mut().enumerate() {
                    *seed = hash(index, *seed);
                }
            }
            Some(nulls) => {
                for index in nulls.valid_indices() {
                    hashes[index] = hash(index, hashes[index]);
                }
            }
        }
    }

    /// The hash of element `index`; of a null, the seed.
    fn hash(&self, index: usize, seed: u32) -> u32 {
        match self.nulls {
            Some(nulls) if nulls.is_null(index) => seed,
            _ => self.hash_value(index, seed),
        }
    }

    fn hash_value(&self, index: usize, seed: u32) -> u32 {
        match &self.values {
            Values::Null => seed,
            Values::Boolean(values) => hash_int(i32::from(values.value(index)), seed),
            Values::Int8(values) => hash_int(i32::from(values[index]), seed),
            Values::Int16(values) => hash_int(i32::from(values[index]), seed),
            Values::Int32(values) => hash_int(values[index], seed),
            Values::Int64(values) => hash_long(values[index], seed),
            Values::Float32(values) => hash_int(float_bits(values[index]), seed),
            Values::Float64(values) => hash_long(double_bits(values[index]), seed),
            Values::Decimal(values, precision) => hash_decimal(values[index], *precision, seed),
            Values::Utf8(values) => hash_bytes(values.value(index).as_bytes(), seed),
            Values::LargeUtf8(values) => hash_bytes(values.value(index).as_bytes(), seed),
            Values::Utf8View(values) => hash_bytes(values.value(index).as_bytes(), seed),
            Values::Binary(values) => hash_bytes(values.value(index), seed),
            Values::LargeBinary(values) => hash_bytes(values.value(index), seed),
            Values::BinaryView(values) => hash_bytes(values.value(index), seed),
            Values::FixedBinary(values) => hash_bytes(values.value(index), seed),
            Values::Struct(fields) => fields.iter().fold(seed, |seed, field| field.hash(index, seed)),
            Values::List(offsets, items) => items.hash_range(range(offsets, index), seed),
            Values::LargeList(offsets, items) => items.hash_range(range(offsets, index), seed),
            Values::Map(offsets, keys, values) => {
                range(offsets, index).fold(seed, |seed, entry| values.hash(entry, keys.hash(entry, seed)))
            }
            Values::Dictionary(key_at, values) => values.hash(key_at(index), seed),
        }
    }

    fn hash_range(&self, elements: std::ops::Range<usize>, seed: u32) -> u32 {
        elements.fold(seed, |seed, element| self.hash(element, seed))
    }
}

fn native<T: ArrowPrimitiveType>(array: &dyn Array) -> &[T::Native] {
    let array: &PrimitiveArray<T> = array.as_primitive::<T>();
    array.values()
}

fn range<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, index: usize) -> std::ops::Range<usize> {
    offsets[index].as_usize()..offsets[index + 1].as_usize()
}

/// `Float.floatToIntBits`, after −0.0 became 0.0.
fn float_bits(value: f32) -> i32 {
    let canonical = if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value };
    if value == 0.0 { 0 } else { canonical.to_bits() as i32 }
}

/// `Double.doubleToLongBits`, after −0.0 became 0.0.
fn double_bits(value: f64) -> i64 {
    let canonical = if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value };
    if value == 0.0 { 0 } else { canonical.to_bits() as i64 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::{Field, Fields};
    use ballista_shuffle::Partitioner;

    use super::*;

    /// Values computed by a second implementation, in Python; `hash_of_a_row_is_sparks` and
    /// `buckets_are_sparks` hold figures of Spark itself.
    fn hashes(array: impl Array + 'static) -> Vec<u32> {
        let array: ArrayRef = Arc::new(array);
        let mut hashes = vec![SEED; array.len()];
        hash_columns(&[array], &mut hashes).unwrap();
        hashes
    }

    #[test]
    fn hash_of_a_row_is_sparks() {
        // SELECT hash('Spark', array(123), 2) = -1321691492, from Spark's SQL reference.
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(123)])]);
        let columns: [ArrayRef; 3] =
            [Arc::new(StringArray::from(vec!["Spark"])), Arc::new(list), Arc::new(Int32Array::from(vec![2]))];
        let mut hashes = [SEED];
        hash_columns(&columns, &mut hashes).unwrap();
        assert_eq!(hashes[0] as i32, -1_321_691_492);
    }

    #[test]
    fn buckets_are_sparks() {
        let keys: [ArrayRef; 1] = [Arc::new(Int64Array::from(vec![1, 0, -1, i64::MAX, i64::MIN]))];
        let mut ids = Vec::new();
        spark_hash_partitioner(200).partition(&keys, 5, &mut ids).unwrap();
        assert_eq!(ids, [69, 5, 193, 171, 115]);
    }

    #[test]
    fn integers_hash_as_words() {
        let expected = [0xdea5_78e3, 0x379f_ae8f, 0xa059_0e3d];
        assert_eq!(hashes(Int8Array::from(vec![1, 0, -1])), expected);
        assert_eq!(hashes(Int16Array::from(vec![1, 0, -1])), expected);
        assert_eq!(hashes(Date32Array::from(vec![1, 0, -1])), expected);
        assert_eq!(hashes(IntervalYearMonthArray::from(vec![1, 0, -1])), expected);
        assert_eq!(hashes(BooleanArray::from(vec![true, false])), expected[..2]);
        let ints = Int32Array::from(vec![1, 0, -1, i32::MAX, i32::MIN]);
        assert_eq!(hashes(ints), [0xdea5_78e3, 0x379f_ae8f, 0xa059_0e3d, 0x07fb_67e7, 0x2b1f_0fc6]);
        let expected = [0x99f0_149d, 0x9c67_b85d, 0xc800_8529, 0xa05b_5d7b, 0xcd1e_64fb];
        let longs = vec![1, 0, -1, i64::MAX, i64::MIN];
        assert_eq!(hashes(Int64Array::from(longs.clone())), expected);
        assert_eq!(hashes(TimestampMicrosecondArray::from(longs.clone()).with_timezone("UTC")), expected);
        assert_eq!(hashes(TimestampMicrosecondArray::from(longs.clone())), expected);
        assert_eq!(hashes(Time64NanosecondArray::from(longs.clone())), expected);
        assert_eq!(hashes(DurationMicrosecondArray::from(longs)), expected);
    }

    #[test]
    fn zeros_and_nans_of_floats_are_one_each() {
        let negative_nan = f32::from_bits(0xffc0_0001);
        let floats = Float32Array::from(vec![1.0, 0.0, -0.0, -1.0, f32::NAN, negative_nan]);
        let expected = [0xe434_cc39, 0x379f_ae8f, 0x379f_ae8f, 0xdc0d_a8eb, 0xeb2e_b18a, 0xeb2e_b18a];
        assert_eq!(hashes(floats), expected);
        let negative_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let doubles = Float64Array::from(vec![1.0, 0.0, -0.0, -1.0, f64::NAN, negative_nan]);
        let expected = [0xe487_6492, 0x9c67_b85d, 0x9c67_b85d, 0x13d8_1357, 0xb3a0_05cf, 0xb3a0_05cf];
        assert_eq!(hashes(doubles), expected);
    }

    #[test]
    fn bytes_of_a_tail_are_signed() {
        let expected =
            [0x087f_cd5c, 0x2e3e_8f7b, 0x0175_fa04, 0x5bfa_07d1, 0x1173_bc2a, 0x3b9d_d453, 0x220e_6d4c, 0x0e33_7dfe];
        let bytes: Vec<u8> = (0x80..0x88).collect();
        for (length, expected) in expected.into_iter().enumerate() {
            assert_eq!(hash_bytes(&bytes[..length], SEED), expected, "{length} bytes");
        }
    }

    #[test]
    fn strings_hash_alike_in_every_layout() {
        let texts = vec!["hello", "bar", "", "😁", "天地"];
        let expected = [3_286_402_344, 2_486_176_763, 142_593_372, 885_025_535, 2_395_000_894];
        assert_eq!(hashes(StringArray::from(texts.clone())), expected);
        assert_eq!(hashes(LargeStringArray::from(texts.clone())), expected);
        assert_eq!(hashes(StringViewArray::from(texts.clone())), expected);
        let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        assert_eq!(hashes(BinaryArray::from(bytes.clone())), expected);
        assert_eq!(hashes(LargeBinaryArray::from(bytes.clone())), expected);
        assert_eq!(hashes(BinaryViewArray::from(bytes)), expected);
        let dictionary: DictionaryArray<Int8Type> = texts.iter().copied().collect();
        assert_eq!(hashes(dictionary), expected);
        let long = StringArray::from(vec!["x", "hello", "bar", "y"]);
        assert_eq!(hashes(long.slice(1, 2)), expected[..2]);
    }

    #[test]
    fn decimals_of_up_to_18_digits_are_longs() {
        let decimals = |precision, values: Vec<i128>| {
            hashes(Decimal128Array::from(values).with_precision_and_scale(precision, 2).unwrap())
        };
        assert_eq!(decimals(18, vec![1, 0, -1]), [0x99f0_149d, 0x9c67_b85d, 0xc800_8529]);
        let wide = vec![
            0,
            1,
            -1,
            127,
            128,
            -128,
            -129,
            10i128.pow(18),
            10i128.pow(37),
            -(10i128.pow(37)),
            10i128.pow(38) - 1,
            -(10i128.pow(38) - 1),
        ];
        let expected = [
            0xd149_7b27,
            0xe8f3_0d16,
            0x535b_391c,
            0x46a3_076d,
            0xdf8d_1626,
            0x2e3e_8f7b,
            0xd204_7865,
            0x3a84_9e51,
            0x0ce5_d0a0,
            0x5718_398d,
            0xcf45_b9bb,
            0x5380_3506,
        ];
        assert_eq!(decimals(38, wide.clone()), expected);
        assert_eq!(decimals(19, wide[..7].to_vec()), expected[..7]);
    }

    #[test]
    fn the_shortest_form_keeps_the_sign_bit() {
        for (value, bytes) in [(0, 1), (127, 1), (128, 2), (-128, 1), (-129, 2), (i128::MAX, 16), (i128::MIN, 16)] {
            assert_eq!(16 - shortest_start(value), bytes, "{value}");
        }
    }

    #[test]
    fn nulls_leave_the_hash_alone() {
        let columns: [ArrayRef; 3] = [
            Arc::new(Int32Array::from(vec![Some(5), None])),
            Arc::new(NullArray::new(2)),
            Arc::new(Int64Array::from(vec![Some(7), None])),
        ];
        let mut hashes = [SEED; 2];
        hash_columns(&columns, &mut hashes).unwrap();
        assert_eq!(hashes, [0x0c06_2d42, SEED]);
    }

    #[test]
    fn nested_values_are_folded_in_order() {
        let list =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None, Some(2)]), None, Some(vec![])]);
        assert_eq!(hashes(list), [0xf2b6_3325, SEED, SEED]);

        let fields = Fields::from(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(1), Some(9)])),
            Arc::new(StringArray::from(vec![Some("ab"), Some("zz")])),
        ];
        let nulls = NullBuffer::from(vec![true, false]);
        assert_eq!(hashes(StructArray::new(fields, columns, Some(nulls))), [0x8731_7810, SEED]);

        let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        map.keys().append_value(1);
        map.values().append_value("a");
        map.keys().append_value(2);
        map.values().append_null();
        map.append(true).unwrap();
        assert_eq!(hashes(map.finish()), [0xead2_79f0]);
    }

    #[test]
    fn a_list_of_structs_is_hashed_element_by_element() {
        let fields =
            Fields::from(vec![Field::new("a", DataType::Int32, false), Field::new("b", DataType::Int32, false)]);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![1, 3])), Arc::new(Int32Array::from(vec![2, 4]))];
        let items: ArrayRef = Arc::new(StructArray::new(fields, columns, None));
        let field = Arc::new(Field::new("item", items.data_type().clone(), false));
        let list = ListArray::new(field, OffsetBuffer::new(vec![0, 2].into()), items, None);
        assert_eq!(hashes(list), [0xf79d_731b]);
    }

    #[test]
    fn types_that_spark_lacks_are_refused() {
        let mut hashes = [SEED];
        let unsigned: ArrayRef = Arc::new(UInt32Array::from(vec![1]));
        assert!(matches!(hash_columns(&[unsigned], &mut hashes), Err(SparkError::Unsupported(_))));
        let short: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        assert!(matches!(hash_columns(&[short], &mut hashes), Err(SparkError::Invalid(_))));
    }

    #[test]
    fn remainders_are_never_negative() {
        assert_eq!(partition_of(-1i32 as u32, 200), 199);
        assert_eq!(partition_of(i32::MIN as u32, 1), 0);
        assert_eq!(partition_of(7, 0), 0);
    }
}
