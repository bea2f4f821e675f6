// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import org.apache.spark.sql.execution._
import org.apache.spark.sql.execution.r.MapPartitionsRWrapper

/** Operators that read their input on a thread which is not the task's. It may still read when the task ends and our batches are
  * freed, so nothing of ours may be below.
  */
private[comet] object OtherThreads {
  def reader(plan: SparkPlan): Option[SparkPlan] = plan.find {
    case _: BaseScriptTransformationExec => true
    case _: MapPartitionsInRWithArrowExec | _: FlatMapGroupsInRExec | _: FlatMapGroupsInRWithArrowExec => true
    case partitions: MapPartitionsExec => partitions.func.isInstanceOf[MapPartitionsRWrapper]
    case _ => false
  }
}
