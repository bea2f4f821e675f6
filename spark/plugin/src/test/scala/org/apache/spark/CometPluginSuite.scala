// SPDX-License-Identifier: Apache-2.0
package org.apache.spark

import org.scalatest.funsuite.AnyFunSuite

class CometPluginSuite extends AnyFunSuite {
  private val complete = Map(
    "spark.shuffle.manager" -> "org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager",
    "spark.memory.offHeap.enabled" -> "true",
    "spark.memory.offHeap.size" -> "1g")

  private def problems(settings: Map[String, String], version: String = "4.1.4"): Seq[String] =
    CometPlugin.problems(new SparkConf(false).setAll(settings), version)

  private def only(problems: Seq[String], word: String) = {
    assert(problems.length == 1 && problems.head.contains(word), problems)
  }

  test("with all settings there is no problem") {
    assert(problems(complete) == Nil)
  }

  test("each missing setting alone is named") {
    only(problems(complete - "spark.shuffle.manager"), "spark.shuffle.manager=")
    only(problems(complete - "spark.memory.offHeap.enabled"), "spark.memory.offHeap.enabled=true")
    only(problems(complete - "spark.memory.offHeap.size"), "spark.memory.offHeap.size=")
  }

  test("all problems are told at once") {
    assert(problems(Map.empty, "3.5.9").length == 4)
  }

  test("other versions of spark are refused, other patches of this one are not") {
    only(problems(complete, "4.2.0"), "Spark 4.2.0")
    only(problems(complete, "4.10.1"), "Spark 4.10.1")
    assert(problems(complete, "4.1.0") == Nil)
  }

  test("bad and unknown settings are told before the first query") {
    only(problems(complete + ("spark.comet.shuffle.compression.codec" -> "brotli")), "brotli")
    only(problems(complete + ("spark.comet.shufle.enabled" -> "true")), "spark.comet.shufle.enabled")
  }

  test("the shuffle manager is not needed if columnar shuffle is off, by either name") {
    for (key <- Seq("spark.comet.enabled", "spark.comet.shuffle.enabled", "spark.comet.exec.shuffle.enabled")) {
      assert(problems(complete - "spark.shuffle.manager" + (key -> "false")) == Nil)
    }
  }

  test("slots of an executor") {
    def slots(settings: (String, String)*) = CometPlugin.slots(new SparkConf(false).setAll(settings))
    assert(slots("spark.master" -> "local[3]") == 3)
    assert(slots("spark.master" -> "local[3,2]") == 3)
    assert(slots("spark.master" -> "local") == 1)
    assert(slots("spark.master" -> "local-cluster[2,1,1024]", "spark.executor.cores" -> "5") == 5)
    assert(slots() == 1)
  }
}
