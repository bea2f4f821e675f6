// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.comet.CometConf

import org.apache.spark.{CometPlugin, ShuffleDependency, SparkConf, SparkEnv, TaskContext}
import org.apache.spark.internal.config
import org.apache.spark.shuffle._
import org.apache.spark.shuffle.api.ShuffleExecutorComponents
import org.apache.spark.shuffle.sort.SortShuffleManager

/** Rows of one partition into one file; see [[CometBypassMergeSortShuffleWriter]]. */
private[spark] class CometBypassMergeSortShuffleHandle[K, V](shuffleId: Int, dependency: ShuffleDependency[K, V, V])
    extends BaseShuffleHandle[K, V, V](shuffleId, dependency)

/** Rows sorted by partition; see [[CometUnsafeShuffleWriter]]. */
private[spark] class CometSerializedShuffleHandle[K, V](shuffleId: Int, dependency: ShuffleDependency[K, V, V])
    extends BaseShuffleHandle[K, V, V](shuffleId, dependency)

/** A native map stage. */
private[spark] class CometNativeShuffleHandle[K, V](shuffleId: Int, dependency: ShuffleDependency[K, V, V])
    extends BaseShuffleHandle[K, V, V](shuffleId, dependency)

/** Spark's shuffle manager, with columnar shuffles beside its own.
  *
  * It is a [[SortShuffleManager]] rather than a wrapper of one, for two reasons: everything that is not ours stays in Spark's
  * code untouched (one block resolver, one place for files); and Spark asks `isInstanceOf[SortShuffleManager]` when it decides
  * whether rows must be copied before a shuffle, so a wrapper would make every shuffle that stays Spark's slower.
  *
  * The constructor runs while Spark's environment is half made: it must not touch `SparkEnv`.
  */
private[spark] class CometShuffleManager(conf: SparkConf) extends SortShuffleManager(conf) {
  if (!conf.get(config.PLUGINS).contains(classOf[CometPlugin].getName)) {
    throw new IllegalArgumentException(
      s"spark.shuffle.manager is ${getClass.getName}, which does nothing alone " +
        s"(hint: spark.plugins=${classOf[CometPlugin].getName})")
  }

  /** Map ids of our shuffles in this process, to delete their files; Spark's are in the superclass. */
  private val mapIds = new ConcurrentHashMap[Int, java.util.Set[Long]]()

  private lazy val executorComponents: ShuffleExecutorComponents = {
    val components = ShuffleDataIOUtils.loadShuffleDataIO(conf).executor()
    val extra = conf.getAllWithPrefix(ShuffleDataIOUtils.SHUFFLE_SPARK_CONF_PREFIX).toMap
    components.initializeExecutor(conf.getAppId, SparkEnv.get.executorId, extra.asJava)
    components
  }

  override def registerShuffle[K, V, C](shuffleId: Int, dependency: ShuffleDependency[K, V, C]): ShuffleHandle =
    dependency match {
      case comet: CometShuffleDependency[_, _, _] =>
        val ours = dependency.asInstanceOf[ShuffleDependency[K, V, V]]
        comet.shuffleType match {
          case CometNativeShuffle => new CometNativeShuffleHandle[K, V](shuffleId, ours)
          case CometColumnarShuffle =>
            if (CometShuffleManager.shouldBypassMergeSort(conf, ours.partitioner.numPartitions, ours.mapSideCombine)) {
              new CometBypassMergeSortShuffleHandle[K, V](shuffleId, ours)
            } else {
              new CometSerializedShuffleHandle[K, V](shuffleId, ours)
            }
        }
      case _ => super.registerShuffle(shuffleId, dependency)
    }

  override def getWriter[K, V](
      handle: ShuffleHandle,
      mapId: Long,
      context: TaskContext,
      metrics: ShuffleWriteMetricsReporter): ShuffleWriter[K, V] = {
    def remember(): Unit =
      mapIds.computeIfAbsent(handle.shuffleId, _ => ConcurrentHashMap.newKeySet[Long]()).add(mapId)
    handle match {
      case bypass: CometBypassMergeSortShuffleHandle[K @unchecked, V @unchecked] =>
        remember()
        new CometBypassMergeSortShuffleWriter[K, V](
          CometShuffleManager.dependency(bypass), mapId, context, metrics, executorComponents)
      case sorted: CometSerializedShuffleHandle[K @unchecked, V @unchecked] =>
        remember()
        new CometUnsafeShuffleWriter[K, V](
          CometShuffleManager.dependency(sorted), mapId, context, metrics, executorComponents)
      case _: CometNativeShuffleHandle[_, _] =>
        throw new IllegalStateException("no native shuffle writer in this version")
      case _ => super.getWriter(handle, mapId, context, metrics)
    }
  }

  override def getReader[K, C](
      handle: ShuffleHandle,
      startMapIndex: Int,
      endMapIndex: Int,
      startPartition: Int,
      endPartition: Int,
      context: TaskContext,
      metrics: ShuffleReadMetricsReporter): ShuffleReader[K, C] =
    handle match {
      case ours: BaseShuffleHandle[K @unchecked, _, C @unchecked] if CometShuffleManager.isOurs(ours) =>
        val tracker = SparkEnv.get.mapOutputTracker
        val (blocks, mayBatch) =
          if (ours.dependency.isShuffleMergeFinalizedMarked) {
            val merged = tracker.getPushBasedShuffleMapSizesByExecutorId(
              handle.shuffleId, startMapIndex, endMapIndex, startPartition, endPartition)
            (merged.iter, merged.enableBatchFetch)
          } else {
            val plain = tracker.getMapSizesByExecutorId(
              handle.shuffleId, startMapIndex, endMapIndex, startPartition, endPartition)
            (plain, true)
          }
        val batchFetch = mayBatch && SortShuffleManager.canUseBatchFetch(startPartition, endPartition, context)
        new CometBlockStoreShuffleReader[K, C](
          ours.dependency.asInstanceOf[CometShuffleDependency[K, _, C]], blocks, context, metrics, batchFetch)
      case _ =>
        super.getReader(handle, startMapIndex, endMapIndex, startPartition, endPartition, context, metrics)
    }

  override def unregisterShuffle(shuffleId: Int): Boolean = {
    Option(mapIds.remove(shuffleId)).foreach { ids =>
      ids.asScala.foreach(mapId => shuffleBlockResolver.removeDataByMap(shuffleId, mapId))
    }
    super.unregisterShuffle(shuffleId)
  }
}

private[spark] object CometShuffleManager {
  private def isOurs(handle: ShuffleHandle): Boolean = handle match {
    case _: CometBypassMergeSortShuffleHandle[_, _] | _: CometSerializedShuffleHandle[_, _] | _: CometNativeShuffleHandle[_, _] =>
      true
    case _ => false
  }

  private def dependency[K, V](handle: BaseShuffleHandle[K, V, V]): CometShuffleDependency[K, V, V] =
    handle.dependency.asInstanceOf[CometShuffleDependency[K, V, V]]

  /** One writer a partition: few partitions, and not so many writers at once in an executor that their first pages alone are a
    * burden. Every partition count below the sorter's limit (2^32) may be sorted, so this is only a matter of speed.
    */
  def shouldBypassMergeSort(conf: SparkConf, partitions: Int, mapSideCombine: Boolean): Boolean =
    !mapSideCombine &&
      partitions <= conf.get(config.SHUFFLE_SORT_BYPASS_MERGE_THRESHOLD) &&
      partitions.toLong * CometPlugin.slots(conf) <= CometConf.MaxWriters.get(conf.getOption)
}
