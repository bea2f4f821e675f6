// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.comet.BlockSink;
import org.apache.comet.Native;
import org.apache.spark.TaskKilledException;

/**
 * Rows into pages, pages into one file.
 *
 * <p>A writer has one active {@link RowBuffer} and one file, to which its spills are appended in order: at once, or by its lane
 * of {@link AsyncSpills}. Spills forced by lack of memory are always done at once.
 *
 * <p><b>Invariant:</b> a failed append poisons the task, because its rows are gone; nothing is retried. Spark may have asked for
 * the spill on behalf of another consumer, which may go on without the memory: so the next call here fails too.
 */
public abstract class SpillWriter {
  protected final ShuffleWriteContext context;
  private final int firstPartition;
  private final int partitions;
  private final File file;
  private final AsyncSpills.Lane lane;
  private RowBuffer active;
  // Written by the one appender; read by the task's thread after a drain, whose semaphore orders the two.
  private final List<SpillInfo> spills = new ArrayList<>();
  private long written;
  private boolean closed;

  /** Why a buffer is written. */
  protected enum Reason {
    /** Memory is short: it is free when the call returns. */
    MEMORY,
    /** So many rows are not to be held. */
    THRESHOLD,
    /** The rows of a block are there. */
    BATCH,
    /** The rows are over. */
    END;

    /** Whether Spark calls it a spill. */
    boolean isSpill() {
      return this == MEMORY || this == THRESHOLD;
    }
  }

  /** For {@code partitions} partitions from {@code firstPartition} on. */
  protected SpillWriter(ShuffleWriteContext context, int firstPartition, int partitions) {
    this.context = context;
    this.firstPartition = firstPartition;
    this.partitions = partitions;
    this.file = context.createTempFile();
    this.active = new RowBuffer(context.allocator());
    this.lane = context.async() == null ? null : context.async().new Lane(this::appendAside);
  }

  /** False if there is no memory: the owner spills, here or in a larger writer, and comes again. */
  protected final boolean tryInsert(Object base, long offset, int length, int partition) throws IOException {
    context.checkUsable();
    context.allocator().setInserting(true);
    try {
      return active.append(base, offset, length, partition);
    } finally {
      context.allocator().setInserting(false);
    }
  }

  protected final long bufferedRows() {
    return active.rows();
  }

  protected final long bufferedBytes() {
    return active.bytes();
  }

  /** Writes the active buffer out, by a lane if memory is not short, and starts a new one; returns bytes freed by this call. */
  protected final long doSpilling(Reason reason) throws IOException {
    context.checkUsable();
    RowBuffer buffer = active;
    if (buffer.rows() == 0) {
      long bytes = buffer.bytes();
      buffer.free();
      return bytes;
    }
    active = new RowBuffer(context.allocator());
    buffer.setSpill(reason.isSpill());
    if (reason != Reason.MEMORY && lane != null) {
      try {
        context.async().submit(lane, buffer);
      } catch (IOException | RuntimeException | Error e) {
        context.broke(e);
        buffer.free();
        throw e;
      }
      return 0;
    }
    long freed = 0;
    long bytes = buffer.bytes();
    try {
      if (lane != null) {
        freed = context.async().drain();
      }
      append(buffer);
    } catch (IOException | RuntimeException | Error e) {
      context.broke(e);
      throw e;
    } finally {
      buffer.free();
    }
    return freed + bytes;
  }

  /** The last spill. After it the file is complete and nothing is on its way. */
  public final void finish() throws IOException {
    doSpilling(Reason.END);
    if (lane != null) {
      context.async().drain();
    }
    if (file.length() != written) {
      throw new IOException(
          "a spill file has " + file.length() + " bytes, but " + written + " were written: " + file);
    }
    if (context.settings().sync() && written > 0) {
      try (FileOutputStream out = new FileOutputStream(file, true)) {
        out.getFD().sync();
      }
    }
  }

  final File file() {
    return file;
  }

  final List<SpillInfo> spills() {
    return spills;
  }

  final long writtenBytes() {
    return written;
  }

  /** Frees memory; the file stays. Only after {@link AsyncSpills#cancelAndJoin} or {@link #finish}. Idempotent. */
  public final void close() {
    if (!closed) {
      closed = true;
      active.free();
    }
  }

  public final void deleteFile() {
    if (file.exists() && !file.delete()) {
      context.logUndeleted(file);
    }
  }

  private void appendAside(RowBuffer buffer) throws IOException {
    try {
      append(buffer);
    } catch (IOException | RuntimeException | Error e) {
      context.broke(e);
      throw e;
    }
  }

  private void append(RowBuffer buffer) throws IOException {
    long[] bytes = new long[partitions];
    long[] report;
    try {
      report = context.encrypted() ? appendEncrypted(buffer, bytes) : appendPlain(buffer, bytes);
    } catch (TaskKilledException killed) {
      // Native code knows that, not why.
      context.checkKilled();
      throw killed;
    }
    SpillInfo spill = new SpillInfo(written, bytes);
    spills.add(spill);
    written += spill.length();
    context.written(report, buffer.bytes(), spill.length(), buffer.isSpill());
  }

  private long[] appendPlain(RowBuffer buffer, long[] bytes) throws IOException {
    long[] report =
        Native.writeSortedFileNative(context.writer(), file.getPath(), written > 0, buffer.indexAddress(), buffer.rows());
    for (int pair = Native.FIRST_PAIR; pair < report.length; pair += 2) {
      bytes[Math.toIntExact(report[pair]) - firstPartition] = report[pair + 1];
    }
    return report;
  }

  /** Each partition of each spill is an encrypted stream of its own, because a stream begins with its initial vector. */
  private long[] appendEncrypted(RowBuffer buffer, long[] bytes) throws IOException {
    try (FileOutputStream out = new FileOutputStream(file, true);
        EncryptedSink sink = new EncryptedSink(out, bytes)) {
      return Native.writeSortedSinkNative(context.writer(), sink, buffer.indexAddress(), buffer.rows());
    }
  }

  private final class EncryptedSink implements BlockSink, AutoCloseable {
    private final FileOutputStream file;
    private final long[] bytes;
    private OutputStream stream;
    private int partition = -1;
    private long begin;

    EncryptedSink(FileOutputStream file, long[] bytes) {
      this.file = file;
      this.bytes = bytes;
    }

    @Override
    public void write(long next, byte[] block, long length) throws IOException {
      if (next != partition) {
        close();
        partition = Math.toIntExact(next);
        begin = file.getChannel().position();
        stream = context.serializerManager().wrapForEncryption(new KeepOpen(file));
      }
      stream.write(block, 0, Math.toIntExact(length));
    }

    @Override
    public void close() throws IOException {
      if (stream != null) {
        OutputStream done = stream;
        stream = null;
        done.close();
        bytes[partition - firstPartition] += file.getChannel().position() - begin;
      }
    }
  }

  @Override
  public String toString() {
    return getClass().getSimpleName() + "(" + file.getName() + ", " + Arrays.asList(bufferedRows(), bufferedBytes()) + ")";
  }
}
