// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet.execution.shuffle;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.channels.WritableByteChannel;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.zip.CheckedOutputStream;
import java.util.zip.Checksum;
import org.apache.comet.Native;
import org.apache.spark.network.shuffle.checksum.ShuffleChecksumHelper;
import org.apache.spark.network.util.LimitedInputStream;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.shuffle.api.ShuffleMapOutputWriter;
import org.apache.spark.shuffle.api.ShufflePartitionWriter;
import org.apache.spark.shuffle.api.SingleSpillShuffleMapOutputWriter;
import org.apache.spark.shuffle.api.WritableByteChannelWrapper;

/**
 * Makes one map output of the writers' files, through Spark's own {@link ShuffleExecutorComponents}: data, index and checksum
 * files are Spark's, so the external shuffle service, decommissioning and batch fetch know them.
 *
 * <p>Blocks are complete in the spills, so a partition is the concatenation of its pieces, in the order of the spills.
 */
final class MapOutput {
  private final ShuffleExecutorComponents components;
  private final ShuffleWriteContext context;
  private final SerializerManager serializer;
  private final int shuffleId;
  private final long mapId;
  private final int partitions;

  MapOutput(ShuffleExecutorComponents components, ShuffleWriteContext context, int shuffleId, long mapId, int partitions) {
    this.components = components;
    this.context = context;
    this.serializer = context.serializerManager();
    this.shuffleId = shuffleId;
    this.mapId = mapId;
    this.partitions = partitions;
  }

  /** No rows at all; Spark's own writers give no checksums then. */
  long[] commitEmpty() throws IOException {
    ShuffleMapOutputWriter out = components.createMapOutputWriter(shuffleId, mapId, partitions);
    try {
      return out.commitAllPartitions(ShuffleChecksumHelper.EMPTY_CHECKSUM_VALUE).getPartitionLengths();
    } catch (Exception e) {
      throw abort(out, e);
    }
  }

  /**
   * Of a writer per partition; null = no rows in it.
   *
   * @return bytes per partition
   */
  long[] commitPartitions(SpillWriter[] writers) throws IOException {
    long begin = System.nanoTime();
    long[] checksums = checksums();
    ShuffleMapOutputWriter out = components.createMapOutputWriter(shuffleId, mapId, partitions);
    try {
      for (int p = 0; p < partitions; p++) {
        context.checkKilled();
        ShufflePartitionWriter to = out.getPartitionWriter(p);
        SpillWriter writer = writers[p];
        if (writer == null) {
          continue;
        }
        try (FileChannel from = FileChannel.open(writer.file().toPath(), StandardOpenOption.READ)) {
          copyPartition(from, writer.spills(), new Offsets(writer.spills()), 0, p, to, checksums);
        }
      }
      long[] lengths = out.commitAllPartitions(checksums).getPartitionLengths();
      context.merged(System.nanoTime() - begin);
      return lengths;
    } catch (Exception e) {
      throw abort(out, e);
    }
  }

  /** Of one writer whose spills hold all partitions. */
  long[] commitSorted(SpillWriter writer) throws IOException {
    long begin = System.nanoTime();
    long[] checksums = checksums();
    boolean oneSpill = writer.spills().size() == 1;
    if (oneSpill && !serializer.encryptionEnabled()) {
      Optional<SingleSpillShuffleMapOutputWriter> direct = components.createSingleFileMapOutputWriter(shuffleId, mapId);
      if (direct.isPresent()) {
        long[] lengths = writer.spills().get(0).partitionBytes();
        direct.get().transferMapSpillFile(writer.file(), lengths, checksums);
        context.merged(System.nanoTime() - begin);
        return lengths;
      }
    }
    ShuffleMapOutputWriter out = components.createMapOutputWriter(shuffleId, mapId, partitions);
    try (FileChannel from = FileChannel.open(writer.file().toPath(), StandardOpenOption.READ)) {
      Offsets offsets = new Offsets(writer.spills());
      for (int p = 0; p < partitions; p++) {
        context.checkKilled();
        copyPartition(from, writer.spills(), offsets, p, p, out.getPartitionWriter(p), checksums);
      }
      long[] lengths = out.commitAllPartitions(checksums).getPartitionLengths();
      context.merged(System.nanoTime() - begin);
      return lengths;
    } catch (Exception e) {
      throw abort(out, e);
    }
  }

  /** Where the next partition of each spill begins: a running sum, instead of one sum a partition and spill. */
  private static final class Offsets {
    final long[] next;

    Offsets(List<SpillInfo> spills) {
      next = new long[spills.size()];
      for (int s = 0; s < next.length; s++) {
        next[s] = spills.get(s).offset();
      }
    }
  }

  /** {@code slot}: the partition's place in the writer's spills; {@code partition}: its number in the map output. */
  private void copyPartition(
      FileChannel from, List<SpillInfo> spills, Offsets offsets, int slot, int partition, ShufflePartitionWriter to,
      long[] checksums)
      throws IOException {
    if (serializer.encryptionEnabled()) {
      copyEncrypted(from, spills, slot, partition, to, checksums, offsets);
    } else {
      copyPlain(from, spills, slot, to, offsets);
    }
  }

  private static void copyPlain(FileChannel from, List<SpillInfo> spills, int slot, ShufflePartitionWriter to, Offsets offsets)
      throws IOException {
    boolean empty = true;
    for (SpillInfo spill : spills) {
      empty &= spill.partitionBytes()[slot] == 0;
    }
    if (empty) {
      return;
    }
    Optional<WritableByteChannelWrapper> wrapper = to.openChannelWrapper();
    if (wrapper.isPresent()) {
      try (WritableByteChannelWrapper channel = wrapper.get()) {
        copyPieces(from, spills, slot, channel.channel(), offsets);
      }
    } else {
      try (OutputStream stream = to.openStream();
          WritableByteChannel channel = Channels.newChannel(stream)) {
        copyPieces(from, spills, slot, channel, offsets);
      }
    }
  }

  private static void copyPieces(
      FileChannel from, List<SpillInfo> spills, int slot, WritableByteChannel to, Offsets offsets) throws IOException {
    for (int s = 0; s < spills.size(); s++) {
      long position = offsets.next[s];
      long end = position + spills.get(s).partitionBytes()[slot];
      offsets.next[s] = end;
      while (position < end) {
        long moved = from.transferTo(position, end - position, to);
        if (moved <= 0) {
          throw new IOException("a spill file ended " + (end - position) + " bytes early");
        }
        position += moved;
      }
    }
  }

  /** Pieces are encrypted one by one, a partition as a whole: each piece is decrypted and the partition encrypted anew. */
  private void copyEncrypted(
      FileChannel from, List<SpillInfo> spills, int slot, int partition, ShufflePartitionWriter to, long[] checksums,
      Offsets offsets)
      throws IOException {
    boolean any = false;
    for (SpillInfo spill : spills) {
      any |= spill.partitionBytes()[slot] > 0;
    }
    if (!any) {
      return;
    }
    Checksum checksum = checksums.length == 0 ? null : newChecksum();
    try (OutputStream raw = to.openStream()) {
      OutputStream checked = checksum == null ? raw : new CheckedOutputStream(raw, checksum);
      try (OutputStream out = serializer.wrapForEncryption(new KeepOpen(checked))) {
        for (int s = 0; s < spills.size(); s++) {
          long length = spills.get(s).partitionBytes()[slot];
          if (length > 0) {
            from.position(offsets.next[s]);
            InputStream piece = new LimitedInputStream(Channels.newInputStream(from), length, false);
            try (InputStream plain = serializer.wrapForEncryption(new CloseShield(piece))) {
              plain.transferTo(out);
            }
          }
          offsets.next[s] += length;
        }
      }
    }
    if (checksum != null) {
      checksums[partition] = checksum.getValue();
    }
  }

  /**
   * One value a partition, none at all if Spark's checksums are off. Under encryption they are those of empty partitions still:
   * {@link #copyEncrypted} sets the others.
   */
  private long[] checksums() {
    if (context.settings().checksumAlgorithm().isEmpty()) {
      return ShuffleChecksumHelper.EMPTY_CHECKSUM_VALUE;
    }
    if (!serializer.encryptionEnabled()) {
      return Native.shuffleChecksums(context.writer());
    }
    long[] checksums = new long[partitions];
    Arrays.fill(checksums, newChecksum().getValue());
    return checksums;
  }

  private Checksum newChecksum() {
    return ShuffleChecksumHelper.getChecksumByAlgorithm(context.settings().checksumAlgorithm());
  }

  private static IOException abort(ShuffleMapOutputWriter out, Exception cause) {
    try {
      out.abort(cause);
    } catch (Exception e) {
      cause.addSuppressed(e);
    }
    if (cause instanceof RuntimeException unchecked) {
      // Spark's word that the task was killed, for one.
      throw unchecked;
    }
    return cause instanceof IOException io ? io : new IOException("cannot write the map output", cause);
  }

  /** Lets a decrypting stream be closed, which gives its cipher back, without closing the channel of all pieces. */
  private static final class CloseShield extends FilterInputStream {
    CloseShield(InputStream in) {
      super(in);
    }

    @Override
    public void close() {}
  }
}
