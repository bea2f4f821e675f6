// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import scala.reflect.ClassTag

import org.apache.spark.{Partitioner, ShuffleDependency}
import org.apache.spark.rdd.RDD
import org.apache.spark.serializer.Serializer
import org.apache.spark.shuffle.ShuffleWriteProcessor
import org.apache.spark.shuffle.checksum.RowBasedChecksum
import org.apache.spark.sql.execution.metric.SQLMetric
import org.apache.spark.sql.types.StructType

/** Which columnar shuffle. */
sealed trait ShuffleType extends Serializable

/** Rows, encoded by way of the JVM. */
case object CometColumnarShuffle extends ShuffleType

/** Entirely native; the next step of the adapter. */
case object CometNativeShuffle extends ShuffleType

/** SQL metrics that only the writer knows. */
final case class CometShuffleWriteMetrics(dataSize: SQLMetric, spills: SQLMetric, peakMemory: SQLMetric, encodeTime: SQLMetric)

/** Spark's dependency plus what our writers and readers need.
  *
  * The superclass registers the shuffle while it is constructed. What `registerShuffle` reads must therefore be constructor
  * parameters, which Scala stores before it calls the superclass; a `val` in the body would still be null.
  *
  * @param arrowSchema Arrow IPC schema message; the reader's copy makes it unnecessary to repeat the schema in each block
  */
class CometShuffleDependency[K: ClassTag, V: ClassTag, C: ClassTag](
    @transient rows: RDD[_ <: Product2[K, V]],
    partitioner: Partitioner,
    serializer: Serializer,
    processor: ShuffleWriteProcessor,
    rowChecksums: Array[RowBasedChecksum],
    checksumMismatchFullRetry: Boolean,
    val shuffleType: ShuffleType,
    val schema: StructType,
    val arrowSchema: Array[Byte],
    val settings: CometShuffleSettings,
    val writeMetrics: CometShuffleWriteMetrics,
    val decodeTime: SQLMetric)
    extends ShuffleDependency[K, V, C](
      _rdd = rows,
      partitioner = partitioner,
      serializer = serializer,
      keyOrdering = None,
      aggregator = None,
      mapSideCombine = false,
      shuffleWriterProcessor = processor,
      rowBasedChecksums = rowChecksums,
      checksumMismatchFullRetryEnabled = checksumMismatchFullRetry)
