// SPDX-License-Identifier: Apache-2.0
//! Writing the one file that holds a task's shuffle output.
//!
//! The file is a valid Arrow IPC file: any Arrow library opens it and sees the batches of all partitions in order.
//! What makes it a shuffle file is the [index](crate::index) in the metadata of its footer.
//!
//! ```text
//!   0     ┌──────────────────────────────────────────────────────────────┐
//!         │ head: magic, schema message                                  │  crc in the index
//!         ├──────────────────────────────────────────────────────────────┤
//!         │ partition 0:  block: FFFFFFFF len │ header │ pad │ body      │  header and body: crc in the index,
//!         │               block: …                                       │  verified before decode; prefix and pad:
//!         ├──────────────────────────────────────────────────────────────┤  compared with what they must be
//!         │ partition 1   (empty: no bytes)                              │
//!         ├──────────────────────────────────────────────────────────────┤
//!         │ partition 2:  block …                                        │
//!         ├──────────────────────────────────────────────────────────────┤
//!         │ tail: end-of-stream marker, footer with index, length, magic │  crc within, see `footer`
//!         └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: blocks start and end on multiples of 64 bytes and follow each other without gaps; every byte of the
//! file is covered by one of the checks on the right. The file appears under its name only when complete; a writer
//! dropped before that leaves nothing behind. Not synced to disk: a power cut costs a re-run of the task, and shows
//! as a failed check, never as wrong rows.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use ballista_core::config::Compression;

use crate::block::{BODY_ALIGNMENT, Block, BlockEncoder, TARGET_BLOCK_BYTES};
use crate::compact::used_bytes;
use crate::dictionary::contains_narrow_dictionary;
use crate::error::{ArrowContext, Result, ShuffleError};
use crate::footer::{block_metadata, encode_head, encode_tail};
use crate::index::{FileIdentity, ShuffleFileIndex};

const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// Writes a shuffle file, partition by partition; see the module's documentation.
///
/// Call order: any number of `write` and `write_block`, partitions ascending, partitions without rows left out, then
/// `finish`. After an error only dropping the writer makes sense.
#[derive(Debug)]
pub struct ShuffleFileWriter {
    file: TempFile,
    encoder: BlockEncoder,
    index: ShuffleFileIndex,
    pending: Pending,
}

/// Small batches of the current partition, waiting to become a block together.
#[derive(Debug, Default)]
struct Pending {
    batches: Vec<RecordBatch>,
    bytes: usize,
    never: bool,
}

impl ShuffleFileWriter {
    /// Starts writing `<path>.tmp`, in a directory that exists; `finish` makes it `path`.
    pub fn create(path: &Path, schema: SchemaRef, identity: FileIdentity, compression: Compression) -> Result<Self> {
        let encoder = BlockEncoder::try_new(&schema, compression)?;
        let head = encode_head(encoder.wire_schema())?;
        let mut file = TempFile::create(path)?;
        file.write(&head)?;
        // Batches of narrow dictionaries stay apart: together they may have more values than keys can address.
        let never = schema.fields().iter().any(|field| contains_narrow_dictionary(field.data_type()));
        let index = ShuffleFileIndex::new(identity, head.len() as u64, crc32c::crc32c(&head));
        Ok(Self { file, encoder, index, pending: Pending { never, ..Pending::default() } })
    }

    /// Appends the rows of `batch` to `partition`. Small batches are put together and large ones cut, to blocks of
    /// about [`TARGET_BLOCK_BYTES`].
    pub fn write(&mut self, partition: usize, batch: &RecordBatch) -> Result<()> {
        self.advance_to(partition)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.pending.never {
            let (encoder, file, index) = (&mut self.encoder, &mut self.file, &mut self.index);
            return encoder.encode_all(batch, TARGET_BLOCK_BYTES, &mut |block| append(file, index, &block));
        }
        let wire = self.encoder.to_wire(batch)?;
        let bytes = used_bytes(&wire);
        if self.pending.bytes + bytes > TARGET_BLOCK_BYTES + TARGET_BLOCK_BYTES / 4 {
            self.flush_pending()?;
        }
        self.pending.bytes += bytes;
        self.pending.batches.push(wire);
        if self.pending.bytes >= TARGET_BLOCK_BYTES { self.flush_pending() } else { Ok(()) }
    }

    /// Appends an encoded block to `partition`. It must come from an encoder for the same schema; nothing but the
    /// length of its body is checked here.
    pub fn write_block(&mut self, partition: usize, block: Block) -> Result<()> {
        self.advance_to(partition)?;
        self.flush_pending()?;
        append(&mut self.file, &mut self.index, &block)
    }

    /// Writes what is pending and the footer, and gives the file its name.
    pub fn finish(mut self) -> Result<ShuffleFileIndex> {
        self.flush_pending()?;
        while self.index.num_partitions() < self.partitions() {
            self.index.end_partition();
        }
        self.file.write(&encode_tail(self.encoder.wire_schema(), &self.index)?)?;
        self.file.publish()?;
        Ok(self.index)
    }

    /// Rows waiting to be encoded, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.index.blocks_end()
    }

    fn partitions(&self) -> usize {
        self.index.identity().partitions as usize
    }

    fn advance_to(&mut self, partition: usize) -> Result<()> {
        let current = self.index.ended_partitions();
        if partition >= self.partitions() {
            return Err(ShuffleError::Invalid(format!("partition {partition} of {} written", self.partitions())));
        }
        if partition < current {
            return Err(ShuffleError::Invalid(format!("partition {partition} written after partition {current}")));
        }
        if partition > current {
            self.flush_pending()?;
        }
        while self.index.ended_partitions() < partition {
            self.index.end_partition();
        }
        Ok(())
    }

    fn flush_pending(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.pending.batches);
        self.pending.bytes = 0;
        let together = match batches.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => concat_batches(self.encoder.wire_schema(), many).context("put small batches together")?,
        };
        let (encoder, file, index) = (&mut self.encoder, &mut self.file, &mut self.index);
        encoder.encode_wire_all(&together, TARGET_BLOCK_BYTES, &mut |block| append(file, index, &block))
    }
}

fn append(file: &mut TempFile, index: &mut ShuffleFileIndex, block: &Block) -> Result<()> {
    let header_len = u32::try_from(block.header.len());
    let header_len =
        header_len.map_err(|_| ShuffleError::Invalid(format!("block header of {} bytes", block.header.len())))?;
    if !block.body.len().is_multiple_of(BODY_ALIGNMENT) {
        return Err(ShuffleError::Invalid(format!("block body of {} bytes", block.body.len())));
    }
    let entry = index.push_block(header_len, block.body.len() as u64, block.rows, block.crc);
    file.write(&block_metadata(&block.header, entry.metadata_len() as usize)?)?;
    file.write(&block.body)
}

/// A file under a temporary name that is deleted unless published.
#[derive(Debug)]
struct TempFile {
    path: PathBuf,
    temp: PathBuf,
    output: BufWriter<File>,
    published: bool,
}

impl TempFile {
    fn create(path: &Path) -> Result<Self> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(".tmp");
        let temp = PathBuf::from(temp);
        let file =
            File::create(&temp).map_err(|source| ShuffleError::Io { action: "create", path: temp.clone(), source })?;
        let output = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), temp, output, published: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|source| self.error("write", source))
    }

    fn publish(&mut self) -> Result<()> {
        self.output.flush().map_err(|source| self.error("write", source))?;
        fs::rename(&self.temp, &self.path).map_err(|source| self.error("rename", source))?;
        self.published = true;
        Ok(())
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> ShuffleError {
        ShuffleError::Io { action, path: self.temp.clone(), source }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // Nobody to tell: what stays behind is found and removed with its directory.
            let _ = fs::remove_file(&self.temp);
        }
    }
}
