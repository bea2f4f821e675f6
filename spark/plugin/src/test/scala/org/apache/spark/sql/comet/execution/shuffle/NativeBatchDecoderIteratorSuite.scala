// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.{ByteArrayInputStream, EOFException, InputStream}
import java.nio.{ByteBuffer, ByteOrder}
import java.nio.file.{Files, Path}

import org.apache.comet.{CometArrowAllocator, Native, NativeTask, ProtoWriter}

import org.apache.spark.TaskKilledException
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection
import org.apache.spark.sql.comet.execution.arrow.CometArrowSchema
import org.apache.spark.sql.execution.metric.SQLMetric
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String
import org.scalatest.funsuite.AnyFunSuite

/** Blocks of the native library, on `java.library.path`. */
class NativeBatchDecoderIteratorSuite extends AnyFunSuite {
  private val library =
    sys.props("java.library.path").split(':').exists(folder => Files.exists(Path.of(folder, "libballista_spark.so")))
  private val schema = StructType(Seq(StructField("n", LongType), StructField("s", StringType)))
  private val message = CometArrowSchema.arrow(schema).serializeAsMessage()

  private def task(killed: Boolean) = new NativeTask {
    override def isKilled: Boolean = killed
    override def takeFailure(): Throwable = null
  }

  private def written(
      numbers: Range,
      batchRows: Int,
      killed: Boolean = false,
      text: Int => String = n => s"row $n"): Array[Byte] = {
    val memory = new TestMemory(64 << 20)
    val project = UnsafeProjection.create(schema)
    val rows = numbers.map(n => project(InternalRow(n.toLong, UTF8String.fromString(text(n)))).getBytes -> 0)
    val buffer = memory.buffer(rows: _*)
    val config = new ProtoWriter().bytes(1, message).uint32(2, 1).string(3, "lz4").int32(4, 1).uint32(5, batchRows).string(6, "")
    val writer = Native.createShuffleWriter(config.toByteArray, task(killed))
    val path = Files.createTempFile("blocks", ".data")
    try {
      Native.writeSortedFileNative(writer, path.toString, false, buffer.indexAddress(), buffer.rows())
      Files.readAllBytes(path)
    } finally {
      Files.deleteIfExists(path)
      Native.releaseShuffleWriter(writer)
      buffer.free()
    }
  }

  private class Counted(bytes: Array[Byte]) extends ByteArrayInputStream(bytes) {
    var closed = 0
    override def close(): Unit = closed += 1
  }

  private lazy val allocator = CometArrowAllocator.child("test")

  private def open(streams: Seq[InputStream], batchRows: Int = 8192) =
    new NativeBatchDecoderIterator(streams.iterator, new BlockDecoder(message, allocator, new SQLMetric("timing")), batchRows)

  private def nothingLeft(): Unit = {
    assert(CometArrowAllocator.allocated == 0)
    assert(Native.liveHandles() == 0)
  }

  test("small blocks of many streams become few batches, in their order, and all is closed at the end") {
    assume(library, "the native library is not built")
    val streams = (0 until 50).map(i => new Counted(written(i * 100 until (i + 1) * 100, 30))) :+ new Counted(Array.empty)
    val batches = open(streams, 2000)
    var (found, count) = (Seq.empty[Long], 0)
    batches.foreach { batch =>
      count += 1
      assert(batch.numRows <= 1030)
      found ++= (0 until batch.numRows).map { i =>
        assert(batch.column(1).getUTF8String(i).toString == s"row ${batch.column(0).getLong(i)}")
        batch.column(0).getLong(i)
      }
    }
    assert(found == (0L until 5000L))
    assert(count == 5)
    assert(streams.forall(_.closed == 1))
    nothingLeft()
    batches.close()
  }

  test("blocks that are large when they are decompressed are not joined") {
    assume(library, "the native library is not built")
    val batches = open(Seq(new Counted(written(0 until 20, 1, text = n => "x" * (1 << 20) + n))))
    assert(batches.map(_.numRows).toSeq == Seq.fill(5)(4))
    nothingLeft()
  }

  test("an end before the end closes everything too") {
    assume(library, "the native library is not built")
    val stream = new Counted(written(0 until 1000, 100))
    val batches = open(Seq(stream), 100)
    assert(batches.next().numRows == 100)
    batches.close()
    batches.close()
    assert(stream.closed == 1)
    assert(!batches.hasNext)
    // A listener keeps it to the end of the task.
    assert(batches.reservedBytes == 0)
    nothingLeft()
  }

  test("no room is made for a length that is only claimed") {
    assume(library, "the native library is not built")
    val block = written(0 until 10, 100)
    val damaged = block ++ block
    ByteBuffer.wrap(damaged).order(ByteOrder.LITTLE_ENDIAN).putLong(block.length, Int.MaxValue - 1000L)
    val batches = open(Seq(new ByteArrayInputStream(damaged)))
    // What came before is whole.
    assert(batches.next().numRows == 10)
    assertThrows[EOFException](batches.hasNext)
    assert(batches.reservedBytes < (2 << 20))
    batches.close()
    nothingLeft()
  }

  test("a task that was killed writes nothing") {
    assume(library, "the native library is not built")
    assertThrows[TaskKilledException](written(0 until 1000, 100, killed = true))
    nothingLeft()
  }
}
