# SPDX-License-Identifier: Apache-2.0
"""What is timed: each returns its seconds, and the bytes and records that its shuffles wrote."""

import re
import time

from cases.queries import repartition
from harness import probe, tables

FLAT = ["id * 7 as {}", "id % 1000 as {}", "xxhash64(id) as {}", "cast(id % 100000 as int) as {}", "cast(hash(id) as int) as {}",
        "cast(xxhash64(id) as double) / 1e6D as {}", "cast(id % 10000000 as decimal(12,2)) as {}",
        "element_at(array('AIR', 'RAIL', 'TRUCK', 'REG AIR', 'DELIVER IN PERSON'), cast(id % 5 as int) + 1) as {}",
        "left(hex(xxhash64(id)), 12) as {}", "date_add(date'1992-01-01', cast(id % 2500 as int)) as {}"]
NESTED = ["id * 7 as {}", "array(id, id + 1, id + 2) as {}", "named_struct('a', id, 'b', hex(id), 'c', array(id % 3, id % 5)) as {}",
          "map(hex(id % 100), id, hex(id % 100 + 100), null) as {}", "array(named_struct('x', id % 7, 'y', hex(id % 1000))) as {}"]

_made = {}


def columns(kind):
    """Of a table: SQL of each, a seventh of some null."""
    # Columns that repeat others would be compressed away where they lie within the compressor's window: in rows.
    salted = [re.sub(r"\bid\b", f"(id + {salt * 1_000_003})", value) for salt in range(5) for value in FLAT]
    values = {"10 columns": FLAT, "50 columns": salted, "nested": NESTED}[kind]
    return [f"id as k"] + [value.format(f"c{index}") for index, value in enumerate(values)]


def use(spark, kind, rows):
    """The table, computed once and held as rows, so that little but the shuffle is timed."""
    if kind not in _made:
        for frame in _made.values():
            frame._jdf.queryExecution().toRdd().unpersist(True)
        _made.clear()
        _made[kind] = spark.range(0, rows, 1, 4).selectExpr(*columns(kind)).localCheckpoint()
    return _made[kind]


def shuffle(spark, kind, rows, how, partitions):
    frame = repartition(use(spark, kind, rows), how, partitions, ["k"])
    return timed(spark, lambda: frame.write.format("noop").mode("overwrite").save())


def tpch(spark, number, data):
    if not _made.get(data):
        tables.use_tpch(spark, data)
        _made[data] = spark.range(0)
    before, query, after = tables.tpch_statements(number)
    for statement in before:
        spark.sql(statement)
    try:
        return timed(spark, lambda: spark.sql(query).collect())
    finally:
        for statement in after:
            spark.sql(statement)


def timed(spark, work):
    with probe.job_group(spark) as group:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    tasks = probe.task_metrics(spark, group)
    return {"seconds": seconds, "bytes": tasks["shuffleWriteBytes"], "records": tasks["shuffleWriteRecords"]}
