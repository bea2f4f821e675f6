// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.arrow

import org.apache.spark.sql.types._
import org.scalatest.funsuite.AnyFunSuite

class CometArrowSchemaSuite extends AnyFunSuite {
  private def refusal(dataType: DataType): Option[String] =
    CometArrowSchema.refusal(StructType(Seq(StructField("id", LongType), StructField("c", dataType))))

  private def nested(depth: Int)(wrap: DataType => DataType): DataType = (0 until depth).foldLeft(LongType: DataType)((t, _) => wrap(t))

  private def struct(fields: Int): StructType = StructType((0 until fields).map(i => StructField(s"f$i", LongType)))

  test("types without a form in Arrow stay Spark's, at every level") {
    for (dataType <- Seq(CalendarIntervalType, VariantType)) {
      for (whole <- Seq(dataType, ArrayType(dataType), MapType(LongType, dataType), new StructType().add("f", dataType))) {
        assert(refusal(whole).exists(_.startsWith("column c: ")), whole)
      }
    }
    assert(refusal(new StructType().add("f", LongType).add("f", LongType)).nonEmpty)
    assert(refusal(StringType("UNICODE_CI")).isEmpty)
  }

  test("types that are nested too deep for native code stay Spark's") {
    for ((wrap, levels) <- Seq[(DataType => DataType, Int)](
        (ArrayType(_), 1), (inner => new StructType().add("f", inner), 1), (MapType(LongType, _), 2))) {
      assert(refusal(nested(49 / levels)(wrap)).isEmpty)
      assert(refusal(nested(49 / levels + 1)(wrap)).exists(_.contains("deep")))
    }
  }

  test("structs that would be far larger as columns when they are null stay Spark's") {
    assert(refusal(struct(200)).isEmpty)
    assert(refusal(struct(201)).exists(_.contains("201 fields")))
    assert(refusal(ArrayType(MapType(StringType, struct(201)))).nonEmpty)
    assert(refusal(new StructType().add("a", struct(100)).add("b", struct(99))).nonEmpty)
  }
}
