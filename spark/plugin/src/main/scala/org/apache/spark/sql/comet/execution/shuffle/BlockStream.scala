// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.{EOFException, InputStream, IOException}
import java.util.zip.CRC32C

/** Lets the blocks of one fetched shuffle block pass, and checks each before its last byte is handed on.
  *
  * {{{
  *   0  u64 LE  bytes after this field
  *   8          fields, codec, version
  *  24  u32 LE  CRC-32C of bytes 8..24 followed by bytes 28..end
  *  28          rows, lengths, payload
  * }}}
  *
  * It is the innermost stream, under Spark's `BufferReleasingInputStream`: an `IOException` out of `read` is what makes Spark
  * diagnose the corruption and fail the fetch, so that the map task runs again. An error of the decoder later would only fail
  * this task, again and again.
  */
private[shuffle] final class BlockStream(in: InputStream) extends InputStream {
  private val crc = new CRC32C
  private val frame = new Array[Byte](BlockStream.FrameBytes)
  private var frameSeen = 0
  private var remaining = 0L
  private val one = new Array[Byte](1)

  override def read(): Int = if (read(one, 0, 1) < 0) -1 else one(0) & 0xff

  override def read(bytes: Array[Byte], offset: Int, length: Int): Int =
    if (length == 0) 0
    else if (frameSeen < BlockStream.FrameBytes) readFrame(bytes, offset, length)
    else readContent(bytes, offset, length)

  override def available(): Int = in.available()

  override def close(): Unit = in.close()

  private def readFrame(bytes: Array[Byte], offset: Int, length: Int): Int = {
    val n = in.read(bytes, offset, math.min(length, BlockStream.FrameBytes - frameSeen))
    if (n < 0) {
      if (frameSeen > 0) throw new EOFException(s"a shuffle block ends inside its frame, after $frameSeen bytes")
      return -1
    }
    System.arraycopy(bytes, offset, frame, frameSeen, n)
    frameSeen += n
    // Before anyone makes room for the block.
    if (frameSeen - n < BlockStream.LengthBytes && frameSeen >= BlockStream.LengthBytes) BlockStream.contentLength(frame)
    if (frameSeen == BlockStream.FrameBytes) beginContent()
    n
  }

  private def readContent(bytes: Array[Byte], offset: Int, length: Int): Int = {
    val n = in.read(bytes, offset, math.min(length.toLong, remaining).toInt)
    if (n < 0) throw new EOFException(s"a shuffle block ends $remaining bytes early")
    crc.update(bytes, offset, n)
    remaining -= n
    if (remaining == 0) endBlock()
    n
  }

  private def beginContent(): Unit = {
    crc.reset()
    crc.update(frame, BlockStream.LengthBytes, BlockStream.CrcOffset - BlockStream.LengthBytes)
    remaining = BlockStream.LengthBytes + BlockStream.contentLength(frame) - BlockStream.FrameBytes
  }

  private def endBlock(): Unit = {
    val expected = BlockStream.u32(frame, BlockStream.CrcOffset)
    if (crc.getValue != expected) {
      throw new IOException(f"a shuffle block is damaged: CRC-32C ${crc.getValue}%08x instead of $expected%08x")
    }
    frameSeen = 0
  }
}

private[shuffle] object BlockStream {
  val LengthBytes = 8
  private val CrcOffset = 24
  private val RowsOffset = 28
  private val PlainBytesOffset = 32

  /** All up to and with the checksum. */
  private val FrameBytes = 28

  /** Of a block without columns. */
  private val SmallestContent = 32

  /** Java arrays end here, and writers cut blocks long before. */
  private val LargestContent = Int.MaxValue - 64L

  /** Bytes after the length field; refuses what no writer makes, before anything is allocated for it. */
  def contentLength(header: Array[Byte]): Long = {
    val length = u32(header, 0) | u32(header, 4) << 32
    if (length < SmallestContent || length > LargestContent) {
      throw new IOException(s"a shuffle block claims a length of $length bytes")
    }
    length
  }

  /** Bytes that the block that begins at `block` has when it is decompressed. */
  def plainBytes(bytes: Array[Byte], block: Int): Long = u32(bytes, block + PlainBytesOffset)

  /** Rows of the block that begins at `block`. */
  def rows(bytes: Array[Byte], block: Int): Long = u32(bytes, block + RowsOffset)

  private def u32(bytes: Array[Byte], at: Int): Long =
    (bytes(at) & 0xffL) | (bytes(at + 1) & 0xffL) << 8 | (bytes(at + 2) & 0xffL) << 16 | (bytes(at + 3) & 0xffL) << 24
}
