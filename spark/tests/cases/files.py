# SPDX-License-Identifier: Apache-2.0
"""What lies on disk after a map stage: Spark's index and checksum files say the truth about the data file."""

import pathlib
import struct
import zlib

from harness import probe


def checksums(spark, partitions, settings):
    """A shuffle with empty partitions and a map task without rows: for each map output the bytes of each partition, their
    checksums as Python computes them, and those that its checksum file has."""
    algorithm = spark.conf.get("spark.shuffle.checksum.algorithm", "ADLER32")
    with probe.settings(spark, {"spark.sql.adaptive.enabled": "false", **settings}):
        rows = spark.range(0, 30000, 1, 3).where("id < 20000")
        keyed = rows.selectExpr(f"id % {partitions // 2 + 1} as k", "sha2(cast(id as string), 256) as s", "id")
        outcome = probe.observe(spark, keyed.repartition(partitions, "k"), probe.count)
    shuffle = outcome["exchanges"][0]["shuffle"]
    folder = pathlib.Path(spark.conf.get("spark.local.dir"))
    outputs = [map_output(index, algorithm) for index in sorted(folder.rglob(f"shuffle_{shuffle}_*_0.index"))]
    return {**outcome, "algorithm": algorithm, "outputs": outputs}


def map_output(index, algorithm):
    offsets = longs(index)
    # Spark spreads files over folders by their names' hashes.
    beside = lambda ending: next(index.parents[1].rglob(index.with_suffix(ending).name), None)
    data, sums = beside(".data"), beside(f".checksum.{algorithm}")
    content = data.read_bytes() if data else b""
    parts = [content[begin:end] for begin, end in zip(offsets, offsets[1:])]
    return {"file": index.name, "size": len(content), "lengths": [end - begin for begin, end in zip(offsets, offsets[1:])],
            "computed": [ALGORITHMS[algorithm](part) for part in parts], "stored": longs(sums) if sums else None}


def longs(path):
    """Both kinds of files are big-endian longs."""
    content = path.read_bytes()
    return list(struct.unpack(f">{len(content) // 8}q", content))


def crc32c_table():
    for byte in range(256):
        for _ in range(8):
            # Castagnoli's polynomial, reflected.
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC32C = list(crc32c_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


ALGORITHMS = {"ADLER32": zlib.adler32, "CRC32": zlib.crc32, "CRC32C": crc32c}
