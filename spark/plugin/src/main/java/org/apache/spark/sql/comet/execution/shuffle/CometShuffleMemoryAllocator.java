// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;
import java.util.Map;
import org.apache.spark.memory.MemoryConsumer;
import org.apache.spark.memory.MemoryMode;
import org.apache.spark.memory.SparkOutOfMemoryError;
import org.apache.spark.memory.TaskMemoryManager;
import org.apache.spark.unsafe.memory.MemoryBlock;

/**
 * Off-heap pages for the shuffle writers of one task, out of Spark's execution memory.
 *
 * <p>A refused page is {@code null}, not an exception: the writer then spills and asks again. Spark may ask this consumer to
 * spill when another consumer <em>of the same task</em> needs memory (an upstream sort, say, while it produces the next row);
 * that is served by {@link Spillable}, on the task's thread and never in the middle of an insert. Other tasks' memory is
 * Spark's business: writers of different tasks do not know each other.
 *
 * <p><b>Invariant:</b> only the task's thread calls this class. Spark calls {@link #spill} under a lock of its task memory
 * manager; a spill that waited for another thread which frees a page would never return.
 */
public final class CometShuffleMemoryAllocator extends MemoryConsumer {
  /** What can give memory back. */
  @FunctionalInterface
  interface Spillable {
    /** Spills until at least {@code wanted} bytes are free or nothing is left; returns bytes freed. */
    long spill(long wanted) throws IOException;
  }

  /** Pages start this small, so that a writer with 200 partitions does not take 200 full pages for its first 200 rows. */
  static final long FIRST_PAGE_BYTES = 64 * 1024;

  private static final long LARGEST_PAGE_BYTES = 128L * 1024 * 1024;

  /** Spark numbers the pages of a task up to 8192, and others take some too. */
  private static final int MOST_PAGES = 6000;

  private final Thread owner = Thread.currentThread();
  private final long maxPageBytes;
  private Spillable spillable = wanted -> 0;
  private boolean inserting;
  private long peak;
  private int pages;

  CometShuffleMemoryAllocator(TaskMemoryManager memory) {
    super(memory, Math.min(LARGEST_PAGE_BYTES, memory.pageSizeBytes()), MemoryMode.OFF_HEAP);
    if (memory.getTungstenMemoryMode() != MemoryMode.OFF_HEAP) {
      throw new IllegalStateException(
          "columnar shuffle needs off-heap memory (hint: spark.memory.offHeap.enabled=true and spark.memory.offHeap.size)");
    }
    this.maxPageBytes = Math.min(LARGEST_PAGE_BYTES, memory.pageSizeBytes());
  }

  void setSpillable(Spillable spillable) {
    this.spillable = spillable;
  }

  /** Between {@code true} and {@code false} Spark's requests to spill are refused: a row is being placed. */
  void setInserting(boolean inserting) {
    this.inserting = inserting;
  }

  long maxPageBytes() {
    return maxPageBytes;
  }

  long peakBytes() {
    return peak;
  }

  /** A page of at least {@code required} bytes, at best {@code wanted}; null if Spark has no more. */
  MemoryBlock tryAllocate(long wanted, long required) {
    if (required > TaskMemoryManager.MAXIMUM_PAGE_SIZE_BYTES || pages >= MOST_PAGES) {
      return null;
    }
    MemoryBlock page = taskMemoryManager.allocatePage(Math.max(wanted, required), this);
    if (page == null) {
      return null;
    }
    if (page.size() < required) {
      taskMemoryManager.freePage(page, this);
      return null;
    }
    used += page.size();
    pages++;
    peak = Math.max(peak, used);
    return page;
  }

  void free(MemoryBlock page) {
    pages--;
    freePage(page);
  }

  /** The error for a row that does not fit although nothing is left to spill. */
  static SparkOutOfMemoryError outOfMemory(long required) {
    return new SparkOutOfMemoryError(
        "UNABLE_TO_ACQUIRE_MEMORY", Map.of("requestedBytes", Long.toString(required), "receivedBytes", "0"));
  }

  @Override
  public long spill(long size, MemoryConsumer trigger) throws IOException {
    if (trigger == this || inserting || Thread.currentThread() != owner) {
      return 0;
    }
    return spillable.spill(size);
  }

  @Override
  public String toString() {
    return "CometShuffleMemoryAllocator@" + Integer.toHexString(System.identityHashCode(this));
  }
}
