// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.arrow

import scala.jdk.CollectionConverters._
import scala.util.Random

import org.apache.arrow.vector.VectorSchemaRoot
import org.apache.comet.{CometArrowAllocator, CometVector}

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{UnsafeProjection, UnsafeRow}
import org.apache.spark.sql.catalyst.util.{ArrayBasedMapData, GenericArrayData}
import org.apache.spark.sql.execution.arrow.ArrowWriter
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ColumnarBatch, ColumnVector}
import org.apache.spark.unsafe.types.UTF8String
import org.scalatest.funsuite.AnyFunSuite

class CometVectorSuite extends AnyFunSuite {
  private val flat: Seq[DataType] = Seq(
    NullType, BooleanType, ByteType, ShortType, IntegerType, LongType, FloatType, DoubleType, DecimalType(1, 0), DecimalType(18, 5),
    DecimalType(19, 0), DecimalType(38, 10), StringType, BinaryType, DateType, TimestampType, TimestampNTZType,
    DayTimeIntervalType(), YearMonthIntervalType())
  private val nested: Seq[DataType] = flat.filterNot(_ == NullType).map(ArrayType(_)) ++ Seq(
    StructType(flat.zipWithIndex.map { case (t, i) => StructField(s"f$i", t) }),
    MapType(IntegerType, StringType),
    ArrayType(MapType(StringType, ArrayType(StructType(Seq(StructField("x", DecimalType(30, 2)))))))
  )

  /** A value of Spark's own form; the extremes of its type now and then. */
  private def value(dataType: DataType, random: Random, nulls: Boolean): Any = {
    def integer(bits: Int): Long = random.nextInt(10) match {
      case 0 => -1L << (bits - 1)
      case 1 => ~(-1L << (bits - 1))
      case 2 => 0
      case _ => random.nextLong() >> (64 - bits)
    }
    def text = Array.fill(random.nextInt(20))((random.nextInt(94) + 32).toByte)
    if (nulls && random.nextInt(5) == 0) return null
    dataType match {
      case NullType => null
      case BooleanType => random.nextBoolean()
      case ByteType => integer(8).toByte
      case ShortType => integer(16).toShort
      case IntegerType | DateType | _: YearMonthIntervalType => integer(32).toInt
      case LongType | TimestampType | TimestampNTZType | _: DayTimeIntervalType => integer(64)
      case FloatType => java.lang.Float.intBitsToFloat(integer(32).toInt & 0x7f7fffff)
      case DoubleType => random.nextGaussian() * 1e300
      case decimal: DecimalType =>
        val digits = BigInt(10).pow(1 + random.nextInt(decimal.precision)) - 1
        val unscaled = if (random.nextBoolean()) digits else -(digits / (1 + random.nextInt(1000)))
        Decimal(BigDecimal(unscaled, decimal.scale), decimal.precision, decimal.scale)
      case StringType => UTF8String.fromBytes(text)
      case BinaryType => text
      case ArrayType(element, _) => new GenericArrayData(Array.fill[Any](random.nextInt(4))(value(element, random, nulls = true)))
      case MapType(key, of, _) =>
        val keys = Array.fill[Any](random.nextInt(4))(value(key, random, nulls = false))
        new ArrayBasedMapData(new GenericArrayData(keys), new GenericArrayData(keys.map(_ => value(of, random, nulls = true))))
      case StructType(fields) => InternalRow.fromSeq(fields.toSeq.map(f => value(f.dataType, random, nulls = true)))
    }
  }

  private def check(schema: StructType, rows: Seq[InternalRow]): Unit = {
    val allocator = CometArrowAllocator.child("test")
    val root = VectorSchemaRoot.create(CometArrowSchema.arrow(schema), allocator)
    val writer = ArrowWriter.create(root)
    rows.foreach(writer.write)
    writer.finish()
    val columns = root.getFieldVectors.asScala.map(v => new CometVector(v): ColumnVector).toArray
    val batch = new ColumnarBatch(columns, rows.length)
    val bytes = UnsafeProjection.create(schema)
    for ((row, i) <- rows.zipWithIndex) {
      val expected: UnsafeRow = bytes(row).copy()
      assert(bytes(batch.getRow(i)) == expected, s"row $i of $schema: $row")
      schema.indices.foreach(c => assert(columns(c).isNullAt(i) == row.isNullAt(c)))
    }
    columns.zipWithIndex.foreach { case (c, i) =>
      assert(c.numNulls == rows.count(_.isNullAt(i)))
      assert(c.hasNull == rows.exists(_.isNullAt(i)))
    }
    batch.close()
    allocator.close()
  }

  test("every type is read as it was written, with nulls and without") {
    val random = new Random(7)
    for (dataType <- flat ++ nested; nulls <- Seq(true, false)) {
      val schema = StructType(Seq(StructField("v", dataType)))
      for (count <- Seq(1, 64, 1000)) check(schema, Seq.fill(count)(InternalRow(value(dataType, random, nulls))))
    }
    assert(CometArrowAllocator.allocated == 0)
  }

  test("a batch without rows can be made and closed") {
    (flat ++ nested).foreach(t => check(StructType(Seq(StructField("v", t))), Nil))
    assert(CometArrowAllocator.allocated == 0)
  }
}
