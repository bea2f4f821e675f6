// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.{ByteArrayInputStream, EOFException, InputStream, IOException}
import java.nio.{ByteBuffer, ByteOrder}
import java.util.zip.CRC32C

import org.scalatest.funsuite.AnyFunSuite

class BlockStreamSuite extends AnyFunSuite {

  /** A block as native code frames it; what is in it does not matter here. */
  private def block(payload: Array[Byte]): Array[Byte] = {
    val bytes = ByteBuffer.allocate(40 + payload.length).order(ByteOrder.LITTLE_ENDIAN)
    bytes.putLong(32L + payload.length).putLong(3).put("LZ4_".getBytes).put(1: Byte).put(new Array[Byte](3)).putInt(0)
    bytes.putInt(10).putInt(payload.length).putInt(7).put(payload)
    val crc = new CRC32C
    crc.update(bytes.array(), 8, 16)
    crc.update(bytes.array(), 28, bytes.capacity - 28)
    bytes.putInt(24, crc.getValue.toInt)
    bytes.array()
  }

  /** Gives at most `most` bytes a read, as a network stream does. */
  private def dripping(bytes: Array[Byte], most: Int): InputStream = new ByteArrayInputStream(bytes) {
    override def read(into: Array[Byte], offset: Int, length: Int): Int = super.read(into, offset, math.min(length, most))
  }

  private val first = block(Array.tabulate(100)(_.toByte))
  private val all = first ++ block(Array.empty) ++ block(Array.fill(7)(9))

  test("blocks pass unchanged, however few bytes a read gives") {
    for (most <- Seq(1, 3, 8, 27, 28, 29, 1000)) {
      assert(new BlockStream(dripping(all, most)).readAllBytes().sameElements(all))
    }
  }

  test("any flipped bit is an error before the block is complete") {
    for (bit <- 0 until first.length * 8) {
      val damaged = all.clone()
      damaged(bit / 8) = (damaged(bit / 8) ^ (1 << bit % 8)).toByte
      withClue(s"bit $bit: ") {
        assertThrows[IOException](new BlockStream(new ByteArrayInputStream(damaged)).readAllBytes())
        // A damaged length alone may show only at the end of the fetched bytes.
        if (bit >= 64) assertThrows[IOException](new BlockStream(new ByteArrayInputStream(damaged)).readNBytes(first.length))
      }
    }
  }

  test("every truncation inside a block is an error, one between blocks is not") {
    val ends = Set(0, first.length, first.length + 40, all.length)
    for (length <- 0 to all.length) {
      def read() = new BlockStream(new ByteArrayInputStream(all.take(length))).readAllBytes()
      if (ends(length)) assert(read().length == length) else assertThrows[EOFException](read())
    }
  }

  test("absurd lengths are refused before memory is asked for") {
    for (length <- Seq(Long.MaxValue, -1L, Int.MaxValue.toLong, 31L, 0L)) {
      val header = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(length).array()
      assertThrows[IOException](BlockStream.contentLength(header))
      assertThrows[IOException](new BlockStream(new ByteArrayInputStream(header)).readNBytes(8))
    }
  }
}
