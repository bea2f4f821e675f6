// SPDX-License-Identifier: Apache-2.0
//! Writes the files of a data set: a few threads take parts from one queue, largest first.
//!
//! Memory is bounded by the threads: each holds one encoded row group (a million rows) besides the batch in hand.

use std::fs::File;
use std::num::NonZero;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use super::progress::Progress;
use super::{Part, io_error};

/// Rows per row group, the default of DataFusion's own writer.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// One thread per core.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Writes `parts` into `dir` on `threads` threads.
///
/// # Errors
/// The first error of any thread; the others stop after the batch in hand.
pub(super) fn write_parts(mut parts: Vec<Part>, dir: &Path, threads: usize, progress: &Progress) -> Result<()> {
    parts.sort_by_key(|part| part.estimated_rows);
    let queue = Mutex::new(Work { parts, failure: None });
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    // A statement of its own: in `while let`, the lock would be held for the whole turn.
                    let next = lock(&queue).next();
                    let Some(part) = next else { break };
                    let table = part.table;
                    let keep_on = || lock(&queue).failure.is_none();
                    if let Err(error) = write_part(part, dir, progress, &keep_on) {
                        lock(&queue).failure.get_or_insert(error.context(format!("writing table {table}")));
                    }
                }
            });
        }
    });
    match lock(&queue).failure.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Work {
    /// Smallest first, as they are taken from the end.
    parts: Vec<Part>,
    failure: Option<DataFusionError>,
}

impl Work {
    fn next(&mut self) -> Option<Part> {
        if self.failure.is_some() { None } else { self.parts.pop() }
    }
}

/// A thread that panicked leaves nothing half-changed under the lock, so poisoning is of no interest.
fn lock(queue: &Mutex<Work>) -> std::sync::MutexGuard<'_, Work> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write_part(part: Part, dir: &Path, progress: &Progress, keep_on: &dyn Fn() -> bool) -> Result<()> {
    let path = dir.join(part.path());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| io_error("create", parent, &error))?;
    }
    let file = File::create(&path).map_err(|error| io_error("create", &path, &error))?;
    let reader = (part.open)();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(file, reader.schema(), Some(properties))?;
    for batch in reader {
        if !keep_on() {
            return Ok(());
        }
        let batch = batch?;
        writer.write(&batch)?;
        progress.rows(batch.num_rows() as u64);
    }
    let metadata = writer.close()?;
    progress.file_done(part.table, metadata.file_metadata().num_rows() as u64);
    Ok(())
}
