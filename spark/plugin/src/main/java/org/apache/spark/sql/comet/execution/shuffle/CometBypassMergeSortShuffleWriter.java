// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Objects;
import org.apache.spark.TaskContext;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;

/**
 * For few partitions: one {@link CometDiskBlockWriter} and file per partition that has rows; the files are concatenated at the
 * end. When memory is short the largest writers are spilled first, those of this task only.
 */
public final class CometBypassMergeSortShuffleWriter<K, V> extends RowShuffleWriter<K, V> {
  private final CometDiskBlockWriter[] writers;

  CometBypassMergeSortShuffleWriter(
      CometShuffleDependency<K, V, V> dependency, long mapId, TaskContext task, ShuffleWriteMetricsReporter metrics,
      ShuffleExecutorComponents components) {
    super(dependency, mapId, task, metrics, components);
    this.writers = new CometDiskBlockWriter[partitions];
  }

  @Override
  protected boolean tryInsert(UnsafeRow row, int partition) throws IOException {
    CometDiskBlockWriter writer = writers[partition];
    if (writer == null) {
      writer = new CometDiskBlockWriter(context, partition);
      writers[partition] = writer;
    }
    return writer.tryInsertRow(row.getBaseObject(), row.getBaseOffset(), row.getSizeInBytes());
  }

  @Override
  protected long spillBuffers(long wanted) throws IOException {
    long freed = context.async() == null ? 0 : context.async().drain();
    if (freed >= wanted) {
      return freed;
    }
    CometDiskBlockWriter[] largestFirst =
        Arrays.stream(writers)
            .filter(Objects::nonNull)
            .sorted(Comparator.comparingLong(CometDiskBlockWriter::memoryBytes).reversed())
            .toArray(CometDiskBlockWriter[]::new);
    for (CometDiskBlockWriter writer : largestFirst) {
      if (freed >= wanted) {
        break;
      }
      freed += writer.spillNow();
    }
    return freed;
  }

  @Override
  protected long[] commit() throws IOException {
    for (CometDiskBlockWriter writer : writers) {
      if (writer != null) {
        writer.flush();
      }
    }
    for (CometDiskBlockWriter writer : writers) {
      if (writer != null) {
        writer.finish();
      }
    }
    return output.commitPartitions(writers);
  }

  @Override
  protected void release() {
    // The superclass may clean up after a constructor that failed before the array was made.
    if (writers == null) {
      return;
    }
    for (CometDiskBlockWriter writer : writers) {
      if (writer != null) {
        writer.close();
        writer.deleteFile();
      }
    }
  }
}
