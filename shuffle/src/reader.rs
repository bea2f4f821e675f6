// SPDX-License-Identifier: Apache-2.0
//! Reading a shuffle file: as blocks, to be served, or as batches.
//!
//! Opening verifies head, footer and identity and leaves a handle that is cheap to clone and safe to share: every
//! read is positional. Blocks are read without being decoded; several small ones with one read. Each block owns its
//! bytes, so that a batch decoded without a copy keeps its own block in memory and no neighbours.
//!
//! What is checked when: on open all bytes outside of blocks, and that blocks fill the file; when a block is read its
//! prefix and padding; when it is decoded (here, or at the other end of the network) its checksum. A file that changes
//! on disk after it was opened is caught by the last two.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::block::{Block, BlockDecoder};
use crate::dictionary::wire_schema;
use crate::error::{Result, ShuffleError};
use crate::footer::{EOS_BYTES, TRAILER_BYTES, block_prefix, decode_tail, tail_len};
use crate::index::{BlockEntry, FileIdentity, PREFIX_BYTES, ShuffleFileIndex};

/// Small blocks are read together up to this many bytes.
const READ_BYTES: u64 = 1 << 20;

/// An open, verified shuffle file.
#[derive(Debug, Clone)]
pub struct ShuffleFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    wire: SchemaRef,
    index: ShuffleFileIndex,
}

impl ShuffleFile {
    /// Opens `path` and verifies everything but the blocks, and that the file is the output of `expected_identity`.
    pub fn open(path: &Path, expected_identity: &FileIdentity) -> Result<Self> {
        let file = File::open(path).map_err(|source| ShuffleError::reading(path, source))?;
        let file_len = file.metadata().map_err(|source| ShuffleError::reading(path, source))?.len();
        let read = |offset: u64, len: usize| -> Result<Vec<u8>> {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset).map_err(|source| ShuffleError::reading(path, source))?;
            Ok(bytes)
        };
        let too_short = |what: &str| {
            ShuffleError::truncated(path.display().to_string(), format!("{file_len} bytes are too few for {what}"))
        };

        let trailer_start = file_len.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| too_short("a trailer"))?;
        let mut trailer = [0; TRAILER_BYTES];
        trailer.copy_from_slice(&read(trailer_start, TRAILER_BYTES)?);
        let tail_len = tail_len(&trailer)?;
        let tail_start = file_len.checked_sub(tail_len as u64).ok_or_else(|| too_short("the footer"))?;
        let (wire, index) = decode_tail(&read(tail_start, tail_len)?)?;
        if index.blocks_end() != tail_start {
            return Err(ShuffleError::truncated(
                path.display().to_string(),
                format!("blocks end at byte {}, the footer starts at {tail_start}", index.blocks_end()),
            ));
        }
        let head_len = usize::try_from(index.head_len).map_err(|_| too_short("the head"))?;
        let head = read(0, head_len)?;
        if crc32c::crc32c(&head) != index.head_crc {
            return Err(ShuffleError::corrupt("file head", "checksum does not match"));
        }
        if index.identity() != expected_identity {
            return Err(ShuffleError::IdentityMismatch {
                path: path.to_owned(),
                expected: expected_identity.to_string(),
                actual: index.identity().to_string(),
            });
        }
        debug_assert!(tail_len >= EOS_BYTES + TRAILER_BYTES);
        Ok(Self(Arc::new(Inner { path: path.to_owned(), file, wire, index })))
    }

    /// Where each partition is.
    pub fn index(&self) -> &ShuffleFileIndex {
        &self.0.index
    }

    /// The schema of the blocks: [`wire_schema`](crate::wire_schema) of what was written.
    pub fn wire_schema(&self) -> &SchemaRef {
        &self.0.wire
    }

    /// Rows of `partition`.
    pub fn rows(&self, partition: usize) -> u64 {
        self.0.index.rows(partition)
    }

    /// Bytes of `partition` in the file.
    pub fn bytes(&self, partition: usize) -> u64 {
        self.0.index.bytes(partition)
    }

    /// The blocks of a range of partitions with their partition, in order, not decoded and with their checksum not yet
    /// verified. The iterator ends at its first error.
    pub fn blocks(&self, partitions: Range<usize>) -> BlockIter {
        let mut todo = Vec::new();
        for partition in partitions.start..partitions.end.min(self.0.index.num_partitions()) {
            todo.extend(self.0.index.blocks(partition).iter().map(|block| (partition, *block)));
        }
        BlockIter { file: Arc::clone(&self.0), todo, next: 0, chunk: Chunk::default() }
    }

    /// The batches of `partition`. `schema` is the one the file was written with, dictionaries included; another one
    /// is an error. The iterator ends at its first error.
    pub fn read(&self, partition: usize, schema: SchemaRef) -> Result<BatchIter> {
        let wire = wire_schema(&schema);
        let agrees = wire.fields().len() == self.0.wire.fields().len()
            && wire
                .fields()
                .iter()
                .zip(self.0.wire.fields())
                .all(|(wanted, stored)| wanted.data_type().equals_datatype(stored.data_type()));
        if !agrees {
            return Err(ShuffleError::Invalid(format!("file of schema {} read as {wire}", self.0.wire)));
        }
        if partition >= self.0.index.num_partitions() {
            let partitions = self.0.index.num_partitions();
            return Err(ShuffleError::Invalid(format!("partition {partition} of {partitions} read")));
        }
        Ok(BatchIter { blocks: self.blocks(partition..partition + 1), decoder: BlockDecoder::try_new(schema)? })
    }
}

/// Iterator of [`ShuffleFile::blocks`].
#[derive(Debug)]
pub struct BlockIter {
    file: Arc<Inner>,
    todo: Vec<(usize, BlockEntry)>,
    next: usize,
    chunk: Chunk,
}

/// Bytes of the file that were read together.
#[derive(Debug, Default)]
struct Chunk {
    offset: u64,
    bytes: Bytes,
    blocks: usize,
}

impl BlockIter {
    fn next_block(&mut self, entry: BlockEntry) -> Result<Block> {
        if self.chunk.blocks == 0 {
            self.chunk = self.read_chunk(entry.offset)?;
        }
        let alone = self.chunk.bytes.len() as u64 == entry.stored_len();
        self.chunk.blocks -= 1;
        let from = (entry.offset - self.chunk.offset) as usize;
        let stored = self.chunk.bytes.slice(from..from + entry.stored_len() as usize);
        let metadata_len = entry.metadata_len() as usize;
        let header_end = PREFIX_BYTES + entry.header_len as usize;
        let path = || self.file.path.display().to_string();
        if stored[..PREFIX_BYTES] != block_prefix(metadata_len)? {
            return Err(ShuffleError::corrupt(path(), format!("prefix of the block at byte {}", entry.offset)));
        }
        if stored[header_end..metadata_len].iter().any(|byte| *byte != 0) {
            return Err(ShuffleError::corrupt(path(), format!("padding in the block at byte {}", entry.offset)));
        }
        let (header, body) = (stored.slice(PREFIX_BYTES..header_end), stored.slice(metadata_len..));
        let owned = |bytes: Bytes| if alone { bytes } else { Bytes::copy_from_slice(&bytes) };
        Ok(Block { header: owned(header), body: owned(body), rows: entry.rows, crc: entry.crc })
    }

    /// Reads the block at `offset` and those after it that lie behind each other, up to [`READ_BYTES`].
    fn read_chunk(&self, offset: u64) -> Result<Chunk> {
        let (mut len, mut blocks) = (0, 0);
        for (_, entry) in &self.todo[self.next..] {
            if entry.offset != offset + len || (blocks > 0 && len + entry.stored_len() > READ_BYTES) {
                break;
            }
            len += entry.stored_len();
            blocks += 1;
        }
        // Lengths add up to the length of the file, which was checked when it was opened.
        let mut bytes = vec![0; len as usize];
        let file = &self.file;
        file.file.read_exact_at(&mut bytes, offset).map_err(|source| ShuffleError::reading(&file.path, source))?;
        Ok(Chunk { offset, bytes: Bytes::from(bytes), blocks })
    }
}

impl Iterator for BlockIter {
    type Item = Result<(usize, Block)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (partition, entry) = *self.todo.get(self.next)?;
        let block = self.next_block(entry);
        self.next = if block.is_ok() { self.next + 1 } else { self.todo.len() };
        Some(block.map(|block| (partition, block)))
    }

    /// Skips without reading what is skipped.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        if n > 0 {
            self.next = self.next.saturating_add(n).min(self.todo.len());
            self.chunk = Chunk::default();
        }
        self.next()
    }
}

/// Iterator of [`ShuffleFile::read`].
#[derive(Debug)]
pub struct BatchIter {
    blocks: BlockIter,
    decoder: BlockDecoder,
}

impl Iterator for BatchIter {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.blocks.next()?;
        let batch = block.and_then(|(_, block)| self.decoder.decode_block(&block));
        if batch.is_err() {
            self.blocks.next = self.blocks.todo.len();
        }
        Some(batch)
    }
}
