// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import org.scalatest.funsuite.AnyFunSuite

class RowBufferSuite extends AnyFunSuite {
  private def row(size: Int, seed: Int): Array[Byte] = Array.tabulate(size)(i => (i + seed).toByte)

  test("rows come back as they went in, whatever their size") {
    val memory = new TestMemory(64 << 20)
    // 3 MiB is more than the largest page; 0 is a row without columns.
    val rows = Seq(0, 8, 16, 24, 3 << 20, 40, 100000, 0).zipWithIndex.map { case (size, i) => row(size, i) -> i }
    val buffer = memory.buffer(rows: _*)
    assert(memory.contents(buffer) == rows.map { case (bytes, partition) => (bytes.toSeq, partition) })
    assert(buffer.bytes() == memory.used)
    buffer.free()
    assert(memory.used == 0)
  }

  test("the index grows over its first size without losing an entry") {
    val memory = new TestMemory(64 << 20)
    val rows = (0 until 5000).map(i => row(16, i) -> i % 7)
    val buffer = memory.buffer(rows: _*)
    assert(memory.contents(buffer) == rows.map { case (bytes, partition) => (bytes.toSeq, partition) })
    buffer.free()
    assert(memory.used == 0)
  }

  test("a refused page, for rows or for the index, loses nothing, and the same row fits once memory is free") {
    val memory = new TestMemory(512 << 10)
    val full = new RowBuffer(memory.allocator)
    var accepted = 0
    while (memory.append(full, row(64, accepted), accepted)) accepted += 1
    assert(accepted > 1000)
    assert(full.rows() == accepted)
    assert(!memory.append(full, row(64, accepted), accepted))
    assert(memory.contents(full) == (0 until accepted).map(i => (row(64, i).toSeq, i)))
    full.free()
    assert(memory.used == 0)
    val next = memory.buffer(row(64, accepted) -> accepted)
    assert(memory.contents(next) == Seq((row(64, accepted).toSeq, accepted)))
    next.free()
  }

  test("a row that can never fit is refused and leaves no page behind but the index") {
    val memory = new TestMemory(512 << 10)
    val buffer = new RowBuffer(memory.allocator)
    assert(!memory.append(buffer, row(1 << 20, 0), 0))
    assert(buffer.rows() == 0)
    assert(buffer.bytes() == memory.used)
    buffer.free()
    assert(memory.used == 0)
  }

  test("spark's requests to spill are served between inserts only, and on the task's thread only") {
    val memory = new TestMemory(1 << 20)
    val other = new TestMemory(1 << 20).allocator
    memory.allocator.setSpillable(wanted => wanted)
    assert(memory.allocator.spill(10, other) == 10)
    assert(memory.allocator.spill(10, memory.allocator) == 0)
    memory.allocator.setInserting(true)
    assert(memory.allocator.spill(10, other) == 0)
    memory.allocator.setInserting(false)
    var elsewhere = -1L
    val thread = new Thread(() => elsewhere = memory.allocator.spill(10, other))
    thread.start()
    thread.join()
    assert(elsewhere == 0)
  }
}
