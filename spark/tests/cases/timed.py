# SPDX-License-Identifier: Apache-2.0
"""What is timed: each returns its seconds, and the bytes and records that its shuffles wrote."""

import time

from cases.queries import repartition
from harness import probe, tables

# Columns of the kinds that tables of a business have. `{id}` is the row's number, `{hash}` a number that has nothing to do with it
# or with any other column.
FLAT = [
    "timestamp_micros(1600000000000000 + {id} * 1000000 + pmod({hash}, 60000000))",
    "cast(pmod({hash}, 50) as int)",
    "cast(cast(pmod({hash}, 1000000000) as decimal(20,0)) / 100 as decimal(12,2))",
    "element_at(array('AIR', 'RAIL', 'TRUCK', 'REG AIR', 'DELIVER IN PERSON'), cast(pmod({hash}, 5) as int) + 1)",
    "pmod({hash}, 200000)",
    "date_add(date'1992-01-01', cast(pmod({hash}, 2500) as int))",
    "concat('Customer#', lpad(pmod({hash}, 1000000000), 9, '0'))",
    "pmod({hash}, 100000000) / 1e3D",
    "if(pmod({hash}, 7) = 0, null, cast({hash} % 1000000000 as int))",
    "left(hex({hash}), 12)",
    "pmod({hash}, 10000) * 1000 + {id}",
]
NESTED = ["id * 7", "array(id, id + 1, id + 2)", "named_struct('a', id, 'b', hex(id), 'c', array(id % 3, id % 5))",
          "map(hex(id % 100), id, hex(id % 100 + 100), null)", "array(named_struct('x', id % 7, 'y', hex(id % 1000)))"]

_made, _views = {}, set()


def columns(kind):
    """SQL of each column of a table, the first of them the key."""
    if kind == "nested":
        values = NESTED
    else:
        count = int(kind.split()[0])
        values = [FLAT[index % len(FLAT)].format(id="id", hash=f"xxhash64(id, {index})") for index in range(count - 1)]
    return ["id as k"] + [f"{value} as c{index}" for index, value in enumerate(values)]


def use(spark, kind, rows):
    """The table, computed once and held as rows, so that little but the shuffle is timed."""
    if kind not in _made:
        # The one before is dropped by the next collection of garbage.
        _made.clear()
        _made[kind] = spark.range(0, rows, 1, 4).selectExpr(*columns(kind)).localCheckpoint()
    return _made[kind]


def shuffle(spark, kind, rows, how, partitions):
    frame = repartition(use(spark, kind, rows), how, partitions, ["k"])
    return timed(spark, lambda: frame.write.format("noop").mode("overwrite").save())


def tpch(spark, number, data):
    if data not in _views:
        tables.use_tpch(spark, data)
        _views.add(data)
    before, query, after = tables.tpch_statements(number)
    for statement in before:
        spark.sql(statement)
    try:
        return timed(spark, lambda: spark.sql(query).collect())
    finally:
        for statement in after:
            spark.sql(statement)


def timed(spark, work):
    # What runs before left must not be paid for here; also lets Spark delete the shuffles that nobody needs any more.
    spark._jvm.System.gc()
    with probe.job_group(spark) as group:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    tasks = probe.task_metrics(spark, group)
    return {"seconds": seconds, "bytes": tasks["shuffleWriteBytes"], "records": tasks["shuffleWriteRecords"]}
