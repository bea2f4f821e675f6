// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import scala.reflect.ClassTag

import org.apache.comet.{CometConf, CometExecIterator, ProtoWriter}

import org.apache.spark.{CometPlugin, InterruptibleIterator, Partition, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Attribute, Expression, NamedExpression, SortOrder}
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.comet.execution.arrow.{CometArrowSchema, CometArrowStream, InputFailures}
import org.apache.spark.sql.execution._
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLMetrics}
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch

/** An operator that native code runs.
  *
  * Operators that follow each other are one native plan, which the topmost of them runs; what is below the lowest is its input,
  * rows or batches, pulled through an Arrow C stream:
  *
  * {{{
  *   CometProjectExec  ┐
  *   CometFilterExec   ┘ one plan: Project(Filter(Scan))     batches out
  *   any Spark operator  the scan's input                    rows or batches in
  * }}}
  */
trait CometNativeExec extends UnaryExecNode {

  /** This operator over `child`, as a `NodeMessage`. */
  protected def message(child: ProtoWriter): ProtoWriter

  final override def supportsColumnar: Boolean = true

  override lazy val metrics: Map[String, SQLMetric] = Map(
    "numOutputRows" -> SQLMetrics.createMetric(sparkContext, "number of output rows"),
    "computeTime" -> SQLMetrics.createNanoTimingMetric(sparkContext, "time in native code"))

  final override protected def doExecute(): RDD[InternalRow] = ColumnarToRowExec(this).doExecute()

  final override protected def doExecuteColumnar(): RDD[ColumnarBatch] = {
    val block = nativeBlock
    val run = new NativePartition(
      block.plan(CometConf.BatchSize.get(setting), CometPlugin.slots(sparkContext.getConf)),
      block.input.nodeName,
      block.input.schema,
      schema,
      CometConf.BatchSize.get(setting),
      block.operators.map(o => (o.longMetric("numOutputRows"), o.longMetric("computeTime"))).toArray)
    if (block.input.supportsColumnar) new CometExecRDD(block.input.executeColumnar(), run.ofBatches)
    else new CometExecRDD(block.input.execute(), run.ofRows)
  }

  /** All operators from here down to the first that is not native. */
  private[comet] def nativeBlock: NativeBlock = child match {
    case below: CometNativeExec =>
      val block = below.nativeBlock
      NativeBlock(message(block.root), this +: block.operators, block.input)
    case input =>
      val scan = new ProtoWriter().uint32(1, 0).bytes(2, CometArrowSchema.carrier(input.schema).serializeAsMessage())
      NativeBlock(message(new ProtoWriter().message(1, scan)), Seq(this), input)
  }

  private def setting(key: String): Option[String] = Option(conf.getConfString(key, null))
}

/** Operators that are one native plan.
  *
  * @param root a `NodeMessage`
  * @param operators in pre-order, without the scan
  * @param input whatever Spark operator feeds the scan
  */
private[comet] case class NativeBlock(root: ProtoWriter, operators: Seq[CometNativeExec], input: SparkPlan) {
  def plan(batchRows: Int, threads: Int): Array[Byte] =
    new ProtoWriter().message(1, root).uint32(2, batchRows).uint32(3, threads).toByteArray
}

/** The batches of native plans, one over each partition of `input`. */
private class CometExecRDD[T: ClassTag](input: RDD[T], run: Iterator[T] => Iterator[ColumnarBatch])
    extends RDD[ColumnarBatch](input) {
  override protected def getPartitions: Array[Partition] = firstParent[T].partitions

  override def compute(split: Partition, context: TaskContext): Iterator[ColumnarBatch] =
    run(firstParent[T].iterator(split, context))
}

/** Runs a native plan over one partition; this is what travels to the executors. */
private class NativePartition(
    plan: Array[Byte],
    inputName: String,
    input: StructType,
    output: StructType,
    batchRows: Int,
    metrics: Array[(SQLMetric, SQLMetric)])
    extends Serializable {

  def ofRows(rows: Iterator[InternalRow]): Iterator[ColumnarBatch] = run { failures =>
    // A batch of slow rows may take long; a task that is killed need not see its end.
    CometArrowStream.ofRows(input, new InterruptibleIterator(TaskContext.get(), rows), batchRows, failures)
  }

  def ofBatches(batches: Iterator[ColumnarBatch]): Iterator[ColumnarBatch] = run { failures =>
    CometArrowStream.ofBatches(inputName, input, batches, failures)
  }

  private def run(open: InputFailures => CometArrowStream): Iterator[ColumnarBatch] = {
    val failures = new InputFailures
    new CometExecIterator(plan, Seq(open(failures)), failures, output, TaskContext.get(), addMetrics)
  }

  /** The last pair is the scan's, which no Spark operator stands for. */
  private def addMetrics(values: Array[Long]): Unit =
    metrics.zip(values.grouped(2)).foreach { case ((rows, time), Array(outputRows, nanos)) =>
      rows += outputRows
      time += nanos
    }
}

/** Rows for which `condition` holds. `output` is that of the Spark operator, which may know columns to be without nulls. */
case class CometFilterExec(condition: Expression, output: Seq[Attribute], child: SparkPlan) extends CometNativeExec {
  override def nodeName: String = "CometFilter"

  override def outputPartitioning: Partitioning = child.outputPartitioning

  override def outputOrdering: Seq[SortOrder] = child.outputOrdering

  override protected def message(child: ProtoWriter): ProtoWriter = {
    val filter = new ProtoWriter().message(1, child).message(2, ExprSerde.converted(condition, this.child.output))
    new ProtoWriter().message(2, filter)
  }

  override protected def withNewChildInternal(newChild: SparkPlan): CometFilterExec = copy(child = newChild)
}

/** Computed columns. */
case class CometProjectExec(projectList: Seq[NamedExpression], child: SparkPlan)
    extends CometNativeExec
    with PartitioningPreservingUnaryExecNode
    with OrderPreservingUnaryExecNode {
  override def nodeName: String = "CometProject"

  override def output: Seq[Attribute] = projectList.map(_.toAttribute)

  override protected def outputExpressions: Seq[NamedExpression] = projectList

  override protected def orderingExpressions: Seq[SortOrder] = child.outputOrdering

  override protected def message(child: ProtoWriter): ProtoWriter = {
    val project = new ProtoWriter().message(1, child)
    projectList.foreach(column => project.message(2, ExprSerde.converted(column, this.child.output)))
    projectList.indices.foreach(i => project.string(3, s"c$i"))
    new ProtoWriter().message(3, project)
  }

  override protected def withNewChildInternal(newChild: SparkPlan): CometProjectExec = copy(child = newChild)
}
