// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import org.apache.comet.CometArrowAllocator

import org.apache.spark.sql.catalyst.dsl.expressions._
import org.apache.spark.sql.catalyst.expressions.{AttributeReference, Expression, Literal}
import org.apache.spark.sql.types._
import org.scalatest.funsuite.AnyFunSuite

class ExprSerdeSuite extends AnyFunSuite {
  private val number = AttributeReference("number", LongType)()
  private val text = AttributeReference("text", StringType)()
  private val float = AttributeReference("float", DoubleType)()
  private val price = AttributeReference("price", DecimalType(15, 2))()
  private val input = Seq(number, text, float, price)

  private def supported(expression: Expression): Boolean = ExprSerde.convert(expression, input).isRight

  private def hex(expression: Expression): String =
    ExprSerde.converted(expression, input).toByteArray.toSeq.map(b => f"$b%02x").mkString

  test("columns are bound by position, and operators nest") {
    assert(hex(number) == "0800")
    assert(hex(text.as("other name")) == "0801")
    assert(hex(text.isNotNull) == "2204" + "2a02" + "0801")
    assert(hex(number === number) == "1a0b" + "0a013d" + "12020800" + "1a020800")
    assert(hex((number > number) || !(number <= number)).contains("4f52"))
  }

  test("what native code answers differently stays spark's") {
    assert(supported(number === Literal(1L)))
    assert(supported(text < Literal("m") && price >= Literal(Decimal("1.50"), DecimalType(15, 2))))
    // Arrow orders 0.0 and -0.0, and Spark does not.
    assert(!supported(float === Literal(0.0)))
    assert(supported(float.isNull))
    // Operands of two types would be cast by native code, by rules that are not Spark's.
    assert(!supported(price === Literal(Decimal("1.5"), DecimalType(10, 1))))
    assert(!supported(number + 1L === Literal(2L)))
    assert(!supported(text.like("a%")))
    val collated = AttributeReference("c", StringType("UTF8_LCASE"))()
    assert(ExprSerde.convert(collated === collated, Seq(collated)).isLeft)
    assert(ExprSerde.convert(text, Seq(number)).isLeft)
  }

  test("literals of every plain type, null too, are streams of one value, and leave no memory behind") {
    val values = Seq(true, 1.toByte, 1.toShort, 1, 1L, 1f, 1.0, "text", Array[Byte](1), BigDecimal("1.5"), null)
    values.foreach(value => assert(supported(Literal(value)), s"literal $value"))
    for (one <- Seq(DateType, TimestampType, TimestampNTZType, StringType, DecimalType(38, 18), DayTimeIntervalType())) {
      assert(supported(Literal(null, one)), one)
    }
    assert(!supported(Literal.create(Seq(1), ArrayType(IntegerType))))
    assert(CometArrowAllocator.allocated == 0)
  }
}
