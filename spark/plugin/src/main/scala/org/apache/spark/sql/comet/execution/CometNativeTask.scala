// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution

import org.apache.comet.NativeTask

import org.apache.spark.TaskContext
import org.apache.spark.sql.comet.execution.arrow.InputFailures

/** What a native plan asks of its task. Not in `org.apache.comet`, because Spark shows these parts of a task to its own packages
  * only.
  */
final class CometNativeTask(context: TaskContext, failures: InputFailures) extends NativeTask {
  override def isKilled: Boolean = context.isInterrupted()

  override def takeFailure(): Throwable = failures.take()

  /** Throws Spark's own exception, with the reason that Spark was given. */
  def checkKilled(): Unit = context.killTaskIfInterrupted()
}
