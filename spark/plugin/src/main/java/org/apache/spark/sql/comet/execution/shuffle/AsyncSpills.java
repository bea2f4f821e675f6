// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.IOException;
import java.io.InterruptedIOException;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.apache.spark.TaskContext;

/**
 * The spills of one task that run beside it.
 *
 * <p>Each {@link Lane} writes its buffers one after the other, in the order of their submission, so that blocks of a partition
 * never interleave and a checksum sees the bytes in file order. At most {@code limit} buffers are on their way; the task waits
 * for a place, and looks whether it was killed while it does.
 *
 * <p>Threads of the pool read pages and write files, nothing else. Pages go back to Spark on the task's thread
 * ({@link #reap}), so these threads never take a lock of Spark's memory manager.
 */
final class AsyncSpills {
  /** What writes a buffer. */
  @FunctionalInterface
  interface Write {
    void run(RowBuffer buffer) throws IOException;
  }

  /** The ordered appender of one writer. */
  final class Lane {
    private final Write write;
    private final Queue<RowBuffer> waiting = new ArrayDeque<>();
    private boolean scheduled;
    private boolean running;

    Lane(Write write) {
      this.write = write;
    }

    private synchronized boolean enqueue(RowBuffer buffer) {
      waiting.add(buffer);
      boolean start = !scheduled;
      scheduled = true;
      return start;
    }

    private synchronized RowBuffer next() {
      RowBuffer buffer = waiting.poll();
      scheduled = running = buffer != null;
      return buffer;
    }

    /** False if another thread is at it: a pool that failed to start a thread may have kept the job all the same. */
    private synchronized boolean begin() {
      boolean first = !running;
      running = true;
      return first;
    }

    private void run() {
      if (!begin()) {
        return;
      }
      for (RowBuffer buffer = next(); buffer != null; buffer = next()) {
        try {
          if (failure == null && !cancelled) {
            write.run(buffer);
          }
        } catch (Throwable t) {
          fail(t);
        } finally {
          finished(buffer);
        }
      }
    }
  }

  private final ExecutorService pool;
  private final TaskContext task;
  private final int limit;
  private final Runnable cancelWrites;
  private final Semaphore places;
  private final Queue<RowBuffer> written = new ConcurrentLinkedQueue<>();
  private volatile Throwable failure;
  private volatile boolean cancelled;

  /** {@code cancelWrites} makes writes that run now fail soon; called from the task's thread. */
  AsyncSpills(ExecutorService pool, TaskContext task, int limit, Runnable cancelWrites) {
    this.pool = pool;
    this.task = task;
    this.limit = limit;
    this.cancelWrites = cancelWrites;
    this.places = new Semaphore(limit);
  }

  /** Hands {@code buffer} over, or throws what an earlier spill failed with; it comes back through {@link #reap}. */
  void submit(Lane lane, RowBuffer buffer) throws IOException {
    check();
    acquire(1);
    boolean start;
    try {
      reap();
      start = lane.enqueue(buffer);
    } catch (RuntimeException | Error e) {
      // Nobody else gives this place back, and the end of the task waits for all of them.
      places.release();
      throw e;
    }
    if (start) {
      try {
        pool.execute(lane::run);
      } catch (RuntimeException | Error noThread) {
        lane.run();
      }
    }
  }

  /** Throws if a spill has failed since. Cheap: one volatile read. */
  void check() throws IOException {
    Throwable cause = failure;
    if (cause == null) {
      return;
    }
    if (cause instanceof Error error) {
      throw error;
    }
    throw new IOException("an asynchronous spill failed", cause);
  }

  /** Frees the pages of finished spills; returns bytes. */
  long reap() {
    long freed = 0;
    for (RowBuffer buffer = written.poll(); buffer != null; buffer = written.poll()) {
      freed += buffer.bytes();
      buffer.free();
    }
    return freed;
  }

  /** Waits until nothing is on its way; returns bytes freed by it. */
  long drain() throws IOException {
    acquire(limit);
    places.release(limit);
    long freed = reap();
    check();
    return freed;
  }

  /** For the end of a task, whatever it was: what waits is dropped, what runs is awaited, then every page is freed. */
  void cancelAndJoin() {
    cancelled = true;
    cancelWrites.run();
    places.acquireUninterruptibly(limit);
    places.release(limit);
    reap();
  }

  private void acquire(int count) throws IOException {
    try {
      while (!places.tryAcquire(count, 100, TimeUnit.MILLISECONDS)) {
        task.killTaskIfInterrupted();
        check();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      task.killTaskIfInterrupted();
      InterruptedIOException interrupted = new InterruptedIOException("interrupted while waiting for a spill");
      interrupted.initCause(e);
      throw interrupted;
    }
  }

  private void fail(Throwable t) {
    synchronized (this) {
      if (failure == null) {
        failure = t;
      }
    }
  }

  private void finished(RowBuffer buffer) {
    try {
      written.add(buffer);
    } finally {
      places.release();
    }
  }
}
