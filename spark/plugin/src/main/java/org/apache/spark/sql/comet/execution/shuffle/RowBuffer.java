// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.memory.MemoryBlock;

/**
 * Rows of one coming spill, in off-heap pages, with an index that native code reads as it is.
 *
 * <pre>
 *   pages   │ UnsafeRow │ UnsafeRow │ …            8-byte aligned, no headers: sizes of UnsafeRows are multiples of 8
 *   index   │ address u64 │ length u32 │ partition u32 │ …   16 bytes a row, native order
 * </pre>
 *
 * <p>Filled by the task's thread, read by at most one appender after that, freed by the task's thread.
 */
final class RowBuffer {
  static final int INDEX_ENTRY_BYTES = 16;
  private static final long FIRST_INDEX_ROWS = 1024;

  private final CometShuffleMemoryAllocator allocator;
  private final List<MemoryBlock> pages = new ArrayList<>();
  private long nextPageBytes = CometShuffleMemoryAllocator.FIRST_PAGE_BYTES;
  private long cursor;
  private long pageEnd;
  private MemoryBlock index;
  private long indexCapacity;
  private long rows;
  private long allocated;
  private boolean spill;

  RowBuffer(CometShuffleMemoryAllocator allocator) {
    this.allocator = allocator;
  }

  /** Copies one row in; false, with nothing changed that matters, if there is no memory for it. */
  boolean append(Object base, long offset, int length, int partition) {
    if (rows == indexCapacity && !growIndex()) {
      return false;
    }
    if (pageEnd - cursor < length && !addPage(length)) {
      return false;
    }
    Platform.copyMemory(base, offset, null, cursor, length);
    long entry = index.getBaseOffset() + rows * INDEX_ENTRY_BYTES;
    Platform.putLong(null, entry, cursor);
    Platform.putInt(null, entry + 8, length);
    Platform.putInt(null, entry + 12, partition);
    // The next row starts aligned whatever the length of this one.
    cursor += (length + 7L) & ~7L;
    rows++;
    return true;
  }

  long rows() {
    return rows;
  }

  /** Whether writing it counts as a spill; set before it is handed over. */
  void setSpill(boolean spill) {
    this.spill = spill;
  }

  boolean isSpill() {
    return spill;
  }

  /** Bytes of execution memory held. */
  long bytes() {
    return allocated;
  }

  long indexAddress() {
    return index.getBaseOffset();
  }

  /** Idempotent. On the task's thread, and only when no appender reads this buffer any more. */
  void free() {
    for (MemoryBlock page : pages) {
      allocator.free(page);
    }
    pages.clear();
    if (index != null) {
      allocator.free(index);
      index = null;
    }
    cursor = pageEnd = indexCapacity = rows = allocated = 0;
  }

  private boolean addPage(int length) {
    // Room for the padding after the last row of a page too, so that `cursor` never passes `pageEnd`.
    long required = (Math.max(length, 1) + 7L) & ~7L;
    MemoryBlock page = allocator.tryAllocate(nextPageBytes, required);
    if (page == null) {
      return false;
    }
    pages.add(page);
    allocated += page.size();
    cursor = page.getBaseOffset();
    pageEnd = cursor + (page.size() & ~7L);
    nextPageBytes = Math.min(allocator.maxPageBytes(), nextPageBytes * 2);
    return true;
  }

  private boolean growIndex() {
    long capacity = Math.max(FIRST_INDEX_ROWS, indexCapacity * 2);
    long bytes = capacity * INDEX_ENTRY_BYTES;
    MemoryBlock grown = allocator.tryAllocate(bytes, bytes);
    if (grown == null) {
      return false;
    }
    if (index != null) {
      Platform.copyMemory(null, index.getBaseOffset(), null, grown.getBaseOffset(), rows * INDEX_ENTRY_BYTES);
      allocated -= index.size();
      allocator.free(index);
    }
    index = grown;
    indexCapacity = capacity;
    allocated += grown.size();
    return true;
  }
}
