// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.apache.spark.SparkConf
import org.apache.spark.memory.{TaskMemoryManager, UnifiedMemoryManager}
import org.apache.spark.unsafe.Platform

/** Spark's own memory managers over `bytes` of off-heap memory, for one task. */
class TestMemory(bytes: Long) {
  private val conf = new SparkConf(false)
    .set("spark.memory.offHeap.enabled", "true")
    .set("spark.memory.offHeap.size", bytes.toString)
    .set("spark.buffer.pageSize", "1m")

  val task = new TaskMemoryManager(new UnifiedMemoryManager(conf, 1 << 20, 1 << 19, 1), 0)
  val allocator = new CometShuffleMemoryAllocator(task)

  def used: Long = task.getMemoryConsumptionForThisTask

  def append(buffer: RowBuffer, row: Array[Byte], partition: Int): Boolean =
    buffer.append(row, Platform.BYTE_ARRAY_OFFSET, row.length, partition)

  def buffer(rows: (Array[Byte], Int)*): RowBuffer = {
    val made = new RowBuffer(allocator)
    rows.foreach { case (row, partition) => assert(append(made, row, partition)) }
    made
  }

  /** Reads a buffer as native code does. */
  def contents(buffer: RowBuffer): Seq[(Seq[Byte], Int)] = (0L until buffer.rows()).map { i =>
    val entry = buffer.indexAddress() + i * RowBuffer.INDEX_ENTRY_BYTES
    val row = new Array[Byte](Platform.getInt(null, entry + 8))
    Platform.copyMemory(null, Platform.getLong(null, entry), row, Platform.BYTE_ARRAY_OFFSET, row.length)
    (row.toSeq, Platform.getInt(null, entry + 12))
  }
}
