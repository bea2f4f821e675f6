// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.arrow

import java.util.concurrent.ConcurrentLinkedQueue

import scala.jdk.CollectionConverters._

import org.apache.arrow.c.{ArrowArrayStream, Data}
import org.apache.arrow.memory.BufferAllocator
import org.apache.arrow.vector.{BigIntVector, IntVector, NullVector, VarCharVector}
import org.apache.arrow.vector.complex.ListVector
import org.apache.arrow.vector.ipc.ArrowReader
import org.apache.arrow.vector.types.Types
import org.apache.arrow.vector.types.pojo.FieldType
import org.apache.comet.{CometArrowAllocator, CometVector}
import org.apache.logging.log4j.LogManager
import org.apache.logging.log4j.core.{LogEvent, Logger}
import org.apache.logging.log4j.core.appender.AbstractAppender
import org.apache.logging.log4j.core.config.Property

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.vectorized.OnHeapColumnVector
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ColumnarBatch, ColumnVector}
import org.apache.spark.unsafe.types.UTF8String
import org.scalatest.BeforeAndAfterEach
import org.scalatest.funsuite.AnyFunSuite

/** Arrow's own importer stands for native code. */
class CometArrowStreamSuite extends AnyFunSuite with BeforeAndAfterEach {
  private val schema = StructType(Seq(StructField("n", LongType), StructField("s", StringType)))
  private def row(n: Long): InternalRow = InternalRow(n, if (n % 3 == 0) null else UTF8String.fromString(s"row $n"))
  private def expected(n: Long) = (n, if (n % 3 == 0) null else s"row $n")

  override def afterEach(): Unit = assert(CometArrowAllocator.allocated == 0)

  /** Imports the stream, gives its reader to `body`, and closes everything in the order native code does. */
  private def imported[T](open: InputFailures => CometArrowStream)(body: (ArrowReader, InputFailures) => T): T = {
    val failures = new InputFailures
    val stream = open(failures)
    val allocator = CometArrowAllocator.child("native")
    try {
      val reader = Data.importArrayStream(allocator, ArrowArrayStream.wrap(stream.stream.memoryAddress))
      try body(reader, failures)
      finally reader.close()
    } finally {
      stream.close()
      stream.closeAllocator()
      allocator.close()
    }
  }

  private def values(reader: ArrowReader): Seq[(Long, String)] = {
    val root = reader.getVectorSchemaRoot
    (0 until root.getRowCount).map { i =>
      val text = root.getVector(1).getObject(i)
      (root.getVector(0).asInstanceOf[BigIntVector].get(i), if (text == null) null else text.toString)
    }
  }

  private def drain(reader: ArrowReader): Seq[Seq[(Long, String)]] =
    Iterator.continually(reader.loadNextBatch()).takeWhile(identity).map(_ => values(reader)).toSeq

  test("rows arrive in batches of the wanted size") {
    imported(CometArrowStream.ofRows(schema, Iterator.range(0, 25).map(n => row(n.toLong)), 10, _)) { (reader, _) =>
      val batches = drain(reader)
      assert(batches.map(_.length) == Seq(10, 10, 5))
      assert(batches.flatten == (0L until 25).map(expected))
    }
  }

  test("no rows are no batches") {
    imported(CometArrowStream.ofRows(schema, Iterator.empty, 10, _))((reader, _) => assert(drain(reader) == Nil))
    imported(CometArrowStream.ofBatches("op", schema, Iterator.empty, _))((reader, _) => assert(drain(reader) == Nil))
  }

  private def sparkBatch(from: Long, to: Long): ColumnarBatch = {
    val rows = (to - from).toInt
    val numbers = new OnHeapColumnVector(rows, LongType)
    val texts = new OnHeapColumnVector(rows, StringType)
    (from until to).zipWithIndex.foreach { case (n, i) =>
      numbers.putLong(i, n)
      if (n % 3 == 0) texts.putNull(i) else texts.putByteArray(i, s"row $n".getBytes)
    }
    new ColumnarBatch(Array[ColumnVector](numbers, texts), rows)
  }

  test("batches of spark's own vectors are copied") {
    imported(CometArrowStream.ofBatches("op", schema, Iterator(sparkBatch(0, 4), sparkBatch(4, 4), sparkBatch(4, 9)), _)) {
      (reader, _) =>
        val batches = drain(reader)
        assert(batches.map(_.length) == Seq(4, 0, 5))
        assert(batches.flatten == (0L until 9).map(expected))
    }
  }

  private def arrowBatch(allocator: BufferAllocator, from: Int, to: Int): ColumnarBatch = {
    val numbers = new IntVector("whatever", allocator)
    val texts = new VarCharVector("s", allocator)
    (from until to).zipWithIndex.foreach { case (n, i) =>
      numbers.setSafe(i, n)
      if (n % 3 == 0) texts.setNull(i) else texts.setSafe(i, s"row $n".getBytes)
    }
    numbers.setValueCount(to - from)
    texts.setValueCount(to - from)
    new ColumnarBatch(Array[ColumnVector](new CometVector(numbers), new CometVector(texts)), to - from)
  }

  test("arrow-backed batches move, and the stream says their true types") {
    val allocator = CometArrowAllocator.child("upstream")
    val batches = Seq(arrowBatch(allocator, 0, 4), arrowBatch(allocator, 4, 9))
    imported(CometArrowStream.ofBatches("op", schema, batches.iterator, _)) { (reader, _) =>
      assert(reader.getVectorSchemaRoot.getVector(0).isInstanceOf[IntVector])
      var seen = 0
      while (reader.loadNextBatch()) {
        val root = reader.getVectorSchemaRoot
        (0 until root.getRowCount).foreach { i =>
          assert(root.getVector(0).getObject(i) == seen)
          seen += 1
        }
        // What was pulled has left its maker, what was not is there still.
        assert((allocator.getAllocatedMemory > 0) == (seen < 9))
      }
      assert(seen == 9)
      batches.foreach(_.close())
    }
    allocator.close()
  }

  /** What the logger of a class says while `body` runs. */
  private def logged(name: String)(body: => Unit): Seq[String] = {
    val lines = new ConcurrentLinkedQueue[String]()
    val appender = new AbstractAppender("test", null, null, true, Array.empty[Property]) {
      override def append(event: LogEvent): Unit = lines.add(event.getMessage.getFormattedMessage)
    }
    appender.start()
    val logger = LogManager.getLogger(name).asInstanceOf[Logger]
    logger.addAppender(appender)
    try body
    finally logger.removeAppender(appender)
    lines.asScala.toSeq
  }

  test("a column of another type than declared is said once, also where only its elements are") {
    val allocator = CometArrowAllocator.child("upstream")
    def lists(): ColumnarBatch = {
      val list = ListVector.empty("l", allocator)
      list.addOrGetVector[IntVector](FieldType.nullable(Types.MinorType.INT.getType))
      new ColumnarBatch(Array[ColumnVector](new CometVector(list)), 0)
    }
    val declared = StructType(Seq(StructField("l", ArrayType(LongType))))
    val lines = logged(CometArrowStream.getClass.getName.stripSuffix("$")) {
      for (_ <- 0 until 3) {
        val batch = lists()
        val schema = CometArrowStream.reconcileStreamSchema("drifting", declared, batch)
        assert(schema.getFields.get(0).getChildren.get(0).getType == Types.MinorType.INT.getType)
        batch.close()
      }
    }
    assert(lines.length == 1 && lines.head.contains("drifting: column l is "), lines)
    val same = logged(CometArrowStream.getClass.getName.stripSuffix("$")) {
      val batch = lists()
      CometArrowStream.reconcileStreamSchema("drifting", StructType(Seq(StructField("l", ArrayType(IntegerType)))), batch)
      batch.close()
    }
    assert(same.isEmpty, same)
    allocator.close()
  }

  test("columns of nulls, which have no memory, move with the others") {
    val allocator = CometArrowAllocator.child("upstream")
    val numbers = new BigIntVector("n", allocator)
    numbers.setSafe(0, 7)
    numbers.setValueCount(1)
    val batch = new ColumnarBatch(Array[ColumnVector](new CometVector(new NullVector("v", 1)), new CometVector(numbers)), 1)
    val types = StructType(Seq(StructField("v", NullType), StructField("n", LongType)))
    imported(CometArrowStream.ofBatches("op", types, Iterator(batch), _)) { (reader, _) =>
      assert(reader.loadNextBatch())
      assert(allocator.getAllocatedMemory == 0)
      val root = reader.getVectorSchemaRoot
      assert(root.getRowCount == 1 && root.getVector(0).isNull(0) && root.getVector(1).getObject(0) == 7L)
    }
    batch.close()
    allocator.close()
  }

  test("vectors of somebody else's memory are copied, not moved") {
    val foreign = new org.apache.arrow.memory.RootAllocator()
    val batch = arrowBatch(foreign, 1, 3)
    val asLong = StructType(Seq(StructField("n", IntegerType), StructField("s", StringType)))
    imported(CometArrowStream.ofBatches("op", asLong, Iterator(batch), _)) { (reader, _) =>
      assert(reader.loadNextBatch())
      assert(reader.getVectorSchemaRoot.getVector(1).getObject(0).toString == "row 1")
      assert(foreign.getAllocatedMemory > 0)
    }
    batch.close()
    foreign.close()
  }

  test("an exception of the input is kept as the object it was") {
    val cause = new IllegalStateException("upstream")
    val rows = Iterator.tabulate(15)(n => if (n == 12) throw cause else row(n.toLong))
    imported(CometArrowStream.ofRows(schema, rows, 10, _)) { (reader, failures) =>
      assert(reader.loadNextBatch())
      val thrown = intercept[IllegalStateException](failures.original(reader.loadNextBatch()))
      assert(thrown eq cause)
      assert(failures.take() == null)
    }
  }

  test("a stream that is never taken is released by its maker") {
    CometArrowStream.ofRows(schema, Iterator(row(1)), 10, new InputFailures).close()
    assertThrows[IllegalStateException](
      CometArrowStream.ofBatches("op", schema, Iterator.continually(throw new IllegalStateException("first batch")), new InputFailures))
  }

  test("a change of types between batches is an error, not garbage") {
    val allocator = CometArrowAllocator.child("upstream")
    val second = new ColumnarBatch(
      Array[ColumnVector](new CometVector(new BigIntVector("n", allocator)), new CometVector(new VarCharVector("s", allocator))), 0)
    val first = arrowBatch(allocator, 0, 4)
    imported(CometArrowStream.ofBatches("op", schema, Iterator(first, second), _)) { (reader, failures) =>
      assert(reader.loadNextBatch())
      val thrown = intercept[IllegalStateException](failures.original(reader.loadNextBatch()))
      assert(thrown.getMessage.contains("column 0 changed"))
    }
    first.close()
    second.close()
    allocator.close()
  }
}
