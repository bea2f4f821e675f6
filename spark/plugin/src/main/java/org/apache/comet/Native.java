// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

import java.io.IOException;

/**
 * The whole surface between the JVM and {@code libballista_spark}.
 *
 * <p>Rules that every entry keeps:
 *
 * <ul>
 *   <li>few arguments; settings and plans travel as one protobuf message ({@link ProtoWriter}), never as positions;
 *   <li>the library registers the methods by name and descriptor when it is loaded, so a signature that differs from the Rust
 *       side fails then, not at the first call;
 *   <li>handles are owned by the caller and freed exactly once by the matching {@code release…};
 *   <li>a panic or an error in native code arrives as a Java exception: {@link IOException} for I/O and for data that does not
 *       decode, Spark's {@code TaskKilledException} if the task was killed, {@link CometNativeException} for the rest; a Java
 *       exception that crossed native code is the same object.
 * </ul>
 */
public final class Native {
  /** What {@link #executePlan} returns at the end. */
  public static final long END = -1;

  /** In the result of {@link #writeSortedFileNative}: nanoseconds of encoding and compression. */
  public static final int ENCODE_NANOS = 4;

  /** In the result of {@link #writeSortedFileNative}: nanoseconds of writing, or inside the sink. */
  public static final int WRITE_NANOS = 5;

  /** In the result of {@link #writeSortedFileNative}: here (partition, bytes) pairs begin. */
  public static final int FIRST_PAIR = 6;

  private Native() {}

  static {
    NativeLibrary.load();
  }

  /** Loads the library now; an executor that cannot must not start. */
  public static void load() {}

  /** Stops worker threads; a later plan starts them again. */
  public static native void stopRuntime();

  /** Native objects that are alive, for tests of leaks. */
  public static native long liveHandles();

  // --- shuffle, rows to blocks ---

  /**
   * The encoder of one map task. Thread-safe, but what touches one partition must come one after the other, in row order.
   *
   * @param config {@code ShuffleWriterMessage}: 1 bytes schema (Arrow IPC schema message), 2 uint32 partitions, 3 string codec,
   *     4 int32 zstd level, 5 uint32 rows of a batch, 6 string checksum (empty = none)
   * @param task asked before each batch whether it was killed, from every thread that writes
   */
  public static native long createShuffleWriter(byte[] config, NativeTask task);

  /**
   * Writes rows as blocks to {@code path}, partitions in ascending order, the rows of a partition in theirs.
   *
   * @param append false: the file is created or replaced; a failed call leaves it as it was
   * @param records address of {@code count} entries of 16 bytes: {@code u64} address of the UnsafeRow, {@code u32} its length,
   *     {@code u32} its partition; native order. Not modified
   * @return bytes, rows, row bytes, blocks, encode nanoseconds, write nanoseconds, then (partition, bytes) of each partition
   *     that got rows, ascending
   */
  public static native long[] writeSortedFileNative(long writer, String path, boolean append, long records, long count)
      throws IOException;

  /** As {@link #writeSortedFileNative}, into a sink instead of a file: for data that must not reach a disk as it is. */
  public static native long[] writeSortedSinkNative(long writer, BlockSink sink, long records, long count) throws IOException;

  /** Per partition, of everything written to files so far, as the JDK's {@code Checksum.getValue}; null if they are off. */
  public static native long[] shuffleChecksums(long writer);

  /** From any thread: running and later writes fail soon. */
  public static native void cancelShuffleWriter(long writer);

  public static native void releaseShuffleWriter(long writer);

  // --- shuffle, blocks to batches ---

  /** A decoder of blocks of one schema, an Arrow IPC schema message. */
  public static native long createShuffleReader(byte[] schema);

  /**
   * Decodes one or more blocks, whole and behind each other, as one batch into the empty {@code ArrowArray} at {@code array}: a
   * struct with one child a column.
   *
   * @param blocks its first {@code length} bytes are the blocks; they are copied
   * @return rows
   */
  public static native long decodeShuffleBlock(long reader, byte[] blocks, long length, long array) throws IOException;

  public static native void releaseShuffleReader(long reader);

  // --- plans ---

  /**
   * Starts a plan of one partition.
   *
   * @param plan {@code PlanMessage} of {@code spark/native/src/plan.rs}
   * @param streams an {@code org.apache.arrow.c.ArrowArrayStream} a scan; their streams are native code's from here on, also if
   *     this throws
   */
  public static native long createPlan(byte[] plan, Object[] streams, NativeTask task);

  /** Exports the schema of the plan's batches to the empty {@code ArrowSchema} at {@code schema}. */
  public static native void planSchema(long plan, long schema);

  /**
   * Runs the plan on the calling task thread until its next batch; inputs are pulled on this thread only.
   *
   * @param array address of an empty {@code ArrowArray}, filled with a struct of the batch's columns
   * @return rows, or {@link #END}, when nothing is filled
   */
  public static native long executePlan(long plan, long array);

  /** (output rows, compute nanoseconds) of each operator, in pre-order. */
  public static native long[] planMetrics(long plan);

  /** Waits for what runs, closes the inputs on this thread, then frees. */
  public static native void releasePlan(long plan);
}
