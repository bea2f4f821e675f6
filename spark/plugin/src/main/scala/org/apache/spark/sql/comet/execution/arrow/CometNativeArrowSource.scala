// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.arrow

import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.atomic.AtomicReference

import scala.jdk.CollectionConverters._

import org.apache.arrow.c.{ArrowArrayStream, Data}
import org.apache.arrow.memory.BufferAllocator
import org.apache.arrow.vector.{FieldVector, VectorSchemaRoot}
import org.apache.arrow.vector.ipc.ArrowReader
import org.apache.arrow.vector.types.pojo.{Field, FieldType, Schema}
import org.apache.comet.{CometArrowAllocator, CometVector}

import org.apache.spark.internal.Logging
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeRow
import org.apache.spark.sql.execution.arrow.ArrowWriter
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch

/** Where the exceptions of a task's input streams are kept, because the C stream interface carries an error number and a text.
  * Native code fetches the object and rethrows it when its pull has failed.
  */
final class InputFailures {
  private val first = new AtomicReference[Throwable]()

  def guard[T](body: => T): T =
    try body
    catch {
      case t: Throwable =>
        first.compareAndSet(null, t)
        throw t
    }

  def take(): Throwable = first.getAndSet(null)

  /** Calls native code; if that fails because an input did, the input's own exception comes out. */
  def original[T](native: => T): T =
    try native
    catch { case t: Throwable => throw Option(take()).getOrElse(t) }
}

/** A reader that makes its batches on the JVM's side.
  *
  * Native code keeps the buffers of a batch for as long as it wants, so each batch has buffers of its own: a subclass allocates
  * or moves them in, and never writes into buffers that were handed out.
  */
abstract private[arrow] class SourceReader(allocator: BufferAllocator, failures: InputFailures) extends ArrowReader(allocator) {
  protected def source(): Schema

  /** Fills the root for the next batch; false at the end. */
  protected def fill(root: VectorSchemaRoot): Boolean

  protected def release(): Unit = ()

  final override protected def readSchema(): Schema = failures.guard(source())

  final override def loadNextBatch(): Boolean = failures.guard {
    ensureInitialized()
    fill(getVectorSchemaRoot)
  }

  final override def bytesRead(): Long = 0

  final override protected def closeReadSource(): Unit = release()
}

/** Rows of a Spark operator. */
final class RowArrowReader(
    allocator: BufferAllocator,
    failures: InputFailures,
    schema: StructType,
    rows: Iterator[InternalRow],
    batchRows: Int)
    extends SourceReader(allocator, failures) {

  override protected def source(): Schema = CometArrowSchema.arrow(schema)

  override protected def fill(root: VectorSchemaRoot): Boolean =
    if (!rows.hasNext) {
      root.clear()
      false
    } else {
      // `create` allocates afresh and drops this root's share of the former buffers; native code keeps its own.
      val writer = ArrowWriter.create(root)
      var n = 0
      var bytes = 0L
      while (n < batchRows && bytes < RowArrowReader.BatchBytes && rows.hasNext) {
        val row = rows.next()
        writer.write(row)
        n += 1
        row match {
          case unsafe: UnsafeRow => bytes += unsafe.getSizeInBytes
          case _ =>
        }
      }
      writer.finish()
      root.setRowCount(n)
      true
    }
}

private object RowArrowReader {
  /** A batch ends with the row that fills this. */
  val BatchBytes: Long = 16L << 20
}

/** Batches of a Spark operator whose columns are not Arrow: copied. */
final class SparkColumnarArrowReader(
    allocator: BufferAllocator,
    failures: InputFailures,
    schema: StructType,
    batches: Iterator[ColumnarBatch])
    extends SourceReader(allocator, failures) {

  override protected def source(): Schema = CometArrowSchema.arrow(schema)

  override protected def fill(root: VectorSchemaRoot): Boolean =
    if (!batches.hasNext) {
      root.clear()
      false
    } else {
      val batch = batches.next()
      val writer = ArrowWriter.create(root)
      val rows = batch.rowIterator()
      while (rows.hasNext) writer.write(rows.next())
      writer.finish()
      root.setRowCount(batch.numRows)
      true
    }
}

/** Arrow-backed batches: the vectors move into the root, nothing is copied. The batch is empty afterwards; whoever made it may
  * still close it.
  *
  * @param batches all with vectors of `CometArrowAllocator`, the types of the first one, and no dictionaries
  */
final class ColumnarBatchArrowReader(
    allocator: BufferAllocator,
    failures: InputFailures,
    operator: String,
    schema: StructType,
    batches: collection.BufferedIterator[ColumnarBatch])
    extends SourceReader(allocator, failures) {

  override protected def source(): Schema =
    batches.headOption match {
      case Some(first) => CometArrowStream.reconcileStreamSchema(operator, schema, first)
      case None => CometArrowSchema.arrow(schema)
    }

  override protected def fill(root: VectorSchemaRoot): Boolean =
    if (!batches.hasNext) {
      root.clear()
      false
    } else {
      val batch = batches.next()
      (0 until batch.numCols).foreach { i =>
        val from = CometArrowStream.vector(operator, batch, i)
        val to = root.getVector(i)
        if (!CometArrowSchema.sameLayout(from.getField, to.getField)) {
          throw new IllegalStateException(s"$operator: column $i changed from ${to.getField} to ${from.getField} between batches")
        }
        to.clear()
        from.makeTransferPair(to).transfer()
      }
      root.setRowCount(batch.numRows)
      true
    }
}

/** One input of a native plan, for one partition: exported once, then pulled by native code batch by batch.
  *
  * @param stream native code moves the struct's content out; the struct itself stays ours
  */
final class CometArrowStream private (val stream: ArrowArrayStream, allocator: BufferAllocator) extends AutoCloseable {
  private var closed = false

  /** After native code has let go of the stream: frees the struct, and the reader too if it was never taken. Idempotent. */
  override def close(): Unit = if (!closed) {
    closed = true
    // A no-op if it was moved out: `release` is then null.
    try if (stream.snapshot().release != 0) stream.release()
    finally stream.close()
  }

  /** When nobody has a batch any more that native code passed on. */
  def closeAllocator(): Unit = allocator.close()
}

object CometArrowStream extends Logging {
  private val warned = ConcurrentHashMap.newKeySet[String]()

  def ofRows(schema: StructType, rows: Iterator[InternalRow], batchRows: Int, failures: InputFailures): CometArrowStream =
    exported("rows")(new RowArrowReader(_, failures, schema, rows, batchRows))

  /** Of the right reader for batches: Arrow-backed ones of our allocator move, all others are copied. */
  def ofBatches(
      operator: String,
      schema: StructType,
      batches: Iterator[ColumnarBatch],
      failures: InputFailures): CometArrowStream = {
    val buffered = batches.buffered
    exported("batches") { allocator =>
      if (buffered.headOption.forall(movable)) new ColumnarBatchArrowReader(allocator, failures, operator, schema, buffered)
      else new SparkColumnarArrowReader(allocator, failures, schema, buffered)
    }
  }

  /** Exports the reader that `make` builds; nothing is left behind if that fails. */
  private def exported(name: String)(make: BufferAllocator => ArrowReader): CometArrowStream = {
    val allocator = CometArrowAllocator.child(name)
    var reader: ArrowReader = null
    var stream: ArrowArrayStream = null
    try {
      reader = make(allocator)
      stream = ArrowArrayStream.allocateNew(allocator)
      Data.exportArrayStream(allocator, reader, stream)
      new CometArrowStream(stream, allocator)
    } catch {
      case t: Throwable =>
        Seq[AutoCloseable](stream, reader, allocator).filter(_ != null).foreach { c =>
          try c.close()
          catch { case again: Throwable => t.addSuppressed(again) }
        }
        throw t
    }
  }

  /** The stream's schema, truthful to the vectors of the first batch; native `ScanExec` casts to what the plan declares. A column
    * is nullable if either side says so. Each difference of types is logged once.
    */
  def reconcileStreamSchema(operator: String, schema: StructType, first: ColumnarBatch): Schema = {
    val wanted = CometArrowSchema.arrow(schema).getFields.asScala
    if (wanted.length != first.numCols) {
      throw new IllegalStateException(s"$operator gives ${first.numCols} columns, its schema says ${wanted.length}")
    }
    val fields = wanted.zipWithIndex.map { case (want, i) =>
      val have = vector(operator, first, i).getField
      if (!CometArrowSchema.sameLayout(have, want)) {
        val drift = s"$operator: column ${schema(i).name} is $have where $want was declared"
        if (warned.add(drift)) logWarning(drift)
      }
      val nullable = want.isNullable || have.isNullable
      new Field(want.getName, new FieldType(nullable, have.getType, null, have.getMetadata), have.getChildren)
    }
    new Schema(fields.asJava)
  }

  private[arrow] def vector(operator: String, batch: ColumnarBatch, column: Int): FieldVector = batch.column(column) match {
    case arrow: CometVector => arrow.vector
    case other =>
      throw new IllegalStateException(s"$operator: column $column changed from Arrow's to ${other.getClass.getName} between batches")
  }

  private def movable(batch: ColumnarBatch): Boolean =
    (0 until batch.numCols).forall { i =>
      batch.column(i) match {
        case arrow: CometVector =>
          // A column of nothing but nulls has no memory, and so no allocator.
          val allocator = arrow.vector.getAllocator
          arrow.vector.getField.getDictionary == null && (allocator == null || CometArrowAllocator.related(allocator))
        case _ => false
      }
    }
}
