// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.comet.{CometConf, ConfKey}

import org.apache.spark.SparkEnv
import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.catalyst.trees.TreeNodeTag
import org.apache.spark.sql.comet.OtherThreads
import org.apache.spark.sql.comet.execution.arrow.CometArrowSchema
import org.apache.spark.sql.execution.SparkPlan
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec

/** Replaces Spark's shuffle exchanges. Runs several times over a plan: once converted, a node is not met again, and a refusal is
  * remembered on the node, so that adaptive re-planning cannot change one side of a join.
  */
case class CometExchangeRule(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan =
    if (!on(CometConf.Enabled) || !on(CometConf.ShuffleEnabled)) plan
    else {
      val forAll = refusal(plan)
      plan.transformUp {
        case exchange: ShuffleExchangeExec if exchange.getTagValue(CometExchangeRule.StaysSpark).isEmpty =>
          forAll.orElse(refusal(exchange)) match {
            case None => CometColumnarExchange.of(exchange)
            case Some(why) =>
              logInfo(s"an exchange stays Spark's: $why")
              exchange.setTagValue(CometExchangeRule.StaysSpark, why)
              exchange
          }
      }
    }

  private def refusal(plan: SparkPlan): Option[String] =
    if (!Option(SparkEnv.get).exists(_.shuffleManager.isInstanceOf[CometShuffleManager])) {
      Some(s"spark.shuffle.manager is not ${classOf[CometShuffleManager].getName}")
    } else {
      OtherThreads.reader(plan).map(node => s"${node.nodeName} reads its input on a thread of its own")
    }

  private def refusal(exchange: ShuffleExchangeExec): Option[String] =
    if (CometConf.ShuffleMode.get(setting) == "native") Some("the mode is native, and the child is not")
    else if (!on(CometConf.FromSparkPlan)) Some(s"${CometConf.FromSparkPlan.key} is off")
    else CometArrowSchema.refusal(exchange.child.schema)

  private def on(key: ConfKey[Boolean]): Boolean = key.get(setting)

  private def setting(name: String): Option[String] = Option(conf.getConfString(name, null))
}

object CometExchangeRule {
  /** Why this exchange was left alone. */
  val StaysSpark: TreeNodeTag[String] = TreeNodeTag[String]("comet.exchange.stays.spark")
}
