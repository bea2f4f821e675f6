// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle

import java.io.IOException
import java.util.concurrent.{ConcurrentLinkedQueue, CountDownLatch, Executors, TimeUnit}
import java.util.concurrent.atomic.AtomicInteger

import scala.jdk.CollectionConverters._

import org.apache.spark.{TaskContext, TaskKilledException}
import org.scalatest.BeforeAndAfterEach
import org.scalatest.funsuite.AnyFunSuite

class AsyncSpillsSuite extends AnyFunSuite with BeforeAndAfterEach {
  private val pool = Executors.newFixedThreadPool(8)
  private var memory: TestMemory = _
  private val idle: Runnable = () => ()

  override def beforeEach(): Unit = memory = new TestMemory(64 << 20)

  private def spills(limit: Int, cancel: Runnable = idle, task: TaskContext = TaskContext.empty()) =
    new AsyncSpills(pool, task, limit, cancel)

  private def buffer(value: Byte): RowBuffer = memory.buffer(Array.fill(8)(value) -> value.toInt)

  private def value(buffer: RowBuffer): Int = memory.contents(buffer).head._2

  private def await(latch: CountDownLatch): Unit = assert(latch.await(10, TimeUnit.SECONDS))

  test("a lane writes in the order of submission, although its writes take different times") {
    val async = spills(4)
    val written = new ConcurrentLinkedQueue[Int]()
    val lanes = (0 until 3).map { _ =>
      new async.Lane(b => {
        Thread.sleep(value(b) % 3)
        written.add(value(b))
      })
    }
    for (i <- 0 until 60) async.submit(lanes(i % 3), buffer(i.toByte))
    async.drain()
    val order = written.asScala.toSeq
    assert(order.sorted == (0 until 60))
    for (lane <- 0 until 3) assert(order.filter(_ % 3 == lane) == (lane until 60 by 3))
    assert(memory.used == 0)
  }

  test("writes of different lanes overlap, and no more than the limit are on their way") {
    val async = spills(2)
    val running = new AtomicInteger()
    val most = new AtomicInteger()
    val lanes = (0 until 5).map { _ =>
      new async.Lane(_ => {
        val now = running.incrementAndGet()
        most.accumulateAndGet(now, math.max(_, _))
        Thread.sleep(5)
        running.decrementAndGet()
      })
    }
    for (i <- 0 until 30) {
      async.submit(lanes(i % 5), buffer(1))
      // One is held by the pool's queue or a thread for each place.
      assert(memory.used <= 3 * 2 * (64 << 10))
    }
    async.drain()
    assert(most.get == 2)
  }

  test("a failure surfaces on the next insert, submit and drain, with its cause, and later writes do not happen") {
    val async = spills(2)
    val writes = new AtomicInteger()
    val cause = new IOException("disk full")
    val lane = new async.Lane(_ => {
      writes.incrementAndGet()
      throw cause
    })
    async.submit(lane, buffer(1))
    while (writes.get == 0) Thread.sleep(1)
    val second = buffer(2)
    assert(intercept[IOException] { while (true) async.check() }.getCause eq cause)
    assert(intercept[IOException](async.submit(lane, second)).getCause eq cause)
    assert(intercept[IOException](async.drain()).getCause eq cause)
    assert(writes.get == 1)
    second.free()
    async.cancelAndJoin()
    assert(memory.used == 0)
  }

  test("an error of the machine stays what it is") {
    val async = spills(1)
    val lane = new async.Lane(_ => throw new OutOfMemoryError("test"))
    async.submit(lane, buffer(1))
    assertThrows[OutOfMemoryError](async.drain())
    async.cancelAndJoin()
  }

  test("the end of a task cancels what runs, drops what waits, and frees pages only when nobody reads them") {
    val cancelled = new CountDownLatch(1)
    val async = spills(3, () => cancelled.countDown())
    val started = new CountDownLatch(1)
    val seen = new ConcurrentLinkedQueue[Int]()
    val lane = new async.Lane(b => {
      started.countDown()
      await(cancelled)
      Thread.sleep(50)
      // The pages must still be there: freed ones are filled with something else in debug builds, or crash.
      assert(b.bytes() > 0)
      seen.add(value(b))
    })
    async.submit(lane, buffer(7))
    async.submit(lane, buffer(8))
    await(started)
    async.cancelAndJoin()
    assert(seen.asScala.toSeq == Seq(7))
    assert(memory.used == 0)
  }

  test("without a thread to be had the task writes itself") {
    val full = Executors.newFixedThreadPool(1)
    full.shutdown()
    val async = new AsyncSpills(full, TaskContext.empty(), 1, idle)
    var writer: Thread = null
    async.submit(new async.Lane(_ => writer = Thread.currentThread()), buffer(1))
    async.drain()
    assert(writer eq Thread.currentThread())
    assert(memory.used == 0)
  }

  test("a killed task does not wait for a place") {
    val task = TaskContext.empty()
    val async = spills(1, task = task)
    val release = new CountDownLatch(1)
    val lane = new async.Lane(_ => await(release))
    async.submit(lane, buffer(1))
    task.markInterrupted("test")
    val second = buffer(2)
    assertThrows[TaskKilledException](async.submit(lane, second))
    release.countDown()
    second.free()
    async.cancelAndJoin()
    assert(memory.used == 0)
  }
}
