// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** The executor's threads for asynchronous spills; made at first use, with the size of whoever comes first. */
final class ShuffleThreadPool {
  private static ThreadPoolExecutor pool;

  private ShuffleThreadPool() {}

  static synchronized ExecutorService get(int threads) {
    if (pool == null) {
      AtomicInteger number = new AtomicInteger();
      // Core size = maximum size: with a smaller core an unbounded queue would keep it at one thread for ever.
      pool =
          new ThreadPoolExecutor(
              threads, threads, 10, TimeUnit.SECONDS, new LinkedBlockingQueue<>(),
              job -> {
                Thread thread = new Thread(job, "comet-shuffle-spill-" + number.getAndIncrement());
                thread.setDaemon(true);
                return thread;
              });
      pool.allowCoreThreadTimeOut(true);
    }
    return pool;
  }
}
