// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.comet.execution.shuffle.{CometColumnarExchange, CometExchangeRule}
import org.apache.spark.sql.execution.{ColumnarRule, ColumnarToRowExec, RowToColumnarExec, SparkPlan}

/** What runs before and after Spark puts transitions between rows and batches into a plan. */
case class CometColumnarRules(session: SparkSession) extends ColumnarRule {
  private val operators = CometExecRule(session)
  private val exchanges = CometExchangeRule(session)
  private val transitions = CometTransitionRule(session)

  override def preColumnarTransitions: Rule[SparkPlan] = plan => exchanges(operators(plan))

  override def postColumnarTransitions: Rule[SparkPlan] = transitions
}

/** Mends what Spark's transitions do under our operators: for a node with columnar output Spark wants columnar input, and puts a
  * `RowToColumnarExec` over row children. Our exchange takes rows, a native operator takes both.
  */
case class CometTransitionRule(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan = plan.transformUp {
    case native: CometNativeExec =>
      native.child match {
        case RowToColumnarExec(rows) => native.withNewChildren(Seq(rows))
        case _ => native
      }
    case exchange: CometColumnarExchange =>
      exchange.child match {
        case RowToColumnarExec(rows) => exchange.withNewChildren(Seq(rows))
        case columnar if columnar.supportsColumnar && !columnar.supportsRowBased =>
          exchange.withNewChildren(Seq(ColumnarToRowExec(columnar)))
        case _ => exchange
      }
  }
}
