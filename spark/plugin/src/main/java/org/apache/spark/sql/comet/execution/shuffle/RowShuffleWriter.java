// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;
import javax.annotation.Nullable;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.shuffle.checksum.RowBasedChecksum;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.util.TaskCompletionListener;
import scala.Option;
import scala.Product2;
import scala.collection.Iterator;

/**
 * What both writers of rows do alike: take rows from Spark, ask its partitioner, make room when memory is short, commit,
 * count, and clean up on every way out.
 */
abstract class RowShuffleWriter<K, V> extends ShuffleWriter<K, V> {
  protected final CometShuffleDependency<K, V, V> dependency;
  protected final ShuffleWriteContext context;
  protected final MapOutput output;
  protected final int partitions;
  private final long mapId;
  private final ShuffleWriteMetricsReporter metrics;
  private long[] partitionLengths;
  @Nullable private MapStatus status;
  private boolean closed;

  RowShuffleWriter(
      CometShuffleDependency<K, V, V> dependency, long mapId, TaskContext task, ShuffleWriteMetricsReporter metrics,
      ShuffleExecutorComponents components) {
    this.dependency = dependency;
    this.mapId = mapId;
    this.metrics = metrics;
    this.partitions = dependency.partitioner().numPartitions();
    this.context = new ShuffleWriteContext(dependency, task, metrics);
    this.output = new MapOutput(components, context, dependency.shuffleId(), mapId, partitions);
    context.allocator().setSpillable(this::spillBuffers);
    // Also when the task dies between `write` and `stop`: idempotent.
    TaskCompletionListener atEnd = ended -> cleanUp();
    task.addTaskCompletionListener(atEnd);
  }

  /** False if there is no memory for the row. */
  protected abstract boolean tryInsert(UnsafeRow row, int partition) throws IOException;

  /** Gives back at least {@code wanted} bytes if it can; returns what it gave. On the task's thread. */
  protected abstract long spillBuffers(long wanted) throws IOException;

  /** Writes what is left and makes the map output; returns bytes per partition. */
  protected abstract long[] commit() throws IOException;

  /** Frees buffers and deletes files; nothing runs beside any more. Idempotent. */
  protected abstract void release();

  @Override
  public final void write(Iterator<Product2<K, V>> records) throws IOException {
    RowBasedChecksum[] rowChecksums = dependency.rowBasedChecksums();
    int batchSize = context.settings().batchSize();
    long rows = 0;
    long dataSize = 0;
    while (records.hasNext()) {
      Product2<K, V> record = records.next();
      K key = record._1();
      int partition = dependency.partitioner().getPartition(key);
      // Spark's operators hand UnsafeRows to an exchange; its own serializer for shuffles relies on the same.
      UnsafeRow row = (UnsafeRow) record._2();
      if (!tryInsert(row, partition)) {
        makeRoomAndInsert(row, partition);
      }
      if (rowChecksums.length > 0) {
        rowChecksums[partition].update(key, row);
      }
      rows++;
      dataSize += row.getSizeInBytes();
      if (rows % batchSize == 0) {
        // Not every operator asks, and it may be long until native code does.
        context.checkKilled();
      }
    }
    partitionLengths = rows == 0 ? output.commitEmpty() : commit();
    metrics.incRecordsWritten(rows);
    long bytes = 0;
    for (long length : partitionLengths) {
      bytes += length;
    }
    metrics.incBytesWritten(bytes);
    dependency.writeMetrics().dataSize().add(dataSize);
    context.publish();
    status =
        MapStatus.apply(
            SparkEnv.get().blockManager().shuffleServerId(), partitionLengths, mapId,
            RowBasedChecksum.getAggregatedChecksumValue(rowChecksums));
    cleanUp();
  }

  @Override
  public final Option<MapStatus> stop(boolean success) {
    cleanUp();
    return success ? Option.apply(status) : Option.empty();
  }

  @Override
  public final long[] getPartitionLengths() {
    return partitionLengths;
  }

  private void makeRoomAndInsert(UnsafeRow row, int partition) throws IOException {
    // A page and an index; where that was not enough, all that this task has buffered.
    long[] attempts = {row.getSizeInBytes() + 2 * CometShuffleMemoryAllocator.FIRST_PAGE_BYTES, Long.MAX_VALUE};
    for (long wanted : attempts) {
      spillBuffers(wanted);
      if (tryInsert(row, partition)) {
        return;
      }
    }
    throw CometShuffleMemoryAllocator.outOfMemory(row.getSizeInBytes());
  }

  private void cleanUp() {
    if (!closed) {
      closed = true;
      try {
        if (context.async() != null) {
          context.async().cancelAndJoin();
        }
        release();
      } finally {
        context.close();
      }
    }
  }
}
