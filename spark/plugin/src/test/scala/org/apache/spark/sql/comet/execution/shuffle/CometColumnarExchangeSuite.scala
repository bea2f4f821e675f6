// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeReference}
import org.apache.spark.sql.catalyst.plans.logical.LocalRelation
import org.apache.spark.sql.catalyst.plans.physical.{HashPartitioning, RoundRobinPartitioning}
import org.apache.spark.sql.catalyst.trees.TreeNodeTag
import org.apache.spark.sql.execution.LocalTableScanExec
import org.apache.spark.sql.execution.exchange.{ENSURE_REQUIREMENTS, ShuffleExchangeExec}
import org.apache.spark.sql.types.LongType
import org.scalatest.funsuite.AnyFunSuite

class CometColumnarExchangeSuite extends AnyFunSuite {
  private def attribute(): Attribute = AttributeReference("k", LongType)()

  private def spark(partitions: Int, name: String = "k"): ShuffleExchangeExec = {
    val key = attribute().withName(name)
    ShuffleExchangeExec(HashPartitioning(Seq(key), partitions), LocalTableScanExec(Seq(key), Nil, None), ENSURE_REQUIREMENTS)
  }

  test("exchanges of the same rows to the same places are one, others are not") {
    val exchange = CometColumnarExchange.of(spark(5))
    assert(exchange.sameResult(CometColumnarExchange.of(spark(5))))
    assert(exchange.canonicalized == CometColumnarExchange.of(spark(5)).canonicalized)
    assert(!exchange.sameResult(CometColumnarExchange.of(spark(6))))
    val roundRobin = spark(5).copy(outputPartitioning = RoundRobinPartitioning(5))
    assert(!exchange.sameResult(CometColumnarExchange.of(roundRobin)))
    assert(!exchange.sameResult(spark(5)))
  }

  test("what adaptive execution knows a node by survives conversion and copies") {
    val original = spark(5)
    val tag = TreeNodeTag[String]("test")
    original.setTagValue(tag, "kept")
    original.setLogicalLink(LocalRelation(original.output))
    for (exchange <- Seq(CometColumnarExchange.of(original), CometColumnarExchange.of(original).withNewChildren(original.children))) {
      assert(exchange.getTagValue(tag).contains("kept"))
      assert(exchange.logicalLink == original.logicalLink)
      assert(exchange.output == original.output)
      assert(exchange.outputPartitioning == original.outputPartitioning)
      assert(exchange.nodeName == "CometColumnarExchange")
    }
  }
}
