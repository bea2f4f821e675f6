// SPDX-License-Identifier: Apache-2.0
//! The index of a shuffle file: whose output it is, and where each partition's blocks are.
//!
//! It is stored in the footer's custom metadata as hexadecimal text (Arrow wants UTF-8 there) of this form; numbers
//! are LEB128 varints unless marked otherwise:
//!
//! ```text
//!   format version                             1 byte, FORMAT_VERSION
//!   job as length and UTF-8 bytes, stage, stage attempt, task, attempt
//!   bytes before the first block, their crc32c (u32 LE)
//!   number of partitions
//!     per partition: number of blocks
//!       per block: header bytes, body bytes, rows, crc32c (u32 LE)
//!   crc32c of all the above                    u32 LE
//! ```
//!
//! Offsets are not stored: blocks follow each other without gaps, so an offset is the sum of what comes before, and
//! no byte of the file can be outside of what is checked.

use std::fmt;
use std::ops::Range;

use ballista_core::{JobId, StageId, TaskId, TaskKey};

use crate::block::BODY_ALIGNMENT;
use crate::error::{Result, ShuffleError};

/// Version of the file format that this crate writes and reads.
pub const FORMAT_VERSION: u8 = 1;

/// Continuation marker and metadata length before each header.
pub(crate) const PREFIX_BYTES: usize = 8;

/// Whose output a file is; a reader refuses any other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The task attempt that wrote it.
    pub task: TaskKey,
    /// Number of partitions, empty ones included.
    pub partitions: u32,
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} partitions)", self.task, self.partitions)
    }
}

/// One block in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where its prefix starts.
    pub offset: u64,
    /// Bytes of the header, without prefix and padding.
    pub header_len: u32,
    /// Bytes of the body.
    pub body_len: u64,
    /// Rows in the block.
    pub rows: u64,
    /// crc32c of header and body.
    pub crc: u32,
}

impl BlockEntry {
    /// Bytes from the block's prefix to its body: prefix, header, padding.
    pub fn metadata_len(&self) -> u64 {
        (PREFIX_BYTES as u64 + u64::from(self.header_len)).next_multiple_of(BODY_ALIGNMENT as u64)
    }

    /// Bytes of the block in the file.
    pub fn stored_len(&self) -> u64 {
        self.metadata_len() + self.body_len
    }
}

/// Where everything is in a file; see the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleFileIndex {
    identity: FileIdentity,
    pub(crate) head_len: u64,
    pub(crate) head_crc: u32,
    blocks: Vec<BlockEntry>,
    /// Blocks of partition `p` are `starts[p] .. starts[p + 1]`.
    starts: Vec<u32>,
}

impl ShuffleFileIndex {
    pub(crate) fn new(identity: FileIdentity, head_len: u64, head_crc: u32) -> Self {
        Self { identity, head_len, head_crc, blocks: Vec::new(), starts: vec![0] }
    }

    /// Adds the next block of the partition that is being filled.
    pub(crate) fn push_block(&mut self, header_len: u32, body_len: u64, rows: u64, crc: u32) -> BlockEntry {
        let entry = BlockEntry { offset: self.blocks_end(), header_len, body_len, rows, crc };
        self.blocks.push(entry);
        entry
    }

    /// Ends the partition that is being filled.
    pub(crate) fn end_partition(&mut self) {
        self.starts.push(self.blocks.len() as u32);
    }

    /// Partitions ended so far.
    pub(crate) fn ended_partitions(&self) -> usize {
        self.starts.len() - 1
    }

    /// Where the last block ends.
    pub(crate) fn blocks_end(&self) -> u64 {
        self.blocks.last().map_or(self.head_len, |last| last.offset + last.stored_len())
    }

    /// Whose output the file is.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Number of partitions, empty ones included.
    pub fn num_partitions(&self) -> usize {
        self.ended_partitions()
    }

    /// Rows of `partition`; 0 for one that does not exist.
    pub fn rows(&self, partition: usize) -> u64 {
        self.blocks(partition).iter().map(|block| block.rows).sum()
    }

    /// Bytes of `partition` in the file; 0 for one that does not exist.
    pub fn bytes(&self, partition: usize) -> u64 {
        self.blocks(partition).iter().map(BlockEntry::stored_len).sum()
    }

    /// Where the blocks of `partition` start, or would start if it had any.
    pub fn offset(&self, partition: usize) -> u64 {
        let first = self.starts.get(partition).map_or(self.blocks.len(), |start| *start as usize);
        self.blocks.get(first).map_or_else(|| self.blocks_end(), |block| block.offset)
    }

    /// The blocks of `partition`, in order; none for one that does not exist.
    pub fn blocks(&self, partition: usize) -> &[BlockEntry] {
        &self.blocks[self.block_range(partition)]
    }

    /// The blocks of all partitions, in the order of the file.
    pub fn all_blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    fn block_range(&self, partition: usize) -> Range<usize> {
        match (self.starts.get(partition), self.starts.get(partition + 1)) {
            (Some(start), Some(end)) => *start as usize..*end as usize,
            _ => 0..0,
        }
    }

    /// The text that is stored in the footer.
    pub(crate) fn to_text(&self) -> String {
        let TaskKey { job, stage, stage_attempt, task, attempt } = &self.identity.task;
        let mut bytes = vec![FORMAT_VERSION];
        put_varint(&mut bytes, job.as_str().len() as u64);
        bytes.extend_from_slice(job.as_str().as_bytes());
        for number in [stage.0, *stage_attempt, task.0, *attempt] {
            put_varint(&mut bytes, u64::from(number));
        }
        put_varint(&mut bytes, self.head_len);
        bytes.extend_from_slice(&self.head_crc.to_le_bytes());
        put_varint(&mut bytes, self.num_partitions() as u64);
        for partition in 0..self.num_partitions() {
            let blocks = self.blocks(partition);
            put_varint(&mut bytes, blocks.len() as u64);
            for block in blocks {
                put_varint(&mut bytes, u64::from(block.header_len));
                put_varint(&mut bytes, block.body_len);
                put_varint(&mut bytes, block.rows);
                bytes.extend_from_slice(&block.crc.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        to_hex(&bytes)
    }

    /// The inverse of [`Self::to_text`]; checks version, checksum and every length.
    pub(crate) fn from_text(text: &str) -> Result<Self> {
        let bytes = from_hex(text).ok_or_else(|| corrupt("not hexadecimal"))?;
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("too short"))?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(corrupt("checksum does not match"));
        }
        let mut input = Input(content);
        let version = input.take(1)?[0];
        if version != FORMAT_VERSION {
            return Err(corrupt(format!("format version {version}, this reader knows {FORMAT_VERSION}")));
        }
        let job_len = input.number::<usize>()?;
        let job = std::str::from_utf8(input.take(job_len)?).ok().and_then(|text| JobId::new(text).ok());
        let task = TaskKey {
            job: job.ok_or_else(|| corrupt("invalid job id"))?,
            stage: StageId(input.number()?),
            stage_attempt: input.number()?,
            task: TaskId(input.number()?),
            attempt: input.number()?,
        };
        let (head_len, head_crc) = (input.number()?, input.fixed()?);
        let partitions: u32 = input.number()?;
        let mut index = Self::new(FileIdentity { task, partitions }, head_len, head_crc);
        for _ in 0..partitions {
            for _ in 0..input.number::<u64>()? {
                let (header_len, body_len, rows, crc) =
                    (input.number()?, input.number::<u64>()?, input.number()?, input.fixed()?);
                // Keeps every sum of lengths far from overflow.
                if body_len > 1 << 48 || index.blocks_end() > 1 << 56 {
                    return Err(corrupt("a length is out of bounds"));
                }
                index.push_block(header_len, body_len, rows, crc);
            }
            index.end_partition();
        }
        if input.0.is_empty() { Ok(index) } else { Err(corrupt("bytes are left over")) }
    }
}

fn corrupt(detail: impl Into<String>) -> ShuffleError {
    ShuffleError::corrupt("file index", detail)
}

/// Bytes not yet read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return T::try_from(number).map_err(|_| corrupt("a number is too large"));
            }
        }
        Err(corrupt("a number does not end"))
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ShuffleFileIndex {
        let task = TaskKey {
            job: JobId::new("job-1").unwrap(),
            stage: StageId(3),
            stage_attempt: 300,
            task: TaskId(0),
            attempt: u32::MAX,
        };
        let mut index = ShuffleFileIndex::new(FileIdentity { task, partitions: 3 }, 320, 77);
        index.push_block(120, 64 * 1000, 12_345, 0xdead_beef);
        index.push_block(57, 64, 1, 1);
        index.end_partition();
        index.end_partition();
        index.push_block(56, 0, 5, 2);
        index.end_partition();
        index
    }

    #[test]
    fn text_round_trips() {
        let index = index();
        assert_eq!(ShuffleFileIndex::from_text(&index.to_text()).unwrap(), index);
        assert_eq!((index.rows(0), index.rows(1), index.rows(2), index.rows(9)), (12_346, 0, 5, 0));
        assert_eq!(index.blocks(0)[1].offset, 320 + 128 + 64_000);
        assert_eq!(index.bytes(0), 128 + 64_000 + 128 + 64);
        assert_eq!(index.offset(1), index.offset(2));
        assert_eq!(index.bytes(2), 64);
    }

    #[test]
    fn every_changed_or_missing_digit_is_noticed() {
        let text = index().to_text();
        for at in 0..text.len() {
            for bit in 0..7 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(ShuffleFileIndex::from_text(&changed).is_err(), "digit {at} bit {bit}");
            }
            assert!(ShuffleFileIndex::from_text(&text[..at]).is_err(), "cut at {at}");
        }
    }
}
