// SPDX-License-Identifier: Apache-2.0
//! The block: the unit that is compressed, checksummed, stored, sent and decoded.
//!
//! A block is one Arrow IPC record batch message in two parts, just as Arrow Flight carries it in
//! `FlightData { data_header, data_body }` and the IPC file stores it behind an 8-byte prefix:
//!
//! ```text
//!   header   flatbuffer Message { version V5, RecordBatch { rows, nodes, buffers, compression } }
//!   body     ┌ validity ┬ pad ┬ offsets ┬ pad ┬ values ┬ pad ┬ …     every buffer starts on a multiple of 64,
//!            └──────────┴─────┴─────────┴─────┴────────┴─────┴       each compressed on its own (LZ4, ZSTD) or not
//!   crc      crc32c(header ++ body)
//! ```
//!
//! A block needs nothing but the schema to be decoded: dictionaries are hydrated (see [`wire_schema`]). Blocks whose
//! buffers are tiny stay uncompressed whatever the encoder is set to; each message says for itself.
//!
//! Invariants: [`BlockDecoder::decode`] compares the checksum before it looks at any other byte. Behind that gate data
//! is trusted to be what [`BlockEncoder`] wrote, and Arrow's own validation is skipped. The first block of each
//! decoder is still validated in full, which catches a decoder paired with the blocks of another schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef, UnionMode};
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_ipc::{CompressionType, MessageHeader, MetadataVersion};
use ballista_core::config::Compression;
use ballista_core::fault;
use bytes::Bytes;

use crate::compact::{compact_array, copy_array, used_bytes};
use crate::dictionary::{any_type, contains_dictionary, dehydrate, hydrate_batch, wire_schema};
use crate::error::{ArrowContext, Result, ShuffleError};

/// Every buffer of a body starts on a multiple of this many bytes, and a body is a multiple of it long.
pub const BODY_ALIGNMENT: usize = 64;

/// Size of blocks in bytes before compression that serves well: large enough that per-block costs vanish, small
/// enough to be the unit of flow control and of loss.
pub const TARGET_BLOCK_BYTES: usize = 1 << 20;

/// Below this many bytes per column compression costs more than it saves: an LZ4 frame alone sets up tables of
/// several KiB for each buffer.
const MIN_COMPRESSED_COLUMN_BYTES: usize = 1024;

/// Rows hydrated at a time, before their size as plain values is known.
const HYDRATE_ROWS: usize = 8192;

/// An encoded batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The IPC `Message` flatbuffer, without length prefix and padding.
    pub header: Bytes,
    /// The message's body, a multiple of the encoder's alignment in bytes: [`BODY_ALIGNMENT`] unless it was set.
    pub body: Bytes,
    /// Rows in the batch.
    pub rows: u64,
    /// crc32c of the header followed by the body.
    pub crc: u32,
}

impl Block {
    /// Bytes of header and body.
    pub fn bytes(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

/// The checksum of a block.
pub fn block_crc(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// Turns batches of one schema into blocks.
#[derive(Debug)]
pub struct BlockEncoder {
    schema: SchemaRef,
    wire: SchemaRef,
    has_dictionaries: bool,
    columns: Vec<WireForm>,
    /// Without compression: none.
    compressed: Option<IpcWriteOptions>,
    plain: IpcWriteOptions,
    context: IpcWriteContext,
    dictionaries: DictionaryTracker,
}

/// What a column needs before Arrow's IPC writer does the right thing with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WireForm {
    /// Nothing; slices are cut by the writer.
    AsIs,
    /// The writer writes data that no row of a slice uses: compact first.
    Compact,
    /// The writer ignores the offset of unions within lists, and makes a run of no rows of an empty slice of a run-end
    /// encoded array: copy first.
    Copy,
}

impl WireForm {
    fn of(data_type: &DataType) -> Self {
        if any_type(data_type, &|inner| matches!(inner, DataType::Union(_, _) | DataType::RunEndEncoded(_, _))) {
            return Self::Copy;
        }
        let wasteful = any_type(data_type, &|inner| {
            matches!(
                inner,
                DataType::Utf8View | DataType::BinaryView | DataType::ListView(_) | DataType::LargeListView(_)
            )
        });
        if wasteful { Self::Compact } else { Self::AsIs }
    }
}

impl BlockEncoder {
    /// An encoder for batches of `schema`.
    pub fn try_new(schema: &Schema, compression: Compression) -> Result<Self> {
        Self::try_new_aligned(schema, compression, BODY_ALIGNMENT)
    }

    /// As [`Self::try_new`], with buffers that start on multiples of `alignment` (8, 16, 32 or 64) bytes: a smaller one
    /// saves padding in small blocks. Below 16 the decoder copies wide decimals.
    pub fn try_new_aligned(schema: &Schema, compression: Compression, alignment: usize) -> Result<Self> {
        let wire = wire_schema(schema);
        let plain = IpcWriteOptions::try_new(alignment, false, MetadataVersion::V5).context("set up encoding")?;
        let codec = match compression {
            Compression::None => None,
            Compression::Lz4 => Some((CompressionType::LZ4_FRAME, None)),
            Compression::Zstd => Some((CompressionType::ZSTD, Some(1))),
        };
        let with_codec = |(codec, level): (CompressionType, Option<i32>)| {
            let options = plain.clone().try_with_compression(Some(codec))?;
            if level.is_some() { options.try_with_compression_level(level) } else { Ok(options) }
        };
        let compressed = codec.map(with_codec).transpose().context("set up encoding")?;
        let mut context = IpcWriteContext::default();
        context.set_reserve_scratch(true);
        Ok(Self {
            has_dictionaries: schema.fields().iter().any(|field| contains_dictionary(field.data_type())),
            columns: wire.fields().iter().map(|field| WireForm::of(field.data_type())).collect(),
            schema: Arc::new(schema.clone()),
            wire,
            compressed,
            plain,
            context,
            dictionaries: DictionaryTracker::new(false),
        })
    }

    /// The schema of the batches this encoder takes.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The schema of the blocks: [`wire_schema`] of [`Self::schema`].
    pub fn wire_schema(&self) -> &SchemaRef {
        &self.wire
    }

    /// Encodes `batch`, whatever its size, as one block.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Block> {
        let wire = self.to_wire(batch)?;
        self.encode_wire(&wire)
    }

    /// Encodes `batch` as blocks of about `target_bytes` each before compression, in order. A batch without rows
    /// makes no block.
    pub fn encode_all(
        &mut self,
        batch: &RecordBatch,
        target_bytes: usize,
        out: &mut dyn FnMut(Block) -> Result<()>,
    ) -> Result<()> {
        let step = if self.has_dictionaries { HYDRATE_ROWS } else { batch.num_rows().max(1) };
        for start in (0..batch.num_rows()).step_by(step) {
            let slice = batch.slice(start, step.min(batch.num_rows() - start));
            let wire = self.to_wire(&slice)?;
            self.encode_wire_all(&wire, target_bytes, out)?;
        }
        Ok(())
    }

    /// Hydrates a batch of [`Self::schema`] to [`Self::wire_schema`].
    pub(crate) fn to_wire(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let fields = self.schema.fields();
        let agrees = batch.num_columns() == fields.len()
            && batch.columns().iter().zip(fields).all(|(column, field)| column.data_type() == field.data_type());
        if !agrees {
            let (got, expected) = (batch.schema(), &self.schema);
            return Err(ShuffleError::Invalid(format!("encoder for {expected} got a batch of {got}")));
        }
        if self.has_dictionaries { hydrate_batch(batch, &self.wire) } else { Ok(batch.clone()) }
    }

    /// As [`Self::encode_all`], for a batch of the wire schema.
    pub(crate) fn encode_wire_all(
        &mut self,
        batch: &RecordBatch,
        target_bytes: usize,
        out: &mut dyn FnMut(Block) -> Result<()>,
    ) -> Result<()> {
        let rows = batch.num_rows();
        let bytes = used_bytes(batch);
        // A quarter above the target is nearer to it than two halves.
        if rows <= 1 || bytes <= target_bytes.saturating_add(target_bytes / 4) {
            return if rows == 0 { Ok(()) } else { out(self.encode_wire(batch)?) };
        }
        let pieces = bytes.div_ceil(target_bytes.max(1)).clamp(2, rows);
        for piece in 0..pieces {
            let (from, to) = (rows * piece / pieces, rows * (piece + 1) / pieces);
            // Rows of uneven size: a piece that is still too large is cut again.
            self.encode_wire_all(&batch.slice(from, to - from), target_bytes, out)?;
        }
        Ok(())
    }

    fn encode_wire(&mut self, batch: &RecordBatch) -> Result<Block> {
        let columns = batch.columns().iter().zip(&self.columns).map(|(column, form)| match form {
            WireForm::AsIs => Ok(Arc::clone(column)),
            WireForm::Compact => compact_array(column),
            WireForm::Copy => copy_array(column),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let row_count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&self.wire), columns, &row_count).context("encode a block")?;
        let is_tiny = || used_bytes(&batch) < MIN_COMPRESSED_COLUMN_BYTES * batch.num_columns();
        let options = match &self.compressed {
            Some(compressed) if !is_tiny() => compressed,
            _ => &self.plain,
        };
        let (_, message) = IpcDataGenerator::default()
            .encode(&batch, &mut self.dictionaries, options, &mut self.context)
            .context("encode a block")?;
        let crc = block_crc(&message.ipc_message, &message.arrow_data);
        Ok(Block {
            header: Bytes::from(message.ipc_message),
            body: Bytes::from(message.arrow_data),
            rows: batch.num_rows() as u64,
            crc,
        })
    }
}

/// Turns the blocks of one schema back into batches.
#[derive(Debug)]
pub struct BlockDecoder {
    schema: SchemaRef,
    wire: SchemaRef,
    has_dictionaries: bool,
    shape: Shape,
    no_dictionaries: HashMap<i64, ArrayRef>,
    validated_one: bool,
}

impl BlockDecoder {
    /// A decoder for the blocks of a [`BlockEncoder`] for `schema` (the original one, not the wire schema).
    pub fn try_new(schema: SchemaRef) -> Result<Self> {
        let has_dictionaries = schema.fields().iter().any(|field| contains_dictionary(field.data_type()));
        let wire = if has_dictionaries { wire_schema(&schema) } else { Arc::clone(&schema) };
        let mut shape = Shape::default();
        for field in wire.fields() {
            shape.add(field.data_type());
        }
        Ok(Self { schema, wire, has_dictionaries, shape, no_dictionaries: HashMap::new(), validated_one: false })
    }

    /// The schema of the decoded batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Checks header and body against `crc`, then decodes them to a batch of `rows` rows.
    ///
    /// Arrays of an uncompressed block point into `body` without a copy, if it starts on a multiple of 16, as the body
    /// of a block from [`BlockEncoder`] or [`ShuffleFile`](crate::ShuffleFile) does. A body that does not, as a rule
    /// one from the network, is copied once.
    pub fn decode(&mut self, header: &Bytes, body: &Bytes, crc: u32, rows: u64) -> Result<RecordBatch> {
        let actual = block_crc(header, body);
        let is_checked = actual == crc;
        if !is_checked && !fault::at("without-checksum") {
            return Err(corrupt(format!("crc32c is {actual:08x}, expected {crc:08x}")));
        }
        self.decode_content(header, body, rows, is_checked)
    }

    /// As [`Self::decode`], of bytes whose integrity the caller has checked in another way.
    pub fn decode_verified(&mut self, header: &Bytes, body: &Bytes, rows: u64) -> Result<RecordBatch> {
        self.decode_content(header, body, rows, true)
    }

    fn decode_content(&mut self, header: &Bytes, body: &Bytes, rows: u64, is_checked: bool) -> Result<RecordBatch> {
        let message = arrow_ipc::root_as_message(header).map_err(|error| corrupt(format!("header: {error}")))?;
        let encoded = match message.header_type() {
            MessageHeader::RecordBatch => message.header_as_record_batch(),
            _ => None,
        };
        let encoded = encoded.ok_or_else(|| corrupt("not a record batch message".to_owned()))?;
        if u64::try_from(encoded.length()) != Ok(rows) {
            return Err(corrupt(format!("{} rows, expected {rows}", encoded.length())));
        }
        if usize::try_from(message.bodyLength()) != Ok(body.len()) {
            return Err(corrupt(format!("body of {} bytes, header says {}", body.len(), message.bodyLength())));
        }
        self.shape.check(&encoded, body.len())?;

        let body = aligned(body);
        let version = message.version();
        let decoder =
            RecordBatchDecoder::try_new(&body, encoded, Arc::clone(&self.wire), &self.no_dictionaries, &version)
                .context("decode a block")?;
        let mut trusted = argument_of(RecordBatchDecoder::with_skip_validation);
        // SAFETY: skipping validation needs valid Arrow data of this schema. The checksum matched, so these are the
        // bytes that `BlockEncoder` made from a valid batch; and their schema is the decoder's, as far as the first
        // block, validated in full, and the shape check of every block can tell.
        unsafe { trusted.set(self.validated_one && is_checked) };
        let batch = decoder.with_skip_validation(trusted).read_record_batch().context("decode a block")?;
        self.validated_one |= batch.num_rows() > 0;
        if !self.has_dictionaries {
            return Ok(batch);
        }
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns =
            columns.map(|(column, field)| dehydrate(column, field.data_type())).collect::<Result<Vec<_>>>()?;
        let row_count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &row_count).context("decode a block")
    }

    /// As [`Self::decode`].
    pub fn decode_block(&mut self, block: &Block) -> Result<RecordBatch> {
        self.decode(&block.header, &block.body, block.crc, block.rows)
    }
}

/// The body as an Arrow buffer; copied if it does not start where every type may be read. Arrow realigns most arrays
/// by itself, but panics on unions.
fn aligned(body: &Bytes) -> Buffer {
    if (body.as_ptr() as usize).is_multiple_of(align_of::<i128>()) {
        Buffer::from(body.clone())
    } else {
        Buffer::from(body.as_ref())
    }
}

fn corrupt(detail: String) -> ShuffleError {
    ShuffleError::corrupt("block", detail)
}

/// The default of the type of a builder method's argument. `arrow-ipc` takes the flag by a type of `arrow-data` that
/// no crate above it exports, and it comes with the value `false`.
fn argument_of<S, A: Default>(_: fn(S, A) -> S) -> A {
    A::default()
}

/// How many nodes and buffers a message of a schema has.
#[derive(Debug, Default)]
struct Shape {
    nodes: usize,
    buffers: usize,
    view_arrays: usize,
}

impl Shape {
    fn add(&mut self, data_type: &DataType) {
        self.nodes += 1;
        match data_type {
            DataType::Null => {}
            DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => self.buffers += 3,
            DataType::Utf8View | DataType::BinaryView => {
                self.buffers += 2;
                self.view_arrays += 1;
            }
            DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
                self.buffers += 2;
                self.add(field.data_type());
            }
            DataType::ListView(field) | DataType::LargeListView(field) => {
                self.buffers += 3;
                self.add(field.data_type());
            }
            DataType::FixedSizeList(field, _) => {
                self.buffers += 1;
                self.add(field.data_type());
            }
            DataType::Struct(fields) => {
                self.buffers += 1;
                fields.iter().for_each(|field| self.add(field.data_type()));
            }
            DataType::Union(fields, mode) => {
                self.buffers += if *mode == UnionMode::Dense { 2 } else { 1 };
                fields.iter().for_each(|(_, field)| self.add(field.data_type()));
            }
            DataType::RunEndEncoded(run_ends, values) => {
                self.add(run_ends.data_type());
                self.add(values.data_type());
            }
            _ => self.buffers += 2,
        }
    }

    /// Whether the message has the nodes and buffers of the schema, and its buffers lie within the body.
    fn check(&self, message: &arrow_ipc::RecordBatch<'_>, body_len: usize) -> Result<()> {
        let nodes = message.nodes().map_or(0, |nodes| nodes.len());
        let views: Vec<i64> = message.variadicBufferCounts().into_iter().flatten().collect();
        let texts: usize = views.iter().map(|count| usize::try_from(*count).unwrap_or(usize::MAX / 2)).sum();
        let buffers = message.buffers().map_or(0, |buffers| buffers.len());
        if nodes != self.nodes || views.len() != self.view_arrays || buffers != self.buffers.saturating_add(texts) {
            return Err(corrupt(format!(
                "{nodes} nodes, {buffers} buffers, {} view columns, where the schema has {}, {} and {}",
                views.len(),
                self.nodes,
                self.buffers.saturating_add(texts),
                self.view_arrays
            )));
        }
        let inside = |buffer: &arrow_ipc::Buffer| {
            let (Ok(start), Ok(len)) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length())) else {
                return false;
            };
            start.checked_add(len).is_some_and(|end| end <= body_len)
        };
        if message.buffers().into_iter().flatten().all(inside) {
            Ok(())
        } else {
            Err(corrupt("a buffer lies outside the body".to_owned()))
        }
    }
}
