// SPDX-License-Identifier: Apache-2.0
//! The block as it lies in Spark's shuffle files and crosses Spark's network.
//!
//! The shared core ([`BlockEncoder`], [`BlockDecoder`]) makes the content: one Arrow record batch message, body and
//! checksum, without the schema, which both sides have. Here it gets the frame by which the JVM, which knows
//! nothing of Arrow IPC, finds its end, and is compressed as a whole:
//!
//! ```text
//!   offset  0   u64 LE   length: bytes after this field
//!           8   u64 LE   fields: number of columns
//!          16   4 bytes  codec: "NONE" "LZ4_" "ZSTD" "SNAP"
//!          20   u8       version, 1
//!          21   3 bytes  0
//!          24   u32 LE   crc: crc32c of bytes 8..24 and 28..end, as they are stored
//!          28   u32 LE   rows
//!          32   u32 LE   content length: bytes of the content before compression
//!          36   u32 LE   header length
//!          40   payload, compressed:
//!                 body │ header
//! ```
//!
//! Buffers in the body start on multiples of 16 bytes. The body comes first, so that it starts where its buffers may.
//! Offsets (of strings, lists, maps) lie in it as differences to the ones before: lengths, which often repeat, instead of
//! numbers that never do and which no codec here would make smaller.
//!
//! `LZ4_` is one raw LZ4 block, `SNAP` one raw Snappy block, `ZSTD` one Zstandard frame. A payload that compression
//! would not make smaller is `NONE`, whatever the writer is set to: each block says for itself.
//!
//! Why as a whole and not buffer by buffer as Arrow IPC does: with hundreds of partitions a block has few rows, its
//! buffers are tens of bytes, and frames around them would be more than they hold.
//!
//! Invariants: a partition is a run of whole blocks, so partitions of several files can be put behind each other. A
//! batch without rows makes no block. Reading any other bytes than a writer's is an error: length, fields, codec
//! and version are compared with what they must be, and the checksum, which covers every stored byte but the
//! length and itself, is verified before anything is decompressed. The JVM verifies it too, while Spark can still tell
//! which block it was reading, so that a damaged one is fetched or computed again.

mod codec;
mod offsets;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use ballista_core::config::Compression;
use ballista_shuffle::{Block, BlockDecoder, BlockEncoder};
use bytes::Bytes;

pub use codec::Codec;
use codec::Compressor;
use offsets::{OffsetBuffers, differences, sums};

use crate::error::{ArrowContext, Result, SparkError};

/// Bytes that the JVM reads to find the end of a block.
pub const LENGTH_BYTES: usize = 8;

/// Bytes before the payload.
pub const PREFIX_BYTES: usize = 40;

/// Where the checksum is.
const CRC_AT: usize = 24;

/// Where buffers start in a body: on multiples of the largest value's size, and no further apart, because most blocks
/// of a shuffle with many partitions are small.
const ALIGNMENT: usize = 16;

/// Version of the layout above.
pub const VERSION: u8 = 1;

/// The JVM keeps blocks in one array, whose length is an int, and refuses a longer one than this.
const MAX_BLOCK_BYTES: usize = i32::MAX as usize - 64;

/// Writes blocks of batches of one schema.
pub struct BlockWriter {
    encoder: BlockEncoder,
    fields: u64,
    offsets: OffsetBuffers,
    compressor: Compressor,
}

impl BlockWriter {
    /// A writer of blocks of batches of `schema`.
    pub fn try_new(schema: &SchemaRef, codec: Codec) -> Result<Self> {
        Ok(Self {
            encoder: BlockEncoder::try_new_aligned(schema, Compression::None, ALIGNMENT)?,
            fields: schema.fields().len() as u64,
            offsets: OffsetBuffers::of(schema),
            compressor: Compressor::try_new(codec)?,
        })
    }

    /// Appends `batch` to `out` as blocks of about `target_bytes` of content each, and returns their number. A batch
    /// without rows makes none.
    pub fn write(&mut self, batch: &RecordBatch, target_bytes: usize, out: &mut Vec<u8>) -> Result<usize> {
        let mut blocks = Vec::new();
        self.encoder.encode_all(batch, target_bytes, &mut |block| {
            blocks.push(block);
            Ok(())
        })?;
        let count = blocks.len();
        blocks.into_iter().try_for_each(|block| self.frame(block, out))?;
        Ok(count)
    }

    fn frame(&mut self, block: Block, out: &mut Vec<u8>) -> Result<()> {
        // Nobody else has the body: this takes its memory over.
        let mut content = Vec::from(block.body);
        self.offsets.each(&block.header, &mut content, differences)?;
        content.extend_from_slice(&block.header);

        let start = out.len();
        out.resize(start + PREFIX_BYTES, 0);
        let codec = self.compressor.append(&content, out)?;
        let length = out.len() - start - 8;
        let too_large = || SparkError::Invalid(format!("a block of {length} bytes, {MAX_BLOCK_BYTES} is the limit"));
        if length > MAX_BLOCK_BYTES || content.len() > MAX_BLOCK_BYTES {
            out.truncate(start);
            return Err(too_large());
        }
        let rows = u32::try_from(block.rows).map_err(|_| too_large())?;
        let written = &mut out[start..];
        let mut put = |at: usize, bytes: &[u8]| written[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(length as u64).to_le_bytes());
        put(8, &self.fields.to_le_bytes());
        put(16, codec.tag());
        put(20, &[VERSION, 0, 0, 0]);
        put(28, &rows.to_le_bytes());
        // Below MAX_BLOCK_BYTES, both of them.
        put(32, &(content.len() as u32).to_le_bytes());
        put(36, &(block.header.len() as u32).to_le_bytes());
        let crc = stored_crc(&written[LENGTH_BYTES..]);
        written[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }
}

/// Reads blocks of one schema.
pub struct BlockReader {
    decoder: BlockDecoder,
    fields: u64,
    offsets: OffsetBuffers,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl BlockReader {
    /// A reader of the blocks of a [`BlockWriter`] for `schema`.
    pub fn try_new(schema: SchemaRef) -> Result<Self> {
        let (fields, offsets) = (schema.fields().len() as u64, OffsetBuffers::of(&schema));
        Ok(Self { decoder: BlockDecoder::try_new(schema)?, fields, offsets, zstd: None })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        self.decoder.schema()
    }

    /// Decodes the block that `bytes` starts with, and returns it with its length in bytes; none at the end.
    pub fn next_block(&mut self, bytes: &[u8]) -> Result<Option<(RecordBatch, usize)>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let ends = || corrupt(format!("ends after {} bytes, within its frame", bytes.len()));
        let length = u64::from_le_bytes(*bytes.first_chunk().ok_or_else(ends)?);
        let end = usize::try_from(length).ok().filter(|length| *length <= MAX_BLOCK_BYTES).map(|length| length + 8);
        let block = end.and_then(|end| bytes.get(..end)).ok_or_else(|| {
            corrupt(format!("{length} bytes long according to its frame, {} are there", bytes.len() - 8))
        })?;
        Ok(Some((self.decode(&block[LENGTH_BYTES..])?, block.len())))
    }

    /// Decodes a block whose length was taken off. Nothing of the batch points into `stored`.
    pub fn decode(&mut self, stored: &[u8]) -> Result<RecordBatch> {
        let (prefix, payload) = stored
            .split_first_chunk::<{ PREFIX_BYTES - LENGTH_BYTES }>()
            .ok_or_else(|| corrupt(format!("{} bytes after its length", stored.len())))?;
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&prefix[at - LENGTH_BYTES..][..4]);
            u32::from_le_bytes(bytes)
        };
        let (crc, actual) = (number(CRC_AT), stored_crc(stored));
        if crc != actual {
            return Err(corrupt(format!("crc32c is {actual:08x}, expected {crc:08x}")));
        }
        let fields = u64::from(number(8)) | u64::from(number(12)) << 32;
        if fields != self.fields {
            return Err(corrupt(format!("{fields} columns, the schema has {}", self.fields)));
        }
        if number(20) != u32::from(VERSION) {
            return Err(corrupt(format!("version {:x}, this reader knows {VERSION}", number(20))));
        }
        let (rows, content_length, header_length) = (number(28), number(32) as usize, number(36) as usize);
        let body_length = content_length.checked_sub(header_length).filter(|_| content_length <= MAX_BLOCK_BYTES);
        let body_length = body_length
            .ok_or_else(|| corrupt(format!("a header of {header_length} bytes in a content of {content_length}")))?;
        let mut content = self.decompress(number(16).to_le_bytes(), payload, content_length)?;
        let (body, header) = content.as_slice_mut().split_at_mut(body_length);
        self.offsets.each(header, body, sums)?;
        let mut body = Bytes::from_owner(Content(Buffer::from(content)));
        let header = body.split_off(body_length);
        Ok(self.decoder.decode_verified(&header, &body, u64::from(rows))?)
    }

    /// The batch of all blocks in `bytes`, of which there must be one at least: small blocks cost less together.
    pub fn read_joined(&mut self, bytes: &[u8]) -> Result<RecordBatch> {
        let (mut batches, mut rest) = (Vec::new(), bytes);
        while let Some((batch, length)) = self.next_block(rest)? {
            batches.push(batch);
            rest = &rest[length..];
        }
        match batches.pop() {
            None => Err(corrupt("none where one was promised".to_owned())),
            Some(only) if batches.is_empty() => Ok(only),
            Some(last) => {
                batches.push(last);
                concat_batches(self.schema(), &batches).context("join blocks")
            }
        }
    }

    fn decompress(&mut self, tag: [u8; 4], payload: &[u8], content_length: usize) -> Result<MutableBuffer> {
        // Aligned, so that Arrow's arrays can point into it.
        let mut content = MutableBuffer::from_len_zeroed(content_length);
        let plain = content.as_slice_mut();
        let failed = |error: &dyn std::fmt::Display| corrupt(format!("decompression: {error}"));
        let length = match &tag {
            b"NONE" if payload.len() == content_length => {
                plain.copy_from_slice(payload);
                content_length
            }
            b"NONE" => payload.len(),
            b"LZ4_" => lz4_flex::block::decompress_into(payload, plain).map_err(|error| failed(&error))?,
            b"ZSTD" => {
                let decompressor = match &mut self.zstd {
                    Some(decompressor) => decompressor,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| failed(&error))?),
                };
                decompressor.decompress_to_buffer(payload, plain).map_err(|error| failed(&error))?
            }
            b"SNAP" => snap::raw::Decoder::new().decompress(payload, plain).map_err(|error| failed(&error))?,
            other => return Err(corrupt(format!("unknown codec {:?}", other.escape_ascii().to_string()))),
        };
        if length != content_length {
            return Err(corrupt(format!("{length} bytes of content, {content_length} promised")));
        }
        Ok(content)
    }
}

/// An aligned buffer as the owner of [`Bytes`].
struct Content(Buffer);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// The checksum of a block whose length was taken off.
fn stored_crc(stored: &[u8]) -> u32 {
    let at = CRC_AT - LENGTH_BYTES;
    let before = crc32c::crc32c(stored.get(..at).unwrap_or_default());
    crc32c::crc32c_append(before, stored.get(at + 4..).unwrap_or_default())
}

fn corrupt(detail: String) -> SparkError {
    SparkError::CorruptBlock(detail)
}

/// The batches of a run of blocks, for native consumers and tests.
pub fn read_all(schema: &SchemaRef, mut bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    let mut reader = BlockReader::try_new(Arc::clone(schema))?;
    let mut batches = Vec::new();
    while let Some((batch, length)) = reader.next_block(bytes)? {
        batches.push(batch);
        bytes = &bytes[length..];
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatchOptions, StringArray};
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::row::{RowConverter, UnsafeRow};
    use crate::testing::{every_type, every_value, row};

    const CODECS: [Codec; 5] = [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(9), Codec::Snappy];

    fn numbers(rows: i64) -> RecordBatch {
        let texts: StringArray = (0..rows).map(|row| Some(format!("text {}", row % 10))).collect();
        RecordBatch::try_from_iter([
            ("a", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef),
            ("b", Arc::new(texts) as ArrayRef),
        ])
        .unwrap()
    }

    fn written(batch: &RecordBatch, codec: Codec, target: usize) -> Vec<u8> {
        let mut out = Vec::new();
        BlockWriter::try_new(&batch.schema(), codec).unwrap().write(batch, target, &mut out).unwrap();
        out
    }

    #[test]
    fn every_type_comes_back_by_every_codec() {
        let fields = every_type().into_iter().enumerate();
        let fields: Fields = fields.map(|(i, data_type)| Field::new(format!("c{i}"), data_type, true)).collect();
        let mut converter = RowConverter::try_new(&Schema::new(fields)).unwrap();
        let rows: Vec<Vec<u8>> = (0..300).map(|seed| row(&every_value(seed))).collect();
        let width = converter.num_fields();
        let rows: Vec<_> = rows.iter().map(|row| UnsafeRow::try_new(row, width).unwrap()).collect();
        let batch = converter.convert(&rows).unwrap();
        for codec in CODECS {
            for target in [1 << 10, 1 << 20] {
                let bytes = written(&batch, codec, target);
                let back = read_all(converter.carrier(), &bytes).unwrap();
                assert_eq!(back.len() == 1, target == 1 << 20, "{codec:?}");
                assert_eq!(concat_batches(converter.carrier(), &back).unwrap(), batch, "{codec:?}");
            }
        }
    }

    #[test]
    fn the_prefix_is_as_documented() {
        let batch = numbers(1000);
        for codec in CODECS {
            let bytes = written(&batch, codec, 1 << 20);
            assert_eq!(bytes[..8], (bytes.len() as u64 - 8).to_le_bytes());
            assert_eq!(bytes[8..16], 2u64.to_le_bytes());
            assert_eq!(&bytes[16..20], codec.tag());
            assert_eq!(bytes[20..24], [VERSION, 0, 0, 0]);
            assert_eq!(bytes[28..32], 1000u32.to_le_bytes());
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        for codec in CODECS {
            let bytes = written(&batch, codec, 1 << 20);
            let plain = written(&batch, Codec::None, 1 << 20);
            assert!(bytes.len() <= plain.len(), "{codec:?}");
            assert_eq!(read_all(&batch.schema(), &bytes).unwrap(), std::slice::from_ref(&batch));
        }
    }

    #[test]
    fn offsets_that_repeat_their_step_cost_next_to_nothing() {
        let texts: StringArray = (0..8192).map(|_| Some("REG AIR")).collect();
        let batch = RecordBatch::try_from_iter([("a", Arc::new(texts) as ArrayRef)]).unwrap();
        let bytes = written(&batch, Codec::Lz4, 1 << 20);
        assert!(bytes.len() < 1024, "{}", bytes.len());
        assert_eq!(read_all(&batch.schema(), &bytes).unwrap(), [batch]);
    }

    #[test]
    fn blocks_are_joined_in_their_order() {
        let (batch, mut bytes) = (numbers(1000), Vec::new());
        let mut writer = BlockWriter::try_new(&batch.schema(), Codec::Lz4).unwrap();
        for (from, length) in [(0, 10), (10, 1), (11, 989)] {
            writer.write(&batch.slice(from, length), 1 << 20, &mut bytes).unwrap();
        }
        let mut reader = BlockReader::try_new(batch.schema()).unwrap();
        assert_eq!(reader.read_joined(&bytes).unwrap(), batch);
        assert!(reader.read_joined(&bytes[..bytes.len() - 1]).is_err());
        assert!(reader.read_joined(&[]).is_err());
    }

    #[test]
    fn batches_without_rows_and_without_columns() {
        assert!(written(&numbers(0), Codec::Lz4, 1 << 20).is_empty());
        assert!(read_all(&numbers(0).schema(), &[]).unwrap().is_empty());
        let options = RecordBatchOptions::new().with_row_count(Some(77));
        let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let back = read_all(&empty.schema(), &written(&empty, Codec::Lz4, 1 << 20)).unwrap();
        assert_eq!(back.iter().map(RecordBatch::num_rows).sum::<usize>(), 77);
    }

    #[test]
    fn a_block_cut_anywhere_is_an_error() {
        let batch = numbers(50);
        for codec in CODECS {
            let bytes = written(&batch, codec, 1 << 20);
            for length in 1..bytes.len() {
                let error = read_all(&batch.schema(), &bytes[..length]).unwrap_err();
                assert!(matches!(error, SparkError::CorruptBlock(_)), "{codec:?}, {length} bytes: {error}");
            }
        }
    }

    #[test]
    fn a_block_with_any_changed_bit_is_an_error() {
        let batch = numbers(50);
        for codec in CODECS {
            let good = written(&batch, codec, 1 << 20);
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bytes = good.clone();
                    bytes[at] ^= 1 << bit;
                    assert!(read_all(&batch.schema(), &bytes).is_err(), "{codec:?}, byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_reader_of_another_schema_refuses() {
        let bytes = written(&numbers(5), Codec::Lz4, 1 << 20);
        let one = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        assert!(matches!(read_all(&one, &bytes), Err(SparkError::CorruptBlock(_))));
        let two =
            Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]));
        assert!(read_all(&two, &bytes).is_err());
    }

    #[test]
    fn names_of_codecs() {
        assert_eq!(Codec::parse("LZ4", 1).unwrap(), Codec::Lz4);
        assert_eq!(Codec::parse("zstd", 3).unwrap(), Codec::Zstd(3));
        assert!(Codec::parse("zstd", 1000).is_err());
        assert!(Codec::parse("lzf", 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 1..512)) {
            prop_assert!(read_all(&numbers(0).schema(), &bytes).is_err());
        }
    }
}
