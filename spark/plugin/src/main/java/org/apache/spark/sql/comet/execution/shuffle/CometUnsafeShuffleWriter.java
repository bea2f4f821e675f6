// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;
import org.apache.spark.TaskContext;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.comet.execution.shuffle.sort.CometShuffleExternalSorter;

/**
 * For many partitions: rows of all partitions in one {@link CometShuffleExternalSorter}; its spills are merged at the end, or,
 * if there was only one, its file becomes the map output as it is.
 */
public final class CometUnsafeShuffleWriter<K, V> extends RowShuffleWriter<K, V> {
  private final CometShuffleExternalSorter sorter;

  CometUnsafeShuffleWriter(
      CometShuffleDependency<K, V, V> dependency, long mapId, TaskContext task, ShuffleWriteMetricsReporter metrics,
      ShuffleExecutorComponents components) {
    super(dependency, mapId, task, metrics, components);
    this.sorter = new CometShuffleExternalSorter(context, partitions);
  }

  @Override
  protected boolean tryInsert(UnsafeRow row, int partition) throws IOException {
    return sorter.tryInsertRecord(row.getBaseObject(), row.getBaseOffset(), row.getSizeInBytes(), partition);
  }

  @Override
  protected long spillBuffers(long wanted) throws IOException {
    long freed = context.async() == null ? 0 : context.async().drain();
    return freed >= wanted ? freed : freed + sorter.spillNow();
  }

  @Override
  protected long[] commit() throws IOException {
    sorter.finish();
    return output.commitSorted(sorter);
  }

  @Override
  protected void release() {
    // The superclass may clean up after a constructor that failed before the sorter was made.
    if (sorter != null) {
      sorter.close();
      sorter.deleteFile();
    }
  }
}
