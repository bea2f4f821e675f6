// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.{EOFException, InputStream}
import java.nio.ByteBuffer

import org.apache.arrow.memory.BufferAllocator
import org.apache.arrow.vector.types.pojo.Schema
import org.apache.comet.{BatchImporter, Native, OwnedBatchIterator}

import org.apache.spark.sql.execution.metric.SQLMetric
import org.apache.spark.sql.vectorized.ColumnarBatch

/** What all blocks of one reduce task are decoded with: the native decoder, the Arrow schema, one growing byte array. */
private[shuffle] final class BlockDecoder(schemaMessage: Array[Byte], allocator: BufferAllocator, decodeTime: SQLMetric)
    extends AutoCloseable {
  private val importer = new BatchImporter(Schema.deserializeMessage(ByteBuffer.wrap(schemaMessage)), allocator)
  private val reader = Native.createShuffleReader(schemaMessage)
  private var buffer = new Array[Byte](128 * 1024)
  private var closed = false

  /** Where the block that is to be decoded next goes: at least `length` bytes. */
  def reserve(length: Int): Array[Byte] = {
    if (buffer.length < length) {
      buffer = new Array[Byte](math.min(Int.MaxValue - 8L, math.max(length.toLong, buffer.length * 2L)).toInt)
    }
    buffer
  }

  def decode(length: Int): Option[ColumnarBatch] = {
    val begin = System.nanoTime()
    val batch = importer.next(array => Native.decodeShuffleBlock(reader, buffer, length.toLong, array))
    decodeTime += System.nanoTime() - begin
    batch
  }

  override def close(): Unit = if (!closed) {
    closed = true
    Native.releaseShuffleReader(reader)
  }
}

/** The batches of one fetched shuffle block. */
private[shuffle] final class NativeBatchDecoderIterator(in: InputStream, decoder: BlockDecoder) extends OwnedBatchIterator {
  private val header = new Array[Byte](BlockStream.LengthBytes)

  override protected def read(): Option[ColumnarBatch] = {
    val first = in.read(header, 0, header.length)
    if (first < 0) {
      None
    } else {
      readFully(header, first, header.length)
      val length = BlockStream.contentLength(header).toInt
      readFully(decoder.reserve(length), 0, length)
      decoder.decode(length)
    }
  }

  override protected def release(): Unit = in.close()

  private def readFully(into: Array[Byte], from: Int, until: Int): Unit = {
    var at = from
    while (at < until) {
      val n = in.read(into, at, until - at)
      if (n < 0) throw new EOFException(s"a shuffle block ends ${until - at} bytes early")
      at += n
    }
  }
}
