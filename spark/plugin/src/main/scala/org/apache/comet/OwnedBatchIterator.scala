// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import org.apache.arrow.c.{ArrowArray, Data}
import org.apache.arrow.memory.BufferAllocator
import org.apache.arrow.vector.VectorSchemaRoot
import org.apache.arrow.vector.types.pojo.Schema

import org.apache.spark.sql.vectorized.{ColumnarBatch, ColumnVector}

/** Batches that this iterator frees: one is valid until the next is asked for, so whoever keeps it copies it. */
abstract class OwnedBatchIterator extends Iterator[ColumnarBatch] with AutoCloseable {
  private var current: Option[ColumnarBatch] = None
  private var upcoming: Option[ColumnarBatch] = None
  private var closed = false

  /** The next batch; none at the end. */
  protected def read(): Option[ColumnarBatch]

  /** Frees what the batches came from; called once, after the last of them is free. */
  protected def release(): Unit

  final override def hasNext: Boolean = {
    if (upcoming.isEmpty && !closed) {
      current.foreach(_.close())
      current = None
      upcoming = read()
      if (upcoming.isEmpty) close()
    }
    upcoming.isDefined
  }

  final override def next(): ColumnarBatch = {
    if (!hasNext) throw new NoSuchElementException("no more batches")
    current = upcoming
    upcoming = None
    current.get
  }

  /** Idempotent. */
  final override def close(): Unit = if (!closed) {
    closed = true
    try {
      current.foreach(_.close())
      upcoming.foreach(_.close())
      current = None
      upcoming = None
    } finally release()
  }
}

/** Takes over batches that native code exports as one struct array each. */
final class BatchImporter(schema: Schema, allocator: BufferAllocator) {

  /** @param fill
    *   gets the address of an empty `ArrowArray`, returns rows or `Native.END`
    */
  def next(fill: Long => Long): Option[ColumnarBatch] = {
    val array = ArrowArray.allocateNew(allocator)
    // The struct is ours on every way out; its content is moved out of it, or was never put in.
    try {
      val rows = fill(array.memoryAddress())
      Option.when(rows != Native.END)(imported(array, rows))
    } finally array.close()
  }

  private def imported(array: ArrowArray, rows: Long): ColumnarBatch = {
    val root = VectorSchemaRoot.create(schema, allocator)
    try {
      // Nothing dictionary-encoded ever crosses, so no provider.
      Data.importIntoVectorSchemaRoot(allocator, array, root, null)
      val columns = new Array[ColumnVector](root.getFieldVectors.size)
      columns.indices.foreach(i => columns(i) = new CometVector(root.getVector(i)))
      new ColumnarBatch(columns, Math.toIntExact(rows))
    } catch {
      case t: Throwable =>
        root.close()
        throw t
    }
  }
}
