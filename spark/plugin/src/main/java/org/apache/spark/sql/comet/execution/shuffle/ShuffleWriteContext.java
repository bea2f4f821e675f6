// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.File;
import java.io.IOException;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.comet.Native;
import org.apache.comet.ProtoWriter;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.sql.comet.execution.CometNativeTask;
import org.apache.spark.sql.comet.execution.arrow.InputFailures;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What the parts of one map task's writer share: the native writer, settings, memory, threads, metrics. One a task attempt. */
public final class ShuffleWriteContext {
  private static final Logger LOG = LoggerFactory.getLogger(ShuffleWriteContext.class);

  private final SparkEnv env = SparkEnv.get();
  private final CometShuffleDependency<?, ?, ?> dependency;
  private final TaskContext task;
  private final ShuffleWriteMetricsReporter metrics;
  private final CometShuffleMemoryAllocator allocator;
  private final long writer;
  private final AsyncSpills async;
  // Counted by whichever thread writes; given to Spark's metrics, which are not thread-safe, by the task's thread.
  private final AtomicLong memorySpilled = new AtomicLong();
  private final AtomicLong diskSpilled = new AtomicLong();
  private final AtomicLong spills = new AtomicLong();
  private final AtomicLong encodeNanos = new AtomicLong();
  private final AtomicLong writeNanos = new AtomicLong();
  private volatile Throwable broken;

  ShuffleWriteContext(CometShuffleDependency<?, ?, ?> dependency, TaskContext task, ShuffleWriteMetricsReporter metrics) {
    this.dependency = dependency;
    this.task = task;
    this.metrics = metrics;
    this.allocator = new CometShuffleMemoryAllocator(task.taskMemoryManager());
    CometShuffleSettings settings = dependency.settings();
    this.writer = Native.createShuffleWriter(config(), new CometNativeTask(task, new InputFailures()));
    this.async =
        settings.asyncEnabled()
            ? new AsyncSpills(
                ShuffleThreadPool.get(settings.asyncMaxThreads()), task, settings.asyncThreads(),
                () -> Native.cancelShuffleWriter(writer))
            : null;
  }

  public CometShuffleSettings settings() {
    return dependency.settings();
  }

  CometShuffleMemoryAllocator allocator() {
    return allocator;
  }

  /** Handle of the native writer, which knows the partitions by their true numbers. */
  long writer() {
    return writer;
  }

  /** Null if spills are synchronous. */
  AsyncSpills async() {
    return async;
  }

  SerializerManager serializerManager() {
    return env.serializerManager();
  }

  boolean encrypted() {
    return env.serializerManager().encryptionEnabled();
  }

  File createTempFile() {
    return env.blockManager().diskBlockManager().createTempShuffleBlock()._2();
  }

  private byte[] config() {
    CometShuffleSettings settings = dependency.settings();
    return new ProtoWriter()
        .bytes(1, dependency.arrowSchema())
        .uint32(2, dependency.partitioner().numPartitions())
        .string(3, settings.codec())
        .int32(4, settings.zstdLevel())
        .uint32(5, settings.batchSize())
        // Under encryption the checksum is of the encrypted bytes, which only the merge sees.
        .string(6, encrypted() ? "" : settings.checksumAlgorithm())
        .toByteArray();
  }

  /** A spill failed, with which rows are gone: the task must fail, whoever caught {@code cause} meanwhile. From any thread. */
  void broke(Throwable cause) {
    broken = cause;
  }

  /** Throws if a spill of this task has failed. Cheap: one volatile read. */
  void checkUsable() throws IOException {
    Throwable cause = broken;
    if (cause instanceof Error error) {
      throw error;
    }
    if (cause != null) {
      throw new IOException("an earlier spill of this task failed", cause);
    }
  }

  /** Throws Spark's own exception if the task was killed. */
  void checkKilled() {
    task.killTaskIfInterrupted();
  }

  /**
   * {@code report}: what native code returned for a buffer of {@code memory} bytes that became {@code disk} bytes.
   *
   * @param isSpill false: it was written because a batch was full or the rows are over, which Spark does not call a spill
   */
  void written(long[] report, long memory, long disk, boolean isSpill) {
    encodeNanos.addAndGet(report[Native.ENCODE_NANOS]);
    writeNanos.addAndGet(report[Native.WRITE_NANOS]);
    if (isSpill) {
      spills.incrementAndGet();
      memorySpilled.addAndGet(memory);
      diskSpilled.addAndGet(disk);
    }
  }

  void merged(long nanos) {
    writeNanos.addAndGet(nanos);
  }

  /** Passes the counters on. On the task's thread, once. */
  void publish() {
    TaskMetrics taskMetrics = task.taskMetrics();
    taskMetrics.incMemoryBytesSpilled(memorySpilled.get());
    taskMetrics.incDiskBytesSpilled(diskSpilled.get());
    taskMetrics.incPeakExecutionMemory(allocator.peakBytes());
    metrics.incWriteTime(writeNanos.get());
    dependency.writeMetrics().encodeTime().add(encodeNanos.get());
    dependency.writeMetrics().spills().add(spills.get());
    dependency.writeMetrics().peakMemory().set(allocator.peakBytes());
  }

  /** Frees the native writer. Once, and only when nothing writes any more. */
  void close() {
    Native.releaseShuffleWriter(writer);
  }

  void logUndeleted(File file) {
    LOG.warn("cannot delete the temporary shuffle file {}", file);
  }
}
