// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import scala.concurrent.Future

import org.apache.spark.{MapOutputStatistics, SparkEnv}
import org.apache.spark.rdd.RDD
import org.apache.spark.serializer.Serializer
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.plans.logical.Statistics
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.catalyst.types.DataTypeUtils
import org.apache.spark.sql.comet.execution.arrow.CometArrowSchema
import org.apache.spark.sql.execution.{ColumnarToRowExec, CoalescedPartitionSpec, ShufflePartitionSpec, SparkPlan, SQLExecution, UnsafeRowSerializer}
import org.apache.spark.sql.execution.exchange.{ShuffleExchangeExec, ShuffleExchangeLike, ShuffleOrigin}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLMetrics, SQLShuffleReadMetricsReporter, SQLShuffleWriteMetricsReporter}
import org.apache.spark.sql.vectorized.ColumnarBatch

import org.apache.comet.CometConf

/** An exchange that takes rows and gives batches.
  *
  * Rows come from `child.execute()`; a columnar child stands under a `ColumnarToRowExec` (see `CometTransitionRule`). Who wants
  * rows of this node gets them through a `ColumnarToRowExec` that Spark puts on top.
  *
  * Which row goes where is decided by Spark's own code: [[ShuffleExchangeExec.prepareShuffleDependency]] makes the keyed rows,
  * the partitioner and the row checksums, for every partitioning Spark has. Its dependency is then only taken apart; the shuffle
  * that it registered stays unused until the context cleaner collects it.
  */
case class CometColumnarExchange(
    override val outputPartitioning: Partitioning,
    child: SparkPlan,
    shuffleOrigin: ShuffleOrigin,
    advisoryPartitionSize: Option[Long])
    extends ShuffleExchangeLike {

  override def nodeName: String = "CometColumnarExchange"

  override def supportsColumnar: Boolean = true

  private lazy val writeMetrics: Map[String, SQLMetric] =
    SQLShuffleWriteMetricsReporter.createShuffleWriteMetrics(sparkContext)

  private[sql] lazy val readMetrics: Map[String, SQLMetric] =
    SQLShuffleReadMetricsReporter.createShuffleReadMetrics(sparkContext)

  override lazy val metrics: Map[String, SQLMetric] = Map(
    "dataSize" -> SQLMetrics.createSizeMetric(sparkContext, "data size"),
    "numPartitions" -> SQLMetrics.createMetric(sparkContext, "number of partitions"),
    "spills" -> SQLMetrics.createMetric(sparkContext, "number of spills"),
    "peakMemory" -> SQLMetrics.createSizeMetric(sparkContext, "peak memory of the writer"),
    "encodeTime" -> SQLMetrics.createNanoTimingMetric(sparkContext, "time to encode"),
    "decodeTime" -> SQLMetrics.createNanoTimingMetric(sparkContext, "time to decode")) ++ readMetrics ++ writeMetrics

  /** Never used to write; `prepareShuffleDependency` and Spark's batch fetch ask it whether serialized rows can be moved. */
  private lazy val serializer: Serializer = new UnsafeRowSerializer(child.output.size, longMetric("dataSize"))

  @transient lazy val inputRDD: RDD[InternalRow] = child.execute()

  @transient
  override lazy val mapOutputStatisticsFuture: Future[MapOutputStatistics] =
    if (inputRDD.getNumPartitions == 0) {
      Future.successful(null)
    } else {
      sparkContext.submitMapStage(shuffleDependency)
    }

  override def numMappers: Int = shuffleDependency.rdd.getNumPartitions

  override def numPartitions: Int = shuffleDependency.partitioner.numPartitions

  override def shuffleId: Int = shuffleDependency.shuffleId

  /** Size as Spark itself would report it, of UnsafeRows: our compressed bytes would make broadcasts of what is too big. */
  override def runtimeStatistics: Statistics = {
    val bytes = BigDecimal(longMetric("dataSize").value) * CometConf.SizeMultiplier.get(setting)
    val rows = metrics(SQLShuffleWriteMetricsReporter.SHUFFLE_RECORDS_WRITTEN).value
    Statistics(bytes.toBigInt.max(1), Some(rows))
  }

  override def getShuffleRDD(partitionSpecs: Array[ShufflePartitionSpec]): RDD[ColumnarBatch] =
    new CometShuffledBatchRDD(shuffleDependency, readMetrics, partitionSpecs)

  @transient
  lazy val shuffleDependency: CometShuffleDependency[Int, InternalRow, InternalRow] = {
    val prepared =
      ShuffleExchangeExec.prepareShuffleDependency(inputRDD, child.output, outputPartitioning, serializer, writeMetrics)
    val schema = DataTypeUtils.fromAttributes(child.output)
    val arrowSchema = CometArrowSchema.arrow(schema).serializeAsMessage()
    val partitions = longMetric("numPartitions")
    partitions.set(prepared.partitioner.numPartitions)
    SQLMetrics.postDriverMetricUpdates(
      sparkContext, sparkContext.getLocalProperty(SQLExecution.EXECUTION_ID_KEY), partitions :: Nil)
    new CometShuffleDependency[Int, InternalRow, InternalRow](
      prepared.rdd,
      prepared.partitioner,
      prepared.serializer,
      prepared.shuffleWriterProcessor,
      prepared.rowBasedChecksums,
      prepared.checksumMismatchFullRetryEnabled,
      CometColumnarShuffle,
      schema,
      arrowSchema,
      CometShuffleSettings.read(setting, SparkEnv.get.conf),
      CometShuffleWriteMetrics(longMetric("dataSize"), longMetric("spills"), longMetric("peakMemory"), longMetric("encodeTime")),
      longMetric("decodeTime"))
  }

  // One RDD for all executions of this node, so that a reused exchange shuffles once.
  @transient private lazy val batches: RDD[ColumnarBatch] =
    getShuffleRDD(Array.tabulate(numPartitions)(i => CoalescedPartitionSpec(i, i + 1, None)))

  override protected def doExecuteColumnar(): RDD[ColumnarBatch] = batches

  override protected def doExecute(): RDD[InternalRow] = ColumnarToRowExec(this).doExecute()

  override protected def withNewChildInternal(newChild: SparkPlan): CometColumnarExchange = copy(child = newChild)

  private def setting(key: String): Option[String] = Option(conf.getConfString(key, null))
}

object CometColumnarExchange {
  /** The exchange that takes the place of `spark`: same output, partitioning, origin, link and tags. */
  def of(spark: ShuffleExchangeExec): CometColumnarExchange = {
    val exchange =
      CometColumnarExchange(spark.outputPartitioning, spark.child, spark.shuffleOrigin, spark.advisoryPartitionSize)
    exchange.copyTagsFrom(spark)
    spark.logicalLink.foreach(exchange.setLogicalLink)
    exchange
  }
}
