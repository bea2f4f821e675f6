# SPDX-License-Identifier: Apache-2.0
"""Queries that must give the same answer with every setting."""

from pyspark.sql.functions import broadcast

from harness import probe, tables
from harness.tables import Types, hashable, orderable

_used = set()


def tpch(spark, number, data, settings):
    """A TPC-H query, its rows as Python values."""
    if data not in _used:
        tables.use_tpch(spark, data)
        _used.add(data)
    before, query, after = tables.tpch_statements(number)
    with probe.settings(spark, settings):
        for statement in before:
            spark.sql(statement)
        try:
            return probe.observe(spark, spark.sql(query), probe.tuples)
        finally:
            for statement in after:
                spark.sql(statement)


def random_rows(spark, seed, how, partitions, settings, filtered=False):
    """Random types and values through one exchange: every row with its partition, every bit of it. Filtered: also through a
    filter above it and one below, if the optimizer is told to leave them there."""
    types = Types(seed)
    frame, kinds = types.table(spark, 1000)
    names = dict(zip(frame.columns, kinds))
    able = [name for name, kind in names.items() if (orderable if how == "range" else hashable)(kind)]
    keys = types.random.sample(able, types.random.randint(1, 3))
    with probe.settings(spark, settings):
        if filtered:
            frame = frame.where("k <> 500")
        moved = repartition(frame, how, partitions, keys)
        if filtered:
            moved = moved.where("k >= 300")
        return {**probe.observe(spark, probe.placed(moved), probe.exact), "about": f"by {keys} of {names}"}


def repartition(frame, how, partitions, keys):
    if how == "hash":
        return frame.repartition(partitions, *keys)
    if how == "range":
        return frame.repartitionByRange(partitions, *keys)
    if how == "round robin":
        return frame.repartition(partitions)
    assert how == "single"
    return frame.repartition(1)


def no_rows(spark, settings):
    frame, _ = Types(1).table(spark, 0)
    with probe.settings(spark, settings):
        return probe.observe(spark, probe.placed(frame.repartition(7, "k")), probe.exact)


def no_columns(spark, settings):
    """Rows that are only counted, dealt to partitions."""
    frame = spark.range(0, 1000, 1, 3).localCheckpoint().select().repartition(7)
    with probe.settings(spark, settings):
        return probe.observe(spark, frame.selectExpr("spark_partition_id() as partition"), probe.exact)


def partitions_2001(spark, settings):
    """Above 2000 partitions Spark keeps only average sizes of blocks."""
    frame = spark.range(0, 5000, 1, 2).selectExpr("id as k", "cast(id as string) as s")
    with probe.settings(spark, settings):
        return probe.observe(spark, probe.placed(frame.repartition(2001, "k")), probe.exact)


def big(spark, rows, how, partitions, settings):
    """Many rows through one exchange, of which every partition's count and checksum come back."""
    frame = spark.range(0, rows, 1, 4).selectExpr(
        "id as k", "if(id % 7 = 0, null, id * 3) as a", "sha2(cast(id as string), 256) as s",
        "cast(id as decimal(30, 5)) as d", "array(id, id + 1) as l", "named_struct('x', id, 'y', hex(id)) as t")
    with probe.settings(spark, settings):
        moved = repartition(frame, how, partitions, ["k"])
        sums = moved.selectExpr("spark_partition_id() as p", "xxhash64(k, a, s, d, l, t) as h")
        # Added up by 4.0's try_sum semantics an overflow would be null: shifted, it cannot overflow.
        result = sums.groupBy("p").agg({"*": "count", "h": "bit_xor"})
        return probe.observe(spark, result, probe.tuples)


def adaptive_read(spark, how):
    """A query whose shuffle is read in one of the ways of adaptive execution."""
    settings = {"spark.sql.adaptive.enabled": "true", "spark.sql.autoBroadcastJoinThreshold": "-1"}
    left = spark.range(0, 20000, 1, 4).selectExpr("if(id % 2 = 0, 0, id % 1000) as k", "id as a", "sha2(cast(id as string), 256) as s")
    right = spark.range(0, 1000, 1, 2).selectExpr("id as k", "id * 2 as b")
    if how == "coalesced":
        settings |= {"spark.sql.shuffle.partitions": "50"}
        frame = left.groupBy("k").agg({"a": "sum", "s": "max"})
    elif how == "local":
        settings |= {"spark.sql.adaptive.autoBroadcastJoinThreshold": "10MB"}
        frame = left.join(right.where("b < 100"), "k")
    else:
        assert how == "skewed"
        settings |= {
            "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "100KB",
            "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "2",
            "spark.sql.adaptive.advisoryPartitionSizeInBytes": "64KB",
            "spark.sql.adaptive.autoBroadcastJoinThreshold": "-1",
        }
        frame = left.join(right, "k")
    with probe.settings(spark, settings):
        return probe.observe(spark, frame, probe.tuples)


def broadcast_of_coalesced(spark):
    """The first rows of a join of two shuffles, one of them coalesced, the other one broadcast."""
    settings = {"spark.sql.adaptive.enabled": "true", "spark.sql.shuffle.partitions": "50",
                "spark.sql.autoBroadcastJoinThreshold": "10MB"}
    left = spark.range(0, 20000, 1, 4).selectExpr("id % 1000 as k", "id as a", "sha2(cast(id as string), 256) as s")
    right = spark.range(0, 1000, 1, 2).selectExpr("id as k", "id * 2 as b").repartition(4, "k")
    frame = left.groupBy("k").agg({"a": "sum", "s": "max"}).join(broadcast(right), "k").orderBy("k").limit(10)
    with probe.settings(spark, settings):
        return probe.observe(spark, frame, probe.tuples)


def interval(spark):
    """A join of a shuffle with a type that has no columns here, and one without."""
    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.autoBroadcastJoinThreshold": "-1"}
    left = spark.range(0, 1000, 1, 3).selectExpr("id as k", "make_interval(0, cast(id % 5 as int), 0, cast(id as int)) as i")
    right = spark.range(0, 2000, 1, 2).selectExpr("id as k", "id * 2 as b")
    with probe.settings(spark, settings):
        return probe.observe(spark, left.join(right, "k").selectExpr("k", "cast(i as string) as i", "b"), probe.tuples)


def rdd_shuffle(spark):
    """A shuffle without SQL, of Java objects."""
    values = spark._jvm.java.util.ArrayList()
    for value in range(1000):
        values.add(value)
    moved = spark.sparkContext._jsc.parallelize(values, 4).repartition(3)
    return {"rows": [(value,) for value in moved.collect()]}


def row_checksums(spark, partitions):
    """What Spark notes of the rows of each map output, whatever their order: the rows here."""
    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.shuffle.orderIndependentChecksum.enabled": "true"}
    frame = spark.range(0, 5000, 1, 3).selectExpr("id as k", "hex(id) as s").repartition(partitions, "k")
    with probe.settings(spark, settings):
        outcome = probe.observe(spark, frame, probe.count)
    tracker = spark._jvm.org.apache.spark.SparkEnv.get().mapOutputTracker()
    outputs = tracker.shuffleStatuses().apply(outcome["exchanges"][0]["shuffle"]).mapStatuses()
    checksums = [(index, output.checksumValue()) for index, output in enumerate(outputs)]
    assert all(checksum for _, checksum in checksums), f"{checksums}"
    return {**outcome, "rows": checksums}


def reused_exchange(spark):
    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.autoBroadcastJoinThreshold": "-1"}
    with probe.settings(spark, settings):
        once = spark.range(0, 5000, 1, 2).selectExpr("id % 100 as k", "id").groupBy("k").count()
        twice = once.union(once)
        return probe.observe(spark, twice, probe.tuples)
