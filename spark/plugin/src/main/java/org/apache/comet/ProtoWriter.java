// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/**
 * One protobuf message, field by field: enough for the messages that native code reads, without a library on Spark's class
 * path. Fields are written even if they have the default value, as a member of a {@code oneof} must be.
 */
public final class ProtoWriter {
  private static final int VARINT = 0;
  private static final int LENGTH_DELIMITED = 2;

  private final ByteArrayOutputStream out = new ByteArrayOutputStream();
  private int depth = 1;

  public ProtoWriter uint32(int field, int value) {
    return varint(field, Integer.toUnsignedLong(value));
  }

  /** Negative numbers take ten bytes: protobuf extends their sign to 64 bits. */
  public ProtoWriter int32(int field, int value) {
    return varint(field, value);
  }

  public ProtoWriter string(int field, String value) {
    return bytes(field, value.getBytes(StandardCharsets.UTF_8));
  }

  public ProtoWriter bytes(int field, byte[] value) {
    writeVarint((long) field << 3 | LENGTH_DELIMITED);
    writeVarint(value.length);
    out.writeBytes(value);
    return this;
  }

  public ProtoWriter message(int field, ProtoWriter value) {
    depth = Math.max(depth, value.depth + 1);
    return bytes(field, value.toByteArray());
  }

  /** Messages inside each other, this one included: readers have a limit. */
  public int depth() {
    return depth;
  }

  public byte[] toByteArray() {
    return out.toByteArray();
  }

  private ProtoWriter varint(int field, long value) {
    writeVarint((long) field << 3 | VARINT);
    writeVarint(value);
    return this;
  }

  private void writeVarint(long value) {
    long rest = value;
    while ((rest & ~0x7fL) != 0) {
      out.write((int) (rest & 0x7f | 0x80));
      rest >>>= 7;
    }
    out.write((int) rest);
  }
}
