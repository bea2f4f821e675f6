// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.arrow

import scala.jdk.CollectionConverters._

import org.apache.arrow.vector.types.pojo.{Field, Schema}

import org.apache.spark.sql.types._
import org.apache.spark.sql.util.ArrowUtils

/** Which columns cross between the JVM and native code, in blocks and in batches, and as what. */
object CometArrowSchema {

  /** Deeper types are more than readers of Arrow schemas accept, for which a map is two levels. */
  private val MaxDepth = 50

  /** A null struct is one bit of a row, but in Arrow a value of each of its fields. */
  private val MaxStructFields = 200

  /** Why rows of a schema cannot cross; None = they can. */
  def refusal(schema: StructType): Option[String] =
    schema.fields.iterator
      .flatMap(f => refusal(f.dataType, 1).map(why => s"column ${f.name}: $why"))
      .nextOption()
      .orElse {
        val fields = schema.fields.map(f => fieldsOfStructs(f.dataType)).sum
        Option.when(fields > MaxStructFields)(s"structs have $fields fields, more than $MaxStructFields")
      }

  /** Of structs at every level. */
  private def fieldsOfStructs(dataType: DataType): Int = dataType match {
    case udt: UserDefinedType[_] => fieldsOfStructs(udt.sqlType)
    case ArrayType(element, _) => fieldsOfStructs(element)
    case MapType(key, value, _) => fieldsOfStructs(key) + fieldsOfStructs(value)
    case struct: StructType => struct.length + struct.fields.map(f => fieldsOfStructs(f.dataType)).sum
    case _ => 0
  }

  private def refusal(dataType: DataType, depth: Int): Option[String] = dataType match {
    case _ if depth > MaxDepth => Some(s"nested more than $MaxDepth deep")
    case BooleanType | ByteType | ShortType | IntegerType | LongType | FloatType | DoubleType => None
    case _: DecimalType | _: StringType | BinaryType | NullType => None
    case DateType | TimestampType | TimestampNTZType | _: TimeType => None
    case _: YearMonthIntervalType | _: DayTimeIntervalType => None
    case udt: UserDefinedType[_] => refusal(udt.sqlType, depth)
    case ArrayType(element, _) => refusal(element, depth + 1)
    case MapType(key, value, _) => refusal(key, depth + 2).orElse(refusal(value, depth + 2))
    case struct: StructType =>
      if (struct.fieldNames.distinct.length != struct.length) Some("a struct has two fields of one name")
      else struct.fields.iterator.flatMap(f => refusal(f.dataType, depth + 1)).nextOption()
    case other => Some(s"type ${other.catalogString} has no form in Arrow here")
  }

  /** Arrow schema of rows. Top-level columns are named by position, because names of a row's columns may repeat, and every one
    * is nullable, because an outer join above may widen what the attribute says. Zoned timestamps are UTC instants.
    */
  def arrow(schema: StructType): Schema = {
    val byPosition = schema.fields.zipWithIndex.map { case (f, i) => StructField(s"c$i", f.dataType, nullable = true) }
    ArrowUtils.toArrowSchema(StructType(byPosition), "UTC", true, false)
  }

  /** As native plans see it: strings are bytes there, because Spark's need not be valid UTF-8. */
  def carrier(schema: StructType): Schema = arrow(bytesForStrings(schema).asInstanceOf[StructType])

  private def bytesForStrings(dataType: DataType): DataType = dataType match {
    case _: StringType => BinaryType
    case udt: UserDefinedType[_] => bytesForStrings(udt.sqlType)
    case ArrayType(element, nulls) => ArrayType(bytesForStrings(element), nulls)
    case MapType(key, value, nulls) => MapType(bytesForStrings(key), bytesForStrings(value), nulls)
    case StructType(fields) => StructType(fields.map(f => f.copy(dataType = bytesForStrings(f.dataType))))
    case other => other
  }

  /** Whether arrays of one are laid out like arrays of the other; names and nullability do not matter for that. */
  def sameLayout(one: Schema, other: Schema): Boolean = sameLayout(one.getFields, other.getFields)

  def sameLayout(one: Field, other: Field): Boolean =
    one.getType == other.getType && sameLayout(one.getChildren, other.getChildren)

  private def sameLayout(one: java.util.List[Field], other: java.util.List[Field]): Boolean =
    one.size == other.size && one.asScala.zip(other.asScala).forall { case (a, b) => sameLayout(a, b) }
}
