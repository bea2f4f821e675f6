// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;

/** The rows of one partition, for {@link CometBypassMergeSortShuffleWriter}; a block for every full batch of rows. */
public final class CometDiskBlockWriter extends SpillWriter {
  private final int partition;
  private final long batchRows;
  private final long spillRows;

  CometDiskBlockWriter(ShuffleWriteContext context, int partition) {
    super(context, partition, 1);
    this.partition = partition;
    this.batchRows = context.settings().batchSize();
    this.spillRows = context.settings().spillThreshold();
  }

  /** False if there is no memory for the row. */
  boolean tryInsertRow(Object base, long offset, int length) throws IOException {
    if (!tryInsert(base, offset, length, partition)) {
      return false;
    }
    if (bufferedRows() >= spillRows) {
      doSpilling(Reason.THRESHOLD);
    } else if (bufferedRows() >= batchRows) {
      doSpilling(Reason.BATCH);
    }
    return true;
  }

  long spillNow() throws IOException {
    return doSpilling(Reason.MEMORY);
  }

  /** Writes the last rows; {@link #finish} waits for them. */
  void flush() throws IOException {
    doSpilling(Reason.END);
  }

  long memoryBytes() {
    return bufferedBytes();
  }
}
