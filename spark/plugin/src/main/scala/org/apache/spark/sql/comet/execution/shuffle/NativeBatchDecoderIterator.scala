// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.{EOFException, InputStream}
import java.nio.ByteBuffer

import org.apache.arrow.memory.BufferAllocator
import org.apache.arrow.vector.types.pojo.Schema

import org.apache.comet.{BatchImporter, Native, OwnedBatchIterator}

import org.apache.spark.sql.execution.metric.SQLMetric
import org.apache.spark.sql.vectorized.ColumnarBatch

/** What all blocks of one shuffle are decoded with in a task. `allocator` has to outlive the batches, some of which may have been
  * moved to a native plan that still holds them when this is closed.
  */
private[shuffle] final class BlockDecoder(schemaMessage: Array[Byte], allocator: BufferAllocator, decodeTime: SQLMetric)
    extends AutoCloseable {
  private val importer = new BatchImporter(Schema.deserializeMessage(ByteBuffer.wrap(schemaMessage)), allocator)
  private val reader = Native.createShuffleReader(schemaMessage)

  /** The batch of the blocks that are the first `length` of `bytes`. */
  def decode(bytes: Array[Byte], length: Int): Option[ColumnarBatch] = {
    val begin = System.nanoTime()
    val batch = importer.next(array => Native.decodeShuffleBlock(reader, bytes, length.toLong, array))
    decodeTime += System.nanoTime() - begin
    batch
  }

  override def close(): Unit = Native.releaseShuffleReader(reader)
}

/** The batches of all fetched shuffle blocks of one reduce task.
  *
  * Small blocks, of which there are many if partitions are many, are decoded together: a batch costs so much for each column,
  * however few rows it has.
  *
  * @param batchRows with half as many rows a batch is large enough
  */
private[shuffle] final class NativeBatchDecoderIterator(streams: Iterator[InputStream], decoder: BlockDecoder, batchRows: Int)
    extends OwnedBatchIterator {
  private var stream: InputStream = _
  private val header = new Array[Byte](BlockStream.LengthBytes)

  /** Bytes of the block whose length was read and which waits for the next batch; 0 = none. */
  private var waiting = 0
  private var blocks = Array.emptyByteArray
  private var end = 0

  /** Bytes that there is room for. */
  private[shuffle] def reservedBytes: Int = blocks.length

  override protected def read(): Option[ColumnarBatch] = {
    end = 0
    if (blocks.length > 2 * NativeBatchDecoderIterator.JoinedBytes) blocks = Array.emptyByteArray
    var rows, content = 0L
    while (rows * 2 < batchRows && content < NativeBatchDecoderIterator.JoinedBytes && nextBlock()) {
      if (end > 0 && end.toLong + waiting > NativeBatchDecoderIterator.JoinedBytes) return decode()
      val block = end
      readBlock()
      rows += BlockStream.rows(blocks, block)
      content += BlockStream.plainBytes(blocks, block)
    }
    if (end > 0) decode() else None
  }

  override protected def release(): Unit = {
    // A listener keeps this iterator to the end of the task, and a task may have hundreds of them.
    blocks = Array.emptyByteArray
    try closeStream()
    finally decoder.close()
  }

  private def decode(): Option[ColumnarBatch] = decoder.decode(blocks, end)

  /** Whether there is another block; its length has been read then. */
  private def nextBlock(): Boolean = {
    while (waiting == 0) {
      if (stream == null) {
        if (!streams.hasNext) return false
        stream = streams.next()
      }
      val n = stream.read(header, 0, header.length)
      if (n < 0) {
        closeStream()
      } else {
        readFully(header, n, header.length)
        waiting = BlockStream.contentLength(header).toInt
      }
    }
    true
  }

  /** Puts the block that waits behind the others. */
  private def readBlock(): Unit = {
    reserve(header.length)
    System.arraycopy(header, 0, blocks, end, header.length)
    end += header.length
    // Much room is made for what has come only, not for what a length claims that no checksum has confirmed yet.
    while (waiting > 0) {
      val step = math.min(waiting, math.max(end, NativeBatchDecoderIterator.TrustedBytes))
      reserve(step)
      readFully(blocks, end, end + step)
      end += step
      waiting -= step
    }
  }

  private def reserve(more: Int): Unit = if (blocks.length - end < more) {
    val larger = math.max(blocks.length * 2L, NativeBatchDecoderIterator.FirstBytes)
    val doubled = math.min(larger, NativeBatchDecoderIterator.LargestArray)
    blocks = java.util.Arrays.copyOf(blocks, math.max(doubled, end.toLong + more).toInt)
  }

  private def readFully(into: Array[Byte], from: Int, until: Int): Unit = {
    var at = from
    while (at < until) {
      val n = stream.read(into, at, until - at)
      if (n < 0) throw new EOFException(s"a shuffle block ends ${until - at} bytes early")
      at += n
    }
  }

  private def closeStream(): Unit = if (stream != null) {
    val done = stream
    stream = null
    done.close()
  }
}

private[shuffle] object NativeBatchDecoderIterator {
  private val FirstBytes = 64 * 1024L

  /** As many as an ordinary block has at most, so that it needs one array, not a series of larger ones. */
  private val TrustedBytes = 1024 * 1024

  /** Blocks of more bytes than this together, stored or decompressed, are not joined. */
  private val JoinedBytes = 4 * 1024 * 1024

  private val LargestArray = Int.MaxValue - 8L
}
