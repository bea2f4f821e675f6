// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import org.apache.arrow.c.{ArrowSchema, CDataDictionaryProvider, Data}

import org.apache.spark.{TaskContext, TaskKilledException}
import org.apache.spark.sql.comet.execution.CometNativeTask
import org.apache.spark.sql.comet.execution.arrow.{CometArrowSchema, CometArrowStream, InputFailures}
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch

/** The batches of one native plan over one partition.
  *
  * Native code fills a struct array that the JVM allocates, one a batch. Importing takes the content over by reference count, and
  * closing the batch lets native memory go.
  *
  * @param plan a `PlanMessage`
  * @param inputs one stream a scan, in the plan's order; this iterator closes them
  * @param failures where those inputs keep their exceptions
  * @param output what the plan gives, in Spark's types
  * @param onMetrics gets `Native.planMetrics` when the plan ends, however it ends
  */
class CometExecIterator(
    plan: Array[Byte],
    inputs: Seq[CometArrowStream],
    failures: InputFailures,
    output: StructType,
    context: TaskContext,
    onMetrics: Array[Long] => Unit)
    extends OwnedBatchIterator {

  private val allocator = CometArrowAllocator.child(s"plan-${context.taskAttemptId()}")
  private val importer = new BatchImporter(CometArrowSchema.arrow(output), allocator)
  private val task = new CometNativeTask(context, failures)
  private var handle = 0L

  // Another native plan may still hold batches of this one when this one is at its end.
  context.addTaskCompletionListener[Unit] { _ =>
    try inputs.foreach(_.closeAllocator())
    finally allocator.close()
  }
  // Listeners run in reverse order of registration, so this one runs before those of the operators that feed the inputs.
  context.addTaskCompletionListener[Unit](_ => close())
  handle = failures.original(Native.createPlan(plan, inputs.map(_.stream).toArray[AnyRef], task))
  checkSchema()

  override protected def read(): Option[ColumnarBatch] = getNextBatch()

  def getNextBatch(): Option[ColumnarBatch] = {
    task.checkKilled()
    try importer.next(array => failures.original(Native.executePlan(handle, array)))
    catch {
      case killed: TaskKilledException =>
        // Native code knows that, not why.
        task.checkKilled()
        throw killed
    }
  }

  /** The plan is joined before anything it reads goes away. */
  override protected def release(): Unit =
    try {
      if (handle != 0) {
        try onMetrics(Native.planMetrics(handle))
        finally Native.releasePlan(handle)
      }
    } finally inputs.foreach(_.close())

  /** Buffers are taken for what `output` says, so a plan that gives something else must not get that far. */
  private def checkSchema(): Unit = {
    val struct = ArrowSchema.allocateNew(allocator)
    val provider = new CDataDictionaryProvider
    try {
      Native.planSchema(handle, struct.memoryAddress())
      val found = Data.importSchema(allocator, struct, provider)
      val wanted = CometArrowSchema.carrier(output)
      if (!CometArrowSchema.sameLayout(found, wanted)) {
        throw new IllegalStateException(s"a native plan gives $found where $wanted was planned")
      }
    } finally {
      provider.close()
      struct.close()
    }
  }
}
