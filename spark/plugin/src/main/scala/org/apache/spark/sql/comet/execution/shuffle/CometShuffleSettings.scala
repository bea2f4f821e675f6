// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.comet.CometConf

import org.apache.spark.SparkConf
import org.apache.spark.internal.config

/** What a shuffle's writers need to know, fixed on the driver when the exchange is prepared.
  *
  * @param checksumAlgorithm Spark's name, or empty if Spark's shuffle checksums are off
  * @param sync whether files of rows must be on disk when they are complete, as `spark.shuffle.sync` says
  */
final case class CometShuffleSettings(
    codec: String,
    zstdLevel: Int,
    batchSize: Int,
    spillThreshold: Int,
    asyncEnabled: Boolean,
    asyncThreads: Int,
    asyncMaxThreads: Int,
    checksumAlgorithm: String,
    sync: Boolean)

object CometShuffleSettings {
  def read(session: String => Option[String], conf: SparkConf): CometShuffleSettings =
    CometShuffleSettings(
      codec = if (conf.get(config.SHUFFLE_COMPRESS)) CometConf.Codec.get(session) else "none",
      zstdLevel = CometConf.ZstdLevel.get(session),
      batchSize = CometConf.ShuffleBatchSize.get(session),
      spillThreshold = CometConf.SpillThreshold.get(session),
      asyncEnabled = CometConf.AsyncEnabled.get(session),
      asyncThreads = CometConf.AsyncThreads.get(session),
      asyncMaxThreads = CometConf.AsyncMaxThreads.get(session),
      checksumAlgorithm =
        if (conf.get(config.SHUFFLE_CHECKSUM_ENABLED)) conf.get(config.SHUFFLE_CHECKSUM_ALGORITHM) else "",
      sync = conf.get(config.SHUFFLE_SYNC))
}
