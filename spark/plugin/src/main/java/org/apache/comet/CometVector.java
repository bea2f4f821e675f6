// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.List;

import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.vector.BaseVariableWidthVector;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.NullVector;
import org.apache.arrow.vector.complex.ListVector;
import org.apache.arrow.vector.complex.StructVector;

import org.apache.spark.sql.types.Decimal;
import org.apache.spark.sql.util.ArrowUtils;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.sql.vectorized.ColumnarArray;
import org.apache.spark.sql.vectorized.ColumnarMap;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * A column over the buffers of an Arrow vector, read where they lie.
 *
 * <p>Spark's own {@code ArrowColumnVector} asks Arrow's accessors for each value, which check bounds and nulls once more, and
 * makes a {@code BigDecimal} of every decimal. Here the addresses are looked up once, when the batch is made.
 *
 * <p><b>Invariant:</b> the vector is complete and starts at the start of its buffers, as everything that native code exports.
 * Like any column it is not to be read after {@link #close}, nor is a string that it gave.
 */
public final class CometVector extends ColumnVector {
  private static final int MAX_LONG_DIGITS = Decimal.MAX_LONG_DIGITS();
  private static final int DECIMAL_BYTES = 16;

  private final FieldVector vector;
  private final int nullCount;
  // Addresses. Which of them there are depends on the type; validity only if there are nulls.
  private final long validity;
  private final long values;
  private final long offsets;
  private final CometVector[] children;

  /** Owns {@code vector}: closing this closes it. */
  public CometVector(FieldVector vector) {
    super(ArrowUtils.fromArrowField(vector.getField()));
    this.vector = vector;
    this.nullCount = vector.getNullCount();
    this.validity = nullCount == 0 || vector instanceof NullVector ? 0 : address(vector.getValidityBuffer());
    if (vector instanceof NullVector) {
      this.values = this.offsets = 0;
      this.children = new CometVector[0];
    } else if (vector instanceof ListVector list) {
      this.values = 0;
      this.offsets = address(list.getOffsetBuffer());
      this.children = new CometVector[] {new CometVector(list.getDataVector())};
    } else if (vector instanceof StructVector struct) {
      this.values = this.offsets = 0;
      List<FieldVector> fields = struct.getChildrenFromFields();
      this.children = fields.stream().map(CometVector::new).toArray(CometVector[]::new);
    } else {
      this.values = address(vector.getDataBuffer());
      this.offsets = vector instanceof BaseVariableWidthVector ? address(vector.getOffsetBuffer()) : 0;
      this.children = new CometVector[0];
    }
  }

  private static long address(ArrowBuf buffer) {
    return buffer.memoryAddress();
  }

  public FieldVector vector() {
    return vector;
  }

  @Override
  public void close() {
    // Children are the vector's.
    vector.close();
  }

  @Override
  public boolean hasNull() {
    return nullCount > 0;
  }

  @Override
  public int numNulls() {
    return nullCount;
  }

  @Override
  public boolean isNullAt(int row) {
    if (validity != 0) {
      return !bit(validity, row);
    }
    // The one type that has no bits for its nulls.
    return nullCount > 0;
  }

  @Override
  public boolean getBoolean(int row) {
    return bit(values, row);
  }

  @Override
  public byte getByte(int row) {
    return Platform.getByte(null, values + row);
  }

  @Override
  public short getShort(int row) {
    return Platform.getShort(null, values + 2L * row);
  }

  @Override
  public int getInt(int row) {
    return Platform.getInt(null, values + 4L * row);
  }

  @Override
  public long getLong(int row) {
    return Platform.getLong(null, values + 8L * row);
  }

  @Override
  public float getFloat(int row) {
    return Platform.getFloat(null, values + 4L * row);
  }

  @Override
  public double getDouble(int row) {
    return Platform.getDouble(null, values + 8L * row);
  }

  @Override
  public Decimal getDecimal(int row, int precision, int scale) {
    if (isNullAt(row)) {
      return null;
    }
    long at = values + (long) DECIMAL_BYTES * row;
    long low = Platform.getLong(null, at);
    if (precision <= MAX_LONG_DIGITS) {
      return Decimal.createUnsafe(low, precision, scale);
    }
    long high = Platform.getLong(null, at + 8);
    BigInteger unscaled = BigInteger.valueOf(low);
    if (high != low >> 63) {
      byte[] bigEndian = new byte[DECIMAL_BYTES];
      for (int i = 0; i < 8; i++) {
        bigEndian[i] = (byte) (high >> (56 - 8 * i));
        bigEndian[8 + i] = (byte) (low >> (56 - 8 * i));
      }
      unscaled = new BigInteger(bigEndian);
    }
    return Decimal.apply(new BigDecimal(unscaled, scale), precision, scale);
  }

  @Override
  public UTF8String getUTF8String(int row) {
    if (isNullAt(row)) {
      return null;
    }
    int start = offset(row);
    return UTF8String.fromAddress(null, values + start, offset(row + 1) - start);
  }

  @Override
  public byte[] getBinary(int row) {
    if (isNullAt(row)) {
      return null;
    }
    int start = offset(row);
    byte[] bytes = new byte[offset(row + 1) - start];
    Platform.copyMemory(null, values + start, bytes, Platform.BYTE_ARRAY_OFFSET, bytes.length);
    return bytes;
  }

  @Override
  public ColumnarArray getArray(int row) {
    if (isNullAt(row)) {
      return null;
    }
    int start = offset(row);
    return new ColumnarArray(children[0], start, offset(row + 1) - start);
  }

  @Override
  public ColumnarMap getMap(int row) {
    if (isNullAt(row)) {
      return null;
    }
    int start = offset(row);
    CometVector entries = children[0];
    return new ColumnarMap(entries.children[0], entries.children[1], start, offset(row + 1) - start);
  }

  @Override
  public ColumnVector getChild(int ordinal) {
    return children[ordinal];
  }

  private int offset(int row) {
    return Platform.getInt(null, offsets + 4L * row);
  }

  private static boolean bit(long address, int index) {
    return (Platform.getByte(null, address + (index >> 3)) >> (index & 7) & 1) == 1;
  }
}
