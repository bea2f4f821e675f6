// SPDX-License-Identifier: Apache-2.0
//! Files of outputs and of spilled segments. Everything here blocks and belongs on a blocking thread.

use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::TaskKey;
use ballista_core::config::Compression;
use ballista_shuffle::{BlockEncoder, BlockIter, FileIdentity, ShuffleFile, ShuffleFileWriter};

use super::accounting::Disk;
use super::blocks;
use super::work_dir::OwnedFile;
use crate::error::{ExchangeError, Result};

/// A part of an unfinished output, in the format of a finished one.
#[derive(Debug)]
pub(super) struct Segment {
    index: usize,
    file: ShuffleFile,
    _owned: OwnedFile,
    disk: Disk,
}

impl Segment {
    /// Writes the batches of all buckets to `path`, for which there is `disk`.
    pub(super) fn write(
        index: usize,
        path: PathBuf,
        key: &TaskKey,
        schema: &SchemaRef,
        compression: Compression,
        buckets: &[Vec<RecordBatch>],
        mut disk: Disk,
    ) -> Result<Self> {
        let owned = OwnedFile(path);
        disk.set(write(&owned.0, key, schema, compression, vec![], buckets)?);
        let file = open(&owned.0, key, buckets.len())?;
        Ok(Self { index, file, _owned: owned, disk })
    }

    /// Of its file.
    pub(super) fn bytes(&self) -> u64 {
        self.disk.bytes()
    }

    /// Segments are merged in this order.
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

fn identity(key: &TaskKey, buckets: usize) -> Result<FileIdentity> {
    let partitions =
        u32::try_from(buckets).map_err(|_| ExchangeError::Protocol(format!("an output of {buckets} buckets")))?;
    Ok(FileIdentity { task: key.clone(), partitions })
}

/// Opens and verifies the file of `key`.
pub(super) fn open(path: &Path, key: &TaskKey, buckets: usize) -> Result<ShuffleFile> {
    ShuffleFile::open(path, &identity(key, buckets)?)
        .map_err(ExchangeError::shuffle(format!("cannot open the shuffle file of {key}")))
}

/// Writes one indexed file: per bucket first what the segments hold, copied block by block without decoding, then the
/// batches. Returns its size.
pub(super) fn write(
    path: &Path,
    key: &TaskKey,
    schema: &SchemaRef,
    compression: Compression,
    segments: Vec<Segment>,
    buckets: &[Vec<RecordBatch>],
) -> Result<u64> {
    let context = || format!("cannot write shuffle output {key} to {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(ExchangeError::io(context()))?;
    }
    let identity = identity(key, buckets.len())?;
    let mut writer = ShuffleFileWriter::create(path, Arc::clone(schema), identity, compression)
        .map_err(ExchangeError::shuffle(context()))?;
    let mut encoder = BlockEncoder::try_new(schema, compression).map_err(ExchangeError::shuffle(context()))?;
    let mut spilled: Vec<Peekable<BlockIter>> =
        segments.iter().map(|segment| segment.file.blocks(0..buckets.len()).peekable()).collect();
    for (bucket, batches) in buckets.iter().enumerate() {
        for blocks in &mut spilled {
            // An error is due in the first bucket that could have it.
            while let Some(block) = blocks.next_if(|block| block.as_ref().map_or(true, |(of, _)| *of == bucket)) {
                let (_, block) = block.map_err(ExchangeError::shuffle(context()))?;
                writer.write_block(bucket, block).map_err(ExchangeError::shuffle(context()))?;
            }
        }
        for piece in blocks::cut(batches) {
            let block = blocks::encode(&mut encoder, batches, piece)?;
            writer.write_block(bucket, block).map_err(ExchangeError::shuffle(context()))?;
        }
    }
    writer.finish().map_err(ExchangeError::shuffle(context()))?;
    let written = fs::metadata(path).map_err(ExchangeError::io(context()))?;
    Ok(written.len())
}
