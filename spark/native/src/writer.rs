// SPDX-License-Identifier: Apache-2.0
//! Rows in Spark's memory pages become blocks in a file: the body of `writeSortedFileNative`.
//!
//! ```text
//!   JVM                                         native
//!   pages: ░row░░row░░░░row░░row░               sort by partition, keeping the order of arrival
//!     ▲     ▲      ▲                            ┌ partition 0 ┐┌ partition 2     ┐
//!   records: (address, length, partition) …  ─▶ │ row row row ││ row row row row │
//!     one call per spill, for all partitions    └──────┬──────┘└────────┬────────┘
//!                                                rows ─▶ batch ─▶ blocks ─▶ output
//!                                                                    └─▶ checksum of the partition
//! ```
//!
//! A record is 16 bytes that the JVM side writes next to its pages:
//!
//! ```text
//!   offset 0  i64  address of the row
//!          8  i32  bytes of the row
//!         12  i32  partition
//! ```
//!
//! One [`SpillEncoder`] serves a map task: the bypass writer, which hands over one partition at a time, several at
//! once from the threads of its asynchronous spilling; and the sort writer, which hands over everything.
//!
//! Invariants: rows of a partition keep the order in which they were handed over. A call ends with whole blocks, so
//! what several calls wrote for a partition can be put behind each other. After an error the file is as long as before
//! the call (or gone, if the call made it), but checksums may have moved on: the task has failed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::{Schema, SchemaRef};
use ballista_shuffle::TARGET_BLOCK_BYTES;
use parking_lot::Mutex;

use crate::block::{BlockWriter, Codec};
use crate::checksum::{ChecksumAlgorithm, PartitionChecksums};
use crate::error::{Result, SparkError};
use crate::row::{RowConverter, UnsafeRow};

/// Rows of a batch are at most this many bytes, unless a single row is larger: far below what Arrow's offsets count.
const MAX_BATCH_BYTES: u64 = 16 << 20;

/// Encoded bytes of a partition that wait before they are written.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Small partitions are written together.
const FILE_BUFFER_BYTES: usize = 64 << 10;

/// Where a row is and where it belongs. The JVM writes these; see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// Address of the row's first byte.
    pub address: u64,
    /// Bytes of the row.
    pub length: u32,
    /// Partition of the row.
    pub partition: u32,
}

/// What stays the same during a map task.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Spark's schema of the rows.
    pub schema: SchemaRef,
    /// Number of partitions.
    pub partitions: u32,
    /// Compression.
    pub codec: Codec,
    /// Rows of a batch at most.
    pub batch_rows: usize,
    /// Checksums of partitions, if wanted.
    pub checksum: Option<ChecksumAlgorithm>,
}

/// What one call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpillReport {
    /// Bytes written.
    pub bytes: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes of the rows before encoding: Spark's `dataSize`.
    pub row_bytes: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Time spent on sorting, converting, encoding and checksums.
    pub encode_time: Duration,
    /// Time spent in writing.
    pub write_time: Duration,
    /// Partitions that got rows, ascending, and their bytes.
    pub partitions: Vec<(u32, u64)>,
}

/// Where blocks go.
pub trait Output {
    /// Takes bytes of `partition`, which go behind those it got before. Partitions come in ascending order.
    fn write(&mut self, partition: u32, bytes: &[u8]) -> Result<()>;

    /// Nothing more comes.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

struct FileOutput<'a> {
    file: BufWriter<&'a File>,
    path: &'a Path,
}

impl Output for FileOutput<'_> {
    fn write(&mut self, _: u32, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| SparkError::io("write", self.path, source))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|source| SparkError::io("write", self.path, source))
    }
}

/// Encodes and writes the rows of a map task.
pub struct SpillEncoder {
    config: WriterConfig,
    carrier: SchemaRef,
    checksums: Option<PartitionChecksums>,
    idle: Mutex<Vec<Tools>>,
    cancelled: AtomicBool,
    is_killed: KillCheck,
}

/// Whether the task was killed; asked from every thread that writes, before each batch.
pub type KillCheck = Box<dyn Fn() -> Result<bool> + Send + Sync>;

/// What one call at a time can use.
struct Tools {
    converter: RowConverter,
    blocks: BlockWriter,
    encoded: Vec<u8>,
}

impl SpillEncoder {
    /// An encoder for a task that `is_killed` knows of. Errors for types that a shuffle cannot carry and for a batch of no
    /// rows.
    pub fn try_new(config: WriterConfig, is_killed: KillCheck) -> Result<Self> {
        if config.batch_rows == 0 || config.partitions == 0 {
            return Err(SparkError::Invalid("a shuffle of 0 partitions, or batches of 0 rows".to_owned()));
        }
        let tools = Tools::try_new(&config.schema, config.codec)?;
        let checksums = config.checksum.map(|algorithm| PartitionChecksums::new(algorithm, config.partitions as usize));
        Ok(Self {
            carrier: Arc::clone(tools.converter.carrier()),
            idle: Mutex::new(vec![tools]),
            cancelled: AtomicBool::new(false),
            is_killed,
            config,
            checksums,
        })
    }

    /// The schema of the blocks.
    pub fn carrier(&self) -> &SchemaRef {
        &self.carrier
    }

    /// The checksums of all partitions so far; none if they are not wanted.
    pub fn checksums(&self) -> Option<Vec<i64>> {
        self.checksums.as_ref().map(PartitionChecksums::values)
    }

    /// Makes all calls, running and future ones, fail with [`SparkError::Cancelled`] before their next batch.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Writes the rows of `records`, by partition, to the end of the file at `path`, which is made if `append` is not
    /// set, and must exist if it is.
    ///
    /// # Safety
    ///
    /// The memory that each record points to must be readable, and nobody may write to or free it until this returns.
    pub unsafe fn write_sorted_file(&self, path: &Path, append: bool, records: &[Record]) -> Result<SpillReport> {
        let mut options = OpenOptions::new();
        if append {
            options.append(true)
        } else {
            options.write(true).create(true).truncate(true)
        };
        let action = if append { "open" } else { "create" };
        let file = options.open(path).map_err(|source| SparkError::io(action, path, source))?;
        let before = file.metadata().map_err(|source| SparkError::io("open", path, source))?.len();
        let mut output = FileOutput { file: BufWriter::with_capacity(FILE_BUFFER_BYTES, &file), path };
        // SAFETY: the caller's promise.
        let report = unsafe { self.write_sorted(records, &mut output) };
        // What waits in the buffer after an error is not wanted.
        drop(output.file.into_parts());
        if report.is_err() {
            undo(&file, path, append.then_some(before));
        }
        report
    }

    /// As [`Self::write_sorted_file`], to any output: one of the JVM that encrypts, for example.
    ///
    /// # Safety
    ///
    /// As for [`Self::write_sorted_file`].
    pub unsafe fn write_sorted(&self, records: &[Record], output: &mut dyn Output) -> Result<SpillReport> {
        let started = Instant::now();
        let order = sort_by_partition(records, self.config.partitions)?;
        let tools = self.idle.lock().pop();
        let mut tools = match tools {
            Some(tools) => tools,
            None => Tools::try_new(&self.config.schema, self.config.codec)?,
        };
        tools.encoded.clear();
        let mut report = SpillReport::default();
        for run in order.chunk_by(|a, b| records[*a as usize].partition == records[*b as usize].partition) {
            // Runs are never empty.
            let partition = records[run[0] as usize].partition;
            // SAFETY: the caller's promise.
            unsafe { self.write_run(&mut tools, records, run, partition, output, &mut report)? };
        }
        let flushing = Instant::now();
        output.flush()?;
        report.write_time += flushing.elapsed();
        self.idle.lock().push(tools);
        report.encode_time = started.elapsed().saturating_sub(report.write_time);
        Ok(report)
    }

    /// Writes the rows of one partition.
    ///
    /// # Safety
    ///
    /// As for [`Self::write_sorted_file`].
    unsafe fn write_run(
        &self,
        tools: &mut Tools,
        records: &[Record],
        mut run: &[u32],
        partition: u32,
        output: &mut dyn Output,
        report: &mut SpillReport,
    ) -> Result<()> {
        let mut partition_bytes = 0;
        // Null structs make a batch larger than its rows.
        let expanded_rows = MAX_BATCH_BYTES as usize / tools.converter.expanded_width().max(1);
        let batch_rows = self.config.batch_rows.min(expanded_rows.max(1));
        let mut rows: Vec<UnsafeRow<'_>> = Vec::with_capacity(run.len().min(batch_rows));
        while !run.is_empty() {
            if self.cancelled.load(Ordering::Acquire) || (self.is_killed)()? {
                return Err(SparkError::Cancelled);
            }
            rows.clear();
            let mut row_bytes = 0;
            for index in run.iter().take(batch_rows) {
                let record = records[*index as usize];
                if row_bytes > 0 && row_bytes + u64::from(record.length) > MAX_BATCH_BYTES {
                    break;
                }
                row_bytes += u64::from(record.length);
                // SAFETY: the caller's promise; the rows are gone when this function returns.
                let row =
                    unsafe { UnsafeRow::from_address(record.address, record.length, tools.converter.num_fields()) };
                rows.push(row?);
            }
            run = &run[rows.len()..];
            let batch = tools.converter.convert(&rows)?;
            let from = tools.encoded.len();
            report.blocks += tools.blocks.write(&batch, TARGET_BLOCK_BYTES, &mut tools.encoded)? as u64;
            report.rows += rows.len() as u64;
            report.row_bytes += row_bytes;
            let encoded = &tools.encoded[from..];
            partition_bytes += encoded.len() as u64;
            if let Some(checksums) = &self.checksums {
                checksums.update(partition as usize, encoded);
            }
            if tools.encoded.len() >= WRITE_BUFFER_BYTES {
                write_out(&mut tools.encoded, partition, output, report)?;
            }
        }
        write_out(&mut tools.encoded, partition, output, report)?;
        report.partitions.push((partition, partition_bytes));
        Ok(())
    }
}

impl Tools {
    fn try_new(schema: &Schema, codec: Codec) -> Result<Self> {
        let converter = RowConverter::try_new(schema)?;
        let blocks = BlockWriter::try_new(converter.carrier(), codec)?;
        Ok(Self { converter, blocks, encoded: Vec::new() })
    }
}

fn write_out(encoded: &mut Vec<u8>, partition: u32, output: &mut dyn Output, report: &mut SpillReport) -> Result<()> {
    if encoded.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    output.write(partition, encoded)?;
    report.bytes += encoded.len() as u64;
    report.write_time += started.elapsed();
    encoded.clear();
    Ok(())
}

/// Takes back what a failed call wrote.
fn undo(file: &File, path: &Path, before: Option<u64>) {
    let undone: io::Result<()> = match before {
        Some(length) => file.set_len(length),
        None => std::fs::remove_file(path),
    };
    // Nobody to tell: the call fails with what went wrong before, and the task's directory is removed in the end.
    drop(undone);
}

/// Counting sort: the numbers of `records`, by partition, then in order of arrival. Errors for a partition that does
/// not exist.
fn sort_by_partition(records: &[Record], partitions: u32) -> Result<Vec<u32>> {
    let Ok(count) = u32::try_from(records.len()) else {
        return Err(SparkError::Invalid(format!("{} records in one spill", records.len())));
    };
    if let Some(record) = records.iter().find(|record| record.partition >= partitions) {
        return Err(SparkError::Invalid(format!("partition {} of {partitions}", record.partition)));
    }
    if records.is_sorted_by_key(|record| record.partition) {
        return Ok((0..count).collect());
    }
    let mut next = vec![0u32; partitions as usize];
    for record in records {
        next[record.partition as usize] += 1;
    }
    let mut total = 0;
    for place in &mut next {
        (*place, total) = (total, total + *place);
    }
    let mut order = vec![0; records.len()];
    for (index, record) in (0..count).zip(records) {
        let place = &mut next[record.partition as usize];
        order[*place as usize] = index;
        *place += 1;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use arrow::array::{AsArray, RecordBatch};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Fields, Int64Type};

    use super::*;
    use crate::block::read_all;
    use crate::testing::{Value, every_type, every_value, row};

    impl Output for Vec<u8> {
        fn write(&mut self, _: u32, bytes: &[u8]) -> Result<()> {
            self.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn config(types: &[DataType], partitions: u32) -> WriterConfig {
        let fields = types.iter().enumerate();
        let fields: Fields = fields.map(|(i, one)| Field::new(format!("c{i}"), one.clone(), true)).collect();
        WriterConfig {
            schema: Arc::new(Schema::new(fields)),
            partitions,
            codec: Codec::Lz4,
            batch_rows: 100,
            checksum: Some(ChecksumAlgorithm::Adler32),
        }
    }

    fn encoder(config: WriterConfig) -> SpillEncoder {
        SpillEncoder::try_new(config, Box::new(|| Ok(false))).unwrap()
    }

    fn records(rows: &[Vec<u8>], partition: impl Fn(usize) -> u32) -> Vec<Record> {
        let rows = rows.iter().enumerate();
        rows.map(|(i, row)| Record {
            address: row.as_ptr().expose_provenance() as u64,
            length: row.len() as u32,
            partition: partition(i),
        })
        .collect()
    }

    fn numbers(range: std::ops::Range<i64>) -> Vec<Vec<u8>> {
        range.map(|number| row(&[Value::Int64(number)])).collect()
    }

    /// The numbers of each partition of a file of one spill.
    fn read_back(carrier: &SchemaRef, bytes: &[u8], report: &SpillReport) -> Vec<(u32, Vec<i64>)> {
        let mut from = 0;
        let mut all = Vec::new();
        for (partition, length) in &report.partitions {
            let to = from + *length as usize;
            let batches = read_all(carrier, &bytes[from..to]).unwrap();
            let values = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
            all.push((*partition, values.collect()));
            from = to;
        }
        assert_eq!(from, bytes.len());
        all
    }

    #[test]
    fn rows_arrive_in_their_partition_in_their_order() {
        let encoder = encoder(config(&[DataType::Int64], 7));
        let rows = numbers(0..1000);
        let records = records(&rows, |i| [3, 0, 6][i % 3]);
        let mut output = Vec::new();
        // SAFETY: `rows` outlives the call.
        let report = unsafe { encoder.write_sorted(&records, &mut output) }.unwrap();
        assert_eq!((report.rows, report.bytes, report.row_bytes), (1000, output.len() as u64, 16_000));
        assert_eq!(report.blocks, 12);
        let expected: Vec<(u32, Vec<i64>)> =
            [(0, 1), (3, 0), (6, 2)].map(|(p, start)| (p, (start..1000).step_by(3).collect())).into();
        assert_eq!(read_back(encoder.carrier(), &output, &report), expected);

        let checksums = encoder.checksums().unwrap();
        assert_eq!(checksums[1], 1);
        let first = &output[..report.partitions[0].1 as usize];
        assert_eq!(checksums[0], i64::from(ChecksumAlgorithm::Adler32.update(1, first)));
    }

    #[test]
    fn spills_of_a_partition_can_be_put_behind_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("partition");
        let encoder = encoder(config(&[DataType::Int64], 3));
        let mut total = 0;
        for start in [0, 500, 1000] {
            let rows = numbers(start..start + 500);
            let records = records(&rows, |_| 2);
            // SAFETY: `rows` outlives the call.
            total += unsafe { encoder.write_sorted_file(&path, start > 0, &records) }.unwrap().bytes;
        }
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, total);
        let report = SpillReport { partitions: vec![(2, total)], ..SpillReport::default() };
        let expected: Vec<(u32, Vec<i64>)> = vec![(2, (0..1500).collect())];
        assert_eq!(read_back(encoder.carrier(), &bytes, &report), expected);
        assert_eq!(encoder.checksums().unwrap()[2], i64::from(ChecksumAlgorithm::Adler32.update(1, &bytes)));
    }

    #[test]
    fn every_type_and_many_spills_give_the_same_rows_as_one() {
        let rows: Vec<Vec<u8>> = (0..200).map(|seed| row(&every_value(seed))).collect();
        let write = |pieces: usize| -> RecordBatch {
            let encoder = encoder(config(&every_type(), 1));
            let mut output = Vec::new();
            for piece in rows.chunks(rows.len() / pieces) {
                // SAFETY: `rows` outlives the call.
                unsafe { encoder.write_sorted(&records(piece, |_| 0), &mut output) }.unwrap();
            }
            concat_batches(encoder.carrier(), &read_all(encoder.carrier(), &output).unwrap()).unwrap()
        };
        assert_eq!(write(1), write(50));
    }

    #[test]
    fn a_spill_of_nothing_writes_nothing() {
        let encoder = encoder(config(&[DataType::Int64], 3));
        let mut output = Vec::new();
        // SAFETY: no records, no memory.
        let report = unsafe { encoder.write_sorted(&[], &mut output) }.unwrap();
        assert!(output.is_empty() && report.partitions.is_empty());
        assert_eq!(encoder.checksums().unwrap(), [1, 1, 1]);
    }

    #[test]
    fn null_structs_of_many_fields_make_small_batches() {
        let fields: Fields = (0..1 << 11).map(|i| Field::new(format!("f{i}"), DataType::Int64, true)).collect();
        let config = WriterConfig { batch_rows: 8192, ..config(&[DataType::Struct(fields)], 1) };
        let batches = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&batches);
        // Asked once a batch.
        let is_killed = Box::new(move || Ok(count.fetch_add(1, Ordering::Relaxed) > 1000));
        let encoder = SpillEncoder::try_new(config, is_killed).unwrap();
        let rows = vec![row(&[Value::Null]); 3000];
        let mut output = Vec::new();
        // SAFETY: `rows` outlives the call.
        unsafe { encoder.write_sorted(&records(&rows, |_| 0), &mut output) }.unwrap();
        // 16 KiB a row, 16 MiB a batch.
        assert_eq!(batches.load(Ordering::Relaxed), 3);
        let columns = read_all(encoder.carrier(), &output).unwrap();
        assert_eq!(columns.iter().map(|batch| batch.column(0).null_count()).sum::<usize>(), 3000);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let encoder = encoder(config(&[], 2));
        let records = vec![Record { address: 0, length: 0, partition: 1 }; 250];
        let mut output = Vec::new();
        // SAFETY: rows of 0 bytes are not read.
        unsafe { encoder.write_sorted(&records, &mut output) }.unwrap();
        let rows = read_all(encoder.carrier(), &output).unwrap().iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(rows, 250);
    }

    #[test]
    fn a_failed_call_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("partition");
        let encoder = encoder(config(&[DataType::Int64], 1));
        let good = numbers(0..10);
        let mut bad = records(&good, |_| 0);
        bad.push(Record { address: 0, length: 16, partition: 0 });
        // SAFETY: `good` outlives the calls; address 0 is refused.
        unsafe {
            assert!(encoder.write_sorted_file(&path, false, &bad).is_err());
            assert!(!path.exists());
            encoder.write_sorted_file(&path, false, &records(&good, |_| 0)).unwrap();
            let before = std::fs::read(&path).unwrap();
            assert!(encoder.write_sorted_file(&path, true, &bad).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), before);
            assert!(encoder.write_sorted_file(&directory.path().join("none"), true, &bad).is_err());
        }
    }

    #[test]
    fn partitions_that_do_not_exist_are_refused() {
        let encoder = encoder(config(&[DataType::Int64], 2));
        let record = Record { address: 0, length: 0, partition: 2 };
        // SAFETY: the record is refused before it is read.
        let error = unsafe { encoder.write_sorted(&[record], &mut Vec::new()) }.unwrap_err();
        assert!(matches!(error, SparkError::Invalid(_)), "{error}");
    }

    #[test]
    fn cancelled_calls_fail() {
        let encoder = encoder(config(&[DataType::Int64], 1));
        encoder.cancel();
        let rows = numbers(0..10);
        // SAFETY: `rows` outlives the call.
        let error = unsafe { encoder.write_sorted(&records(&rows, |_| 0), &mut Vec::new()) }.unwrap_err();
        assert!(matches!(error, SparkError::Cancelled));
    }

    #[test]
    fn a_killed_task_is_noticed_before_the_next_batch() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let is_killed = Box::new(move || Ok(count.fetch_add(1, Ordering::Relaxed) == 2));
        let encoder = SpillEncoder::try_new(config(&[DataType::Int64], 1), is_killed).unwrap();
        let rows = numbers(0..1000);
        // SAFETY: `rows` outlives the call.
        let error = unsafe { encoder.write_sorted(&records(&rows, |_| 0), &mut Vec::new()) }.unwrap_err();
        assert!(matches!(error, SparkError::Cancelled));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn partitions_are_written_by_several_threads_at_once() {
        let encoder = encoder(config(&[DataType::Int64], 8));
        std::thread::scope(|scope| {
            for partition in 0..8 {
                let encoder = &encoder;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let rows = numbers(0..300);
                        let mut output = Vec::new();
                        // SAFETY: `rows` outlives the call.
                        let report = unsafe { encoder.write_sorted(&records(&rows, |_| partition), &mut output) };
                        let report = report.unwrap();
                        let expected = vec![(partition, (0..300).collect::<Vec<i64>>())];
                        assert_eq!(read_back(encoder.carrier(), &output, &report), expected);
                    }
                });
            }
        });
        assert!(encoder.idle.lock().len() <= 8);
    }

    #[test]
    fn sorting_is_stable() {
        let record = |partition| Record { address: 0, length: 0, partition };
        let records: Vec<Record> = [5, 1, 5, 0, 1, 5].map(record).into();
        assert_eq!(sort_by_partition(&records, 6).unwrap(), [3, 1, 4, 0, 2, 5]);
        assert_eq!(sort_by_partition(&records[1..3], 6).unwrap(), [0, 1]);
        assert_eq!(sort_by_partition(&[], 6).unwrap(), [0u32; 0]);
        assert_eq!(size_of::<Record>(), 16);
    }
}
