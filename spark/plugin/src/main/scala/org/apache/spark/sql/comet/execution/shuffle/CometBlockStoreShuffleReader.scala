// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.InputStream

import org.apache.comet.CometArrowAllocator

import org.apache.spark.{InterruptibleIterator, SparkEnv, TaskContext}
import org.apache.spark.internal.config
import org.apache.spark.shuffle.{ShuffleReader, ShuffleReadMetricsReporter}
import org.apache.spark.storage.{BlockId, BlockManagerId, ShuffleBlockFetcherIterator}
import org.apache.spark.util.{Clock, CompletionIterator, SystemClock}

/** Fetches with Spark's own fetcher and decodes to `ColumnarBatch`es. */
private[spark] class CometBlockStoreShuffleReader[K, C](
    dependency: CometShuffleDependency[K, _, C],
    blocks: Iterator[(BlockManagerId, collection.Seq[(BlockId, Long, Int)])],
    context: TaskContext,
    metrics: ShuffleReadMetricsReporter,
    mayBatchFetch: Boolean)
    extends ShuffleReader[K, C] {

  /** Our blocks are complete and relocatable whatever the codec, so Spark's condition on codecs falls away. */
  private def batchFetch: Boolean = {
    val conf = SparkEnv.get.conf
    mayBatchFetch && !conf.get(config.SHUFFLE_USE_OLD_FETCH_PROTOCOL) && !conf.get(config.IO_ENCRYPTION_ENABLED)
  }

  private def fetched: Iterator[(BlockId, InputStream)] = {
    val env = SparkEnv.get
    val conf = env.conf
    new ShuffleBlockFetcherIterator(
      context,
      env.blockManager.blockStoreClient,
      env.blockManager,
      env.mapOutputTracker,
      blocks,
      (_, stream) => new BlockStream(env.serializerManager.wrapForEncryption(stream)),
      conf.get(config.REDUCER_MAX_SIZE_IN_FLIGHT) * 1024 * 1024,
      conf.get(config.REDUCER_MAX_REQS_IN_FLIGHT),
      conf.get(config.REDUCER_MAX_BLOCKS_IN_FLIGHT_PER_ADDRESS),
      conf.get(config.MAX_REMOTE_BLOCK_SIZE_FETCH_TO_MEM),
      conf.get(config.SHUFFLE_MAX_ATTEMPTS_ON_NETTY_OOM),
      conf.get(config.SHUFFLE_DETECT_CORRUPT),
      conf.get(config.SHUFFLE_DETECT_CORRUPT_MEMORY),
      conf.get(config.SHUFFLE_CHECKSUM_ENABLED),
      conf.get(config.SHUFFLE_CHECKSUM_ALGORITHM),
      metrics,
      batchFetch,
      new SystemClock: Clock).toCompletionIterator
  }

  override def read(): Iterator[Product2[K, C]] = {
    val streams = fetched.map(_._2)
    val allocator = CometArrowAllocator.child(s"shuffle-read-${context.taskAttemptId()}")
    context.addTaskCompletionListener[Unit](_ => allocator.close())
    val decoder = new BlockDecoder(dependency.arrowSchema, allocator, dependency.decodeTime)
    val batches = new NativeBatchDecoderIterator(streams, decoder, dependency.settings.batchSize)
    // It closes itself at its end, because a task may read many shuffles in turn; this is for failures and early ends, and
    // runs before what was registered earlier.
    context.addTaskCompletionListener[Unit](_ => batches.close())
    val counted = batches.map { batch =>
      metrics.incRecordsRead(batch.numRows)
      (null.asInstanceOf[K], batch.asInstanceOf[C])
    }
    val completed = CompletionIterator[Product2[K, C], Iterator[Product2[K, C]]](
      counted, context.taskMetrics().mergeShuffleReadMetrics())
    new InterruptibleIterator[Product2[K, C]](context, completed)
  }
}
