// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.spark.{Dependency, Partition, Partitioner, SparkEnv, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution._
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLShuffleReadMetricsReporter}
import org.apache.spark.sql.vectorized.ColumnarBatch

final private case class CometShuffledBatchPartition(index: Int, spec: ShufflePartitionSpec) extends Partition

/** The reduce side: batches of the map outputs that each `ShufflePartitionSpec` names.
  *
  * Which partitions, where they run best and how they are partitioned is asked of a [[ShuffledRowRDD]] over the same dependency,
  * which lives on the driver only and computes nothing.
  */
class CometShuffledBatchRDD(
    private var dependency: CometShuffleDependency[Int, InternalRow, InternalRow],
    metrics: Map[String, SQLMetric],
    specs: Array[ShufflePartitionSpec])
    extends RDD[ColumnarBatch](dependency.rdd.context, Nil) {

  @transient private val planned = new ShuffledRowRDD(dependency, metrics, specs)

  @transient override val partitioner: Option[Partitioner] = planned.partitioner

  override def getDependencies: Seq[Dependency[_]] = List(dependency)

  override def getPartitions: Array[Partition] =
    specs.indices.map(i => CometShuffledBatchPartition(i, specs(i)): Partition).toArray

  override def getPreferredLocations(partition: Partition): Seq[String] =
    planned.preferredLocations(planned.partitions(partition.index))

  override def compute(split: Partition, context: TaskContext): Iterator[ColumnarBatch] = {
    val reporter =
      new SQLShuffleReadMetricsReporter(context.taskMetrics().createTempShuffleReadMetrics(), metrics)
    def reader(startMap: Int, endMap: Int, startReducer: Int, endReducer: Int) =
      SparkEnv.get.shuffleManager.getReader[Int, ColumnarBatch](
        dependency.shuffleHandle, startMap, endMap, startReducer, endReducer, context, reporter)
    val shuffled = split.asInstanceOf[CometShuffledBatchPartition].spec match {
      case CoalescedPartitionSpec(start, end, _) => reader(0, Int.MaxValue, start, end)
      case PartialReducerPartitionSpec(reducer, startMap, endMap, _) => reader(startMap, endMap, reducer, reducer + 1)
      case PartialMapperPartitionSpec(map, start, end) => reader(map, map + 1, start, end)
      case CoalescedMapperPartitionSpec(startMap, endMap, reducers) => reader(startMap, endMap, 0, reducers)
    }
    shuffled.read().map(_._2)
  }

  override def clearDependencies(): Unit = {
    super.clearDependencies()
    dependency = null
  }
}
