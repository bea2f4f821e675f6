// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle.sort;

import java.io.IOException;
import org.apache.spark.sql.comet.execution.shuffle.ShuffleWriteContext;
import org.apache.spark.sql.comet.execution.shuffle.SpillWriter;

/**
 * Rows of all partitions, sorted by partition when they are written.
 *
 * <p>A spill is one call into native code for all its partitions: native code counts and places the 16-byte index entries by
 * partition, then encodes. All spills are appended to one file, so that thousands of them need one descriptor.
 */
public final class CometShuffleExternalSorter extends SpillWriter {
  private final long spillRows;

  public CometShuffleExternalSorter(ShuffleWriteContext context, int partitions) {
    super(context, 0, partitions);
    this.spillRows = context.settings().spillThreshold();
  }

  /** False if there is no memory for the row. */
  public boolean tryInsertRecord(Object base, long offset, int length, int partition) throws IOException {
    if (!tryInsert(base, offset, length, partition)) {
      return false;
    }
    if (bufferedRows() >= spillRows) {
      doSpilling(Reason.THRESHOLD);
    }
    return true;
  }

  public long spillNow() throws IOException {
    return doSpilling(Reason.MEMORY);
  }
}
