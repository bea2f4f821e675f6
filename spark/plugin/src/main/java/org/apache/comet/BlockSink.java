// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

import java.io.IOException;

/** Where native code hands over encoded bytes, partitions in ascending order, each in one or more pieces. */
public interface BlockSink {
  /** {@code bytes} is valid during the call only. */
  void write(long partition, byte[] bytes, long length) throws IOException;
}
