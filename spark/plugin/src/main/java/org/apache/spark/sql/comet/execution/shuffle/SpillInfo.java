// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

/** One spill inside a writer's file: where it begins, and how many bytes each of its partitions has, in their order. */
record SpillInfo(long offset, long[] partitionBytes) {
  long length() {
    long sum = 0;
    for (long bytes : partitionBytes) {
      sum += bytes;
    }
    return sum;
  }
}
