// SPDX-License-Identifier: Apache-2.0
//! Reading outputs as blocks, from a position on. Everything here blocks and belongs on a blocking thread.
//!
//! Blocks of files are read as they are; batches in memory are encoded here. The position after a block means the
//! same rows in both tiers (see [`super::blocks`]), so a reader may go on after an eviction.

use std::ops::Range;
use std::sync::Arc;

use ballista_core::config::Compression;
use ballista_shuffle::{Block, BlockEncoder, BlockIter};

use super::blocks;
use super::output::{FileTier, MemoryTier, Output, Tier};
use crate::error::{ExchangeError, Result};

/// Where to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// Index of the output among those asked for.
    pub(crate) output: usize,
    /// Index of the block within the wanted buckets of that output.
    pub(crate) block: u64,
}

/// A block and where it belongs.
#[derive(Debug)]
pub(crate) struct StoredBlock {
    pub(crate) output: usize,
    pub(crate) bucket: usize,
    pub(crate) block: Block,
}

/// Reads a range of buckets of some outputs, output by output, bucket by bucket.
#[derive(Debug)]
pub(crate) struct StoreCursor {
    outputs: Vec<Arc<Output>>,
    buckets: Range<usize>,
    position: Position,
    plain: bool,
    current: Option<OutputBlocks>,
}

impl StoreCursor {
    /// Blocks in memory are encoded without compression if `plain`, else as their file would be.
    pub(crate) fn new(outputs: Vec<Arc<Output>>, buckets: Range<usize>, position: Position, plain: bool) -> Self {
        Self { outputs, buckets, position, plain, current: None }
    }

    /// Position of the next block.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether another block follows. Moves over outputs without one.
    pub(crate) fn has_next(&mut self) -> Result<bool> {
        loop {
            if self.current.is_none() {
                let Some(output) = self.outputs.get(self.position.output) else { return Ok(false) };
                let compression = if self.plain { Compression::None } else { output.compression() };
                self.current =
                    Some(OutputBlocks::open(output, self.buckets.clone(), self.position.block, compression)?);
            }
            if self.current.as_ref().is_some_and(|blocks| blocks.remaining > 0) {
                return Ok(true);
            }
            self.current = None;
            self.position = Position { output: self.position.output + 1, block: 0 };
        }
    }

    /// The next block.
    pub(crate) fn next_block(&mut self) -> Result<Option<StoredBlock>> {
        if !self.has_next()? {
            return Ok(None);
        }
        let Some(blocks) = &mut self.current else { return Ok(None) };
        let (bucket, block) = blocks.next()?;
        self.position.block += 1;
        Ok(Some(StoredBlock { output: self.position.output, bucket, block }))
    }

    /// The next blocks, until they have `bytes` in all. At least one if there is one.
    pub(crate) fn next_blocks(&mut self, bytes: usize) -> Result<Vec<StoredBlock>> {
        let mut blocks = Vec::new();
        let mut read = 0;
        while read < bytes || blocks.is_empty() {
            let Some(block) = self.next_block()? else { break };
            read += block.block.bytes();
            blocks.push(block);
        }
        Ok(blocks)
    }
}

/// The blocks of one output that are still to be read.
#[derive(Debug)]
struct OutputBlocks {
    remaining: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory { tier: Arc<MemoryTier>, bucket: usize, piece: usize, encoder: Box<BlockEncoder> },
    // The tier keeps the file from being removed.
    File { _tier: Arc<FileTier>, blocks: BlockIter, skip: usize },
}

impl OutputBlocks {
    fn open(output: &Output, buckets: Range<usize>, skip: u64, compression: Compression) -> Result<Self> {
        let end = buckets.end.min(output.buckets());
        let buckets = buckets.start.min(end)..end;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let tier = output.tier();
        let count_in = |bucket: usize| match &tier {
            Tier::Memory(memory) => memory.pieces(bucket).len(),
            Tier::File(file) => file.file.index().blocks(bucket).len(),
        };
        let total: usize = buckets.clone().map(count_in).sum();
        let remaining = total.saturating_sub(skip) as u64;
        // Whole buckets are skipped here, the rest of them within the bucket.
        let (mut bucket, mut within) = (buckets.start, skip.min(total));
        while bucket < buckets.end && within >= count_in(bucket) && within > 0 {
            within -= count_in(bucket);
            bucket += 1;
        }
        let source = match tier {
            Tier::Memory(tier) => {
                let encoder = BlockEncoder::try_new(output.schema(), compression)
                    .map_err(ExchangeError::shuffle(format!("cannot serve output {}", output.key())))?;
                Source::Memory { tier, bucket, piece: within, encoder: Box::new(encoder) }
            }
            Tier::File(tier) => {
                let blocks = tier.file.blocks(bucket..buckets.end);
                Source::File { _tier: tier, blocks, skip: within }
            }
        };
        Ok(Self { remaining, source })
    }

    fn next(&mut self) -> Result<(usize, Block)> {
        let next = match &mut self.source {
            Source::Memory { tier, bucket, piece, encoder } => {
                while *piece >= tier.pieces(*bucket).len() {
                    *bucket += 1;
                    *piece = 0;
                }
                let block = blocks::encode(encoder, &tier.buckets[*bucket], tier.pieces(*bucket)[*piece])?;
                *piece += 1;
                (*bucket, block)
            }
            Source::File { blocks, skip, .. } => {
                let next = blocks.nth(std::mem::take(skip));
                let next = next.ok_or_else(|| ExchangeError::Protocol("a block of a file is missing".into()))?;
                next.map_err(ExchangeError::shuffle("cannot read a shuffle file"))?
            }
        };
        self.remaining -= 1;
        Ok(next)
    }
}
