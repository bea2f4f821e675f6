// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import org.apache.comet.CometConf

import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.expressions.{Expression, InputFileBlockLength, InputFileBlockStart, InputFileName}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.catalyst.trees.TreeNodeTag
import org.apache.spark.sql.comet.execution.arrow.CometArrowSchema
import org.apache.spark.sql.execution.{FilterExec, ProjectExec, SparkPlan}

/** Replaces Spark's filters and projections by native ones, where every expression has a message. Placement and order of rows
  * stay, so each operator is decided for itself.
  */
case class CometExecRule(session: SparkSession) extends Rule[SparkPlan] {
  override def apply(plan: SparkPlan): SparkPlan =
    if (!CometConf.Enabled.get(setting) || !CometConf.ExecEnabled.get(setting) || readsInputFile(plan) || OtherThreads.reader(plan).isDefined) plan
    else
      plan.transformUp {
        case filter: FilterExec => native(filter, Seq(filter.condition), CometFilterExec(filter.condition, filter.output, filter.child))
        case project: ProjectExec => native(project, project.projectList, CometProjectExec(project.projectList, project.child))
      }

  private def native(spark: SparkPlan, expressions: Seq[Expression], make: => CometNativeExec): SparkPlan = {
    val input = spark.children.head
    val refused = CometArrowSchema
      .refusal(input.schema)
      .orElse(CometArrowSchema.refusal(spark.schema))
      .orElse(expressions.iterator.flatMap(ExprSerde.convert(_, input.output).left.toOption).nextOption())
    lazy val converted = make
    refused.orElse(Option.when(converted.nativeBlock.root.depth > CometExecRule.DeepestMessage)("nested too deep")) match {
      case Some(why) =>
        spark.setTagValue(CometExecRule.StaysSpark, why)
        logDebug(s"${spark.nodeName} stays Spark's: $why")
        spark
      case None =>
        converted.copyTagsFrom(spark)
        spark.logicalLink.foreach(converted.setLogicalLink)
        converted
    }
  }

  /** A native plan reads ahead, so that such an expression above it would name the wrong file. */
  private def readsInputFile(plan: SparkPlan): Boolean = plan.exists(_.expressions.exists(_.exists {
    case _: InputFileName | _: InputFileBlockStart | _: InputFileBlockLength => true
    case _ => false
  }))

  private def setting(name: String): Option[String] = Option(conf.getConfString(name, null))
}

object CometExecRule {
  /** Why this operator was left alone. */
  val StaysSpark: TreeNodeTag[String] = TreeNodeTag[String]("comet.operator.stays.spark")

  /** Native code refuses messages of more than 100 levels; the plan itself is one of them. */
  private val DeepestMessage = 90
}
