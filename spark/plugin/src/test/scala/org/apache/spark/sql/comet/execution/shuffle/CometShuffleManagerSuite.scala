// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.spark.SparkConf
import org.scalatest.funsuite.AnyFunSuite

class CometShuffleManagerSuite extends AnyFunSuite {
  private def bypasses(partitions: Int, combine: Boolean, settings: (String, String)*): Boolean =
    CometShuffleManager.shouldBypassMergeSort(new SparkConf(false).setAll(settings), partitions, combine)

  private val threshold = "spark.shuffle.sort.bypassMergeThreshold"
  private val writers = "spark.comet.shuffle.jvm.maxWritersPerExecutor"

  test("which writer an exchange gets") {
    val cluster = "spark.master" -> "spark://host"
    val fourCores = "spark.executor.cores" -> "4"
    for {
      (expected, partitions, combine, settings) <- Seq(
        (true, 100, false, Seq(cluster)),
        (false, 101, false, Seq(cluster)),
        (false, 10, true, Seq(cluster)),
        (true, 25, false, Seq(cluster, fourCores)),
        (false, 26, false, Seq(cluster, fourCores)),
        (true, 50, false, Seq("spark.master" -> "local[2]")),
        (false, 51, false, Seq("spark.master" -> "local[2]")),
        (true, 100, false, Seq("spark.master" -> "local-cluster[4,1,1024]")),
        (true, 200, false, Seq(cluster, writers -> "1000")),
        (false, 201, false, Seq(cluster, writers -> "1000")),
        (true, 201, false, Seq(cluster, writers -> "1000", threshold -> "201")),
        (true, 5, false, Seq(cluster, "spark.comet.columnar.shuffle.async.max.thread.num" -> "5")),
        (false, 6, false, Seq(cluster, "spark.comet.columnar.shuffle.async.max.thread.num" -> "5")),
        (true, 1, false, Seq(cluster, threshold -> "1")),
        (false, Int.MaxValue, false, Seq(cluster, threshold -> Int.MaxValue.toString)))
    } assert(bypasses(partitions, combine, settings: _*) == expected, s"$partitions partitions, combine $combine, $settings")
  }

  test("the manager without the plug-in, which would do nothing, is an error") {
    val thrown = intercept[IllegalArgumentException](new CometShuffleManager(new SparkConf(false)))
    assert(thrown.getMessage.contains("spark.plugins=org.apache.spark.CometPlugin"))
    new CometShuffleManager(new SparkConf(false).set("spark.plugins", "a.b.C,org.apache.spark.CometPlugin"))
  }
}
