// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import java.io.ByteArrayOutputStream

import org.apache.arrow.vector.VectorSchemaRoot
import org.apache.arrow.vector.ipc.ArrowStreamWriter
import org.apache.comet.{CometArrowAllocator, ProtoWriter}

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Left => _, Right => _, _}
import org.apache.spark.sql.comet.execution.arrow.CometArrowSchema
import org.apache.spark.sql.execution.arrow.ArrowWriter
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/** Spark's expressions as `ExprMessage`s of `spark/native/src/plan.rs`. Only such that native code gives the same answer for,
  * whatever the values, and that cannot fail.
  */
private[comet] object ExprSerde {

  /** The message, or why there is none. Columns are bound to their position in `input`. */
  def convert(expression: Expression, input: Seq[Attribute]): Either[String, ProtoWriter] = expression match {
    case Alias(child, _) => convert(child, input)
    case column: AttributeReference =>
      input.indexWhere(_.exprId == column.exprId) match {
        case -1 => Left(s"column $column is not in the input")
        case position => Right(new ProtoWriter().uint32(1, position))
      }
    case Literal(value, dataType) => literal(value, dataType)
    case EqualTo(left, right) => comparison("=", left, right, input)
    case LessThan(left, right) => comparison("<", left, right, input)
    case LessThanOrEqual(left, right) => comparison("<=", left, right, input)
    case GreaterThan(left, right) => comparison(">", left, right, input)
    case GreaterThanOrEqual(left, right) => comparison(">=", left, right, input)
    case And(left, right) => binary("AND", left, right, input)
    case Or(left, right) => binary("OR", left, right, input)
    case Not(child) => convert(child, input).map(not)
    case IsNull(child) => convert(child, input).map(isNull)
    case IsNotNull(child) => convert(child, input).map(c => not(isNull(c)))
    case other => Left(s"expression ${other.prettyName}")
  }

  /** The message of an expression that [[convert]] has already accepted. */
  def converted(expression: Expression, input: Seq[Attribute]): ProtoWriter =
    convert(expression, input).fold(why => throw new IllegalStateException(s"planned to be native: $why"), identity)

  private def not(child: ProtoWriter) = new ProtoWriter().message(4, child)

  private def isNull(child: ProtoWriter) = new ProtoWriter().message(5, child)

  private def comparison(operator: String, left: Expression, right: Expression, input: Seq[Attribute]) =
    if (left.dataType != right.dataType) Left(s"$operator of ${left.dataType} and ${right.dataType}")
    else if (!comparesBytewise(left.dataType)) Left(s"$operator of ${left.dataType.catalogString}")
    else binary(operator, left, right, input)

  private def binary(operator: String, left: Expression, right: Expression, input: Seq[Attribute]) =
    for {
      l <- convert(left, input)
      r <- convert(right, input)
    } yield new ProtoWriter().message(3, new ProtoWriter().string(1, operator).message(2, l).message(3, r))

  /** Types whose order and equality are the same in Spark and in Arrow. Floats are not: Arrow tells 0.0 from -0.0. */
  private def comparesBytewise(dataType: DataType): Boolean = dataType match {
    case BooleanType | ByteType | ShortType | IntegerType | LongType | _: DecimalType => true
    case BinaryType | DateType | TimestampType | TimestampNTZType => true
    case string: StringType => string.supportsBinaryEquality && string.supportsBinaryOrdering
    case _ => false
  }

  /** An Arrow IPC stream of one value. */
  private def literal(value: Any, dataType: DataType): Either[String, ProtoWriter] = dataType match {
    case _: ArrayType | _: MapType | _: StructType | _: UserDefinedType[_] => Left(s"literal of ${dataType.catalogString}")
    case _ =>
      val schema = StructType(Seq(StructField("value", dataType)))
      CometArrowSchema.refusal(schema).toLeft(new ProtoWriter().bytes(2, literalStream(value, schema)))
  }

  private def literalStream(value: Any, schema: StructType): Array[Byte] = {
    val carried = value match {
      case string: UTF8String => string.getBytes
      case other => other
    }
    val out = new ByteArrayOutputStream
    val allocator = CometArrowAllocator.child("literal")
    try {
      val root = VectorSchemaRoot.create(CometArrowSchema.carrier(schema), allocator)
      try {
        val writer = ArrowWriter.create(root)
        writer.write(InternalRow(carried))
        writer.finish()
        val stream = new ArrowStreamWriter(root, null, out)
        stream.writeBatch()
        stream.end()
      } finally root.close()
    } finally allocator.close()
    out.toByteArray
  }
}
