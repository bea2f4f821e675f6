# SPDX-License-Identifier: Apache-2.0
"""All tests, in groups: which cases run with which settings, and what they must fulfil."""

import dataclasses
import itertools
import typing

from cases import faults, files, queries, shell
from checks import (
    WRITERS, came_by_network, ended_early, ended_soon, fails_natively, has_metrics_of_vanilla, has_nodes, has_shape_of_vanilla,
    has_spilled, has_true_checksums, is_flat, is_native, is_native_on_both_sides, is_ours, is_ours_after_faults, is_partly_ours,
    is_read, is_written_by, says, says_answer, starts, stays_sparks, was_cancelled, was_computed_again, was_repaired)
from harness import compare, driver

AQE = "spark.sql.adaptive.enabled"
NO_AQE = {AQE: "false"}
PARTITIONS = "spark.sql.shuffle.partitions"
ENABLED = "spark.comet.shuffle.enabled"
CODEC = "spark.comet.shuffle.compression.codec"
SPILL_ROWS = "spark.comet.shuffle.jvm.spillThreshold"
ASYNC = "spark.comet.shuffle.jvm.async.enabled"
BATCH_ROWS = "spark.comet.shuffle.jvm.batchSize"
MAX_WRITERS = "spark.comet.shuffle.jvm.maxWritersPerExecutor"
# The optimizer would put filters below exchanges, where native operators meet no batches of ours.
PUSHES = ("PushDownPredicates", "PushPredicateThroughNonJoin")
NATIVE = {"spark.comet.exec.enabled": "true",
          "spark.sql.optimizer.excludedRules": ",".join(f"org.apache.spark.sql.catalyst.optimizer.{rule}" for rule in PUSHES)}
CHECKSUMS = "spark.shuffle.checksum.enabled"
ALGORITHM = "spark.shuffle.checksum.algorithm"
ENCRYPTED = {"spark.io.encryption.enabled": "true"}
# Executors of one machine read each other's files, unless they are told not to.
BY_NETWORK = {"spark.shuffle.readHostLocalDisk": "false"}

LOCAL, CLUSTER = "local[2]", "local-cluster[2,1,1024]"

# Queries of a second do not repay an optimising compiler: a third of the processor time without it.
QUICK_JAVA = "-XX:TieredStopAtLevel=1"


@dataclasses.dataclass
class Test:
    """A case with its arguments."""

    name: str
    case: typing.Callable
    arguments: dict = dataclasses.field(default_factory=dict)
    # How the rows are compared with vanilla's: compare.same_rows, compare.same_bytes, or not at all.
    same: typing.Callable | None = None
    checks: list = dataclasses.field(default_factory=list)
    timeout: float = 90


@dataclasses.dataclass
class Group:
    """A Spark application with its own static settings, in which tests run one by one."""

    name: str
    # None: the tests start sessions themselves.
    master: str | None
    tests: list
    settings: dict = dataclasses.field(default_factory=dict)
    java: str = ""

    def static_settings(self, options):
        if self.master is None:
            return None
        settings = {"spark.master": self.master, **java_settings(options, self.java)}
        if not options.vanilla:
            # With eight writers, small numbers of partitions part the two kinds of writers, also where a task slot is an executor.
            settings |= {**driver.settings_of_ours(options.jar), MAX_WRITERS: "8"}
        return {**settings, **self.settings, **dict(setting.split("=", 1) for setting in options.set)}


def java_settings(options, more=""):
    arguments = " ".join(filter(None, ["" if options.full else QUICK_JAVA, more]))
    return {"spark.driver.extraJavaOptions": arguments, "spark.executor.extraJavaOptions": arguments}


# -- TPC-H

# Each pair of values of two settings is in one of these.
PAIRWISE = [
    ("true", "bypass", "lz4", "false"), ("false", "sort", "lz4", "true"), ("true", "sort", "zstd", "true"),
    ("false", "bypass", "zstd", "false"), ("false", "sort", "none", "false"), ("true", "bypass", "none", "true"),
]
ALL = [(aqe, writer, codec, asynchronous) for aqe in ("true", "false") for writer in WRITERS
       for codec in ("lz4", "zstd", "none") for asynchronous in ("false", "true")]


def tpch_tests(data, numbers, configurations, name="tpch", timeout=90):
    for aqe, writer, codec, asynchronous in configurations:
        settings = {
            AQE: aqe, PARTITIONS: str(WRITERS[writer][0]), CODEC: codec, ASYNC: asynchronous,
            # Joins are shuffled, if need be made broadcasts by adaptive execution, with local readers.
            "spark.sql.autoBroadcastJoinThreshold": "-1", "spark.sql.adaptive.autoBroadcastJoinThreshold": "1MB",
        }
        if asynchronous == "true":
            settings[SPILL_ROWS] = "1000"
        kind = f"{'aqe' if aqe == 'true' else 'fixed'} {writer} {codec} {'async' if asynchronous == 'true' else 'sync'}"
        for number in numbers:
            checks = [is_written_by(writer)]
            if aqe == "false":
                checks.append(has_shape_of_vanilla)
            yield Test(f"{name} q{number} {kind}", queries.tpch, dict(number=number, data=data, settings=settings),
                       compare.same_rows, checks, timeout)


def some_tpch_tests(data, numbers, configurations):
    """Each query with one of the configurations, in turn."""
    for number in numbers:
        yield from tpch_tests(data, [number], [configurations[number % len(configurations)]])


def native_tests(data, numbers):
    for test in tpch_tests(data, numbers, [("true", "bypass", "lz4", "false")], "tpch native"):
        test.arguments["settings"]["spark.comet.exec.enabled"] = "true"
        test.checks = [is_native]
        yield test


# -- Random tables, edges, faults


def random_tests(seeds):
    codecs = ["lz4", "zstd", "snappy", "none"]
    for seed in seeds:
        for place, how in enumerate(["hash", "range", "round robin", "single"]):
            mix = seed + place
            writer = ["bypass", "sort"][mix // 2 % 2]
            settings = {AQE: ["false", "true"][mix % 2], CODEC: codecs[mix % 4], BATCH_ROWS: ["8192", "64"][mix // 4 % 2]}
            if how == "single":
                writer = "bypass"
            yield Test(f"random seed {seed} {how}", queries.random_rows,
                       dict(seed=seed, how=how, partitions=WRITERS[writer][0], settings=settings),
                       compare.same_bytes, [is_written_by(writer)])


def random_native_tests(seeds):
    """Every type from the JVM to native code and back, out of rows and out of blocks."""
    for seed in seeds:
        yield Test(f"random seed {seed}, native", queries.random_rows,
                   dict(seed=seed, how="hash", partitions=3, settings={**NO_AQE, **NATIVE}, filtered=True),
                   compare.same_bytes, [is_native_on_both_sides])


def edge_tests():
    yield Test("no rows", queries.no_rows, dict(settings=NO_AQE), compare.same_bytes, [is_ours])
    yield Test("no columns", queries.no_columns, dict(settings=NO_AQE), compare.same_bytes, [is_ours])
    yield Test("2001 partitions", queries.partitions_2001, dict(settings=NO_AQE), compare.same_bytes, [is_ours])
    for writer, (partitions, _) in WRITERS.items():
        for asynchronous in ("false", "true"):
            settings = {**NO_AQE, SPILL_ROWS: "10", ASYNC: asynchronous}
            # Of each of the four tasks.
            yield Test(f"2000 spills a task, {writer}, {'async' if asynchronous == 'true' else 'sync'}", queries.big,
                       dict(rows=100_000, how="hash", partitions=partitions, settings=settings), compare.same_rows,
                       [has_spilled(8000)], timeout=240)
    for how in ("hash", "range", "round robin", "single"):
        yield Test(f"metrics {how}", queries.big, dict(rows=50_000, how=how, partitions=3, settings=NO_AQE),
                   compare.same_rows, [has_metrics_of_vanilla])
    for how in ("coalesced", "local", "skewed"):
        yield Test(f"{how} read", queries.adaptive_read, dict(how=how), compare.same_rows, [is_read(how)])
    yield Test("first rows of a broadcast join of a coalesced read", queries.broadcast_of_coalesced, {}, compare.same_rows,
               [is_read("coalesced"), has_nodes("BroadcastHashJoinExec", "TakeOrderedAndProjectExec")])
    yield Test("reused exchange", queries.reused_exchange, {}, compare.same_rows, [is_ours, has_nodes("ReusedExchangeExec")])
    yield Test("interval stays Spark's", queries.interval, {}, compare.same_rows, [is_partly_ours])
    yield Test("rdd shuffle stays Spark's", queries.rdd_shuffle, {}, compare.same_rows)
    for writer, (partitions, _) in WRITERS.items():
        yield Test(f"row checksums {writer}", queries.row_checksums, dict(partitions=partitions), compare.same_rows, [is_ours])


def fault_tests(full):
    # Several batches in a block.
    small = {BATCH_ROWS: "64", "spark.comet.batchSize": "64"}
    for name, settings in [("", small), (", native", {**small, **NATIVE})]:
        yield Test(f"cancelled{name}", faults.cancelled, dict(during="reduce", partitions=8, settings=settings), None,
                   [was_cancelled, ended_soon], timeout=150)
        yield Test(f"failing input{name}", faults.failing_input, dict(settings=settings), compare.same_rows,
                   [fails_natively] if name else [])
        yield Test(f"early end{name}", faults.early_end, dict(settings=settings), None, [ended_early])
    spills = {SPILL_ROWS: "10"}
    beside = {**spills, ASYNC: "true"}
    kinds = [("bypass", "spills beside it", beside), ("sort", "no spill", small)]
    if full:
        kinds += [("sort", "spills beside it", beside), ("sort", "spills", spills), ("bypass", "no spill", small)]
    for writer, name, settings in kinds:
        yield Test(f"cancelled while it writes, {writer}, {name}", faults.cancelled,
                   dict(during="map", partitions=WRITERS[writer][0], settings=settings), None, [was_cancelled, ended_soon],
                   timeout=150)


def checksum_tests():
    for writer, (partitions, _) in WRITERS.items():
        yield Test(f"checksum files {writer}, spills", files.checksums, dict(partitions=partitions, settings={SPILL_ROWS: "1000"}),
                   None, [has_true_checksums, is_written_by(writer), has_spilled(8)])
        yield Test(f"checksum files {writer}", files.checksums, dict(partitions=partitions, settings={}), None,
                   [has_true_checksums, is_written_by(writer)])


def executor_tests():
    yield Test("blocks by network", queries.big, dict(rows=50_000, how="hash", partitions=9, settings=NO_AQE),
               compare.same_rows, [came_by_network])
    for name, during in (("in the", "reduce"), ("before the", "pause")):
        yield Test(f"executor killed {name} reduce", faults.executor_killed, dict(during=during), compare.same_bytes,
                   [was_computed_again, is_ours_after_faults], timeout=150)


def sample_tests(seeds, data):
    """A little of everything, for groups that differ by static settings."""
    yield from random_tests(seeds)
    yield from many_rows_tests(20_000, {}, is_ours)
    for number, configuration in zip((3, 18), PAIRWISE):
        yield from tpch_tests(data, [number], [configuration])


def many_rows_tests(rows, settings, check, name="many rows"):
    for writer, (partitions, _) in WRITERS.items():
        yield Test(f"{name} {writer}", queries.big,
                   dict(rows=rows, how="hash", partitions=partitions, settings={**NO_AQE, **settings}),
                   compare.same_rows, [check], timeout=240)


# -- Starts


def start_tests(jar):
    plugin = {"spark.master": "local[1]", "spark.plugins": driver.PLUGIN, "spark.driver.extraClassPath": jar}
    memory = {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": "64m"}
    manager = {"spark.shuffle.manager": driver.MANAGER}
    refused = lambda name, settings, check: Test(name, faults.refused, dict(settings={**plugin, **settings}), None, [check])
    yield refused("refuses to start with nothing but the plug-in", {}, says("spark.shuffle.manager", "spark.memory.offHeap"))
    yield refused("refuses to start without off-heap memory", manager, says("spark.memory.offHeap.enabled"))
    yield refused("refuses to start without the manager", memory, says("spark.shuffle.manager"))
    yield refused("refuses an unknown setting", {**memory, **manager, "spark.comet.shufle.enabled": "true"},
                  says("spark.comet.shufle.enabled"))
    yield refused("refuses a bad value", {**memory, **manager, CODEC: "gzip"}, says(CODEC, "gzip"))
    yield refused("refuses two values of one setting",
                  {**memory, **manager, CODEC: "lz4", "spark.comet.exec.shuffle.compression.codec": "zstd"}, says(CODEC))
    yield refused("starts by settings alone, with an older name", {**memory, **manager, "spark.comet.exec.shuffle.enabled": "true"},
                  starts)
    yield Test("from the README, by its own commands", shell.readme, {}, None, [says_answer], timeout=150)
    yield Test("turned on too late, without the manager", faults.enabled_later,
               dict(settings={**plugin, **memory, ENABLED: "false"}, later={ENABLED: "true"}), None, [stays_sparks])


# -- Groups


def groups(options):
    full, data = options.full, options.data
    everything = range(1, 23)
    seeds = range(options.seed, options.seed + (40 if full else 3))
    few = list(seeds)[:None if full else 1]
    local = [*edge_tests(), *fault_tests(full), *checksum_tests(), *random_tests(seeds),
             *(tpch_tests(data, everything, ALL) if full else some_tpch_tests(data, everything, PAIRWISE)),
             *native_tests(data, everything if full else everything[::7]), *random_native_tests(few)]
    if full:
        local += tpch_tests(options.big_data, everything, [PAIRWISE[0], PAIRWISE[4]], "tpch sf1", timeout=600)
    cluster = [
        *([*edge_tests(), *fault_tests(full), *tpch_tests(data, everything, ALL)] if full
          else some_tpch_tests(data, [2, 16, 18, 21], PAIRWISE)),
        *checksum_tests(), *random_tests(few), *executor_tests(),
    ]
    yield Group("settings", None, list(start_tests(str(options.jar))))
    yield Group("local", LOCAL, local)
    yield Group("cluster, crc32", CLUSTER, cluster, {ALGORITHM: "CRC32", **BY_NETWORK})
    # So that memory is short before a batch is full.
    large = {BATCH_ROWS: "1000000"}
    yield Group("little memory, no checksums", LOCAL,
                [*sample_tests(few, data), *many_rows_tests(1_500_000, large, has_spilled(4), "rows beyond memory")],
                {"spark.memory.offHeap.size": "64m", CHECKSUMS: "false"})
    yield Group("encrypted, crc32", LOCAL, [*sample_tests(few, data), *checksum_tests()], {**ENCRYPTED, ALGORITHM: "CRC32"})
    yield Group("not compressed, crc32c", LOCAL, [*sample_tests(few, data), *checksum_tests()],
                {"spark.shuffle.compress": "false", ALGORITHM: "CRC32C"})
    if full:
        for algorithm in ("ADLER32", "CRC32C"):
            yield Group(f"encrypted, {algorithm.lower()}", LOCAL, list(checksum_tests()), {**ENCRYPTED, ALGORITHM: algorithm})
    times = 500 if full else 25
    # A heap that is there from the start, so that growth of anything else shows.
    repeats = lambda name, settings, *checks: Test(
        f"{times} repeats{name}", faults.repeats, dict(times=times, settings=settings), None, [is_flat, *checks],
        timeout=900 if full else 120)
    yield Group("repeats", LOCAL, [repeats(", native", NATIVE, is_native_on_both_sides), *([repeats("", {})] if full else [])],
                {"spark.driver.memory": "1g"}, "-Xms1g -XX:+AlwaysPreTouch")
    yield from damage_groups(full)


def damage_groups(full):
    """Spark takes an executor whose block was damaged for lost, and there may be no other: each of these has an application of
    its own, and they come last."""
    damaged = lambda name, master, codec, settings: Group(
        f"damaged, {name}", master,
        [Test("corrupt block", faults.corrupt_block, dict(settings={CODEC: codec}), None, [was_repaired])], settings)
    yield damaged("lz4", LOCAL, "lz4", {})
    yield damaged("cluster, zstd, crc32c", CLUSTER, "zstd", {ALGORITHM: "CRC32C", **BY_NETWORK})
    if full:
        yield damaged("encrypted, crc32", LOCAL, "lz4", {**ENCRYPTED, ALGORITHM: "CRC32"})
        yield damaged("none, no checksums", LOCAL, "none", {CHECKSUMS: "false"})
        algorithms = itertools.cycle(("ADLER32", "CRC32", "CRC32C"))
        for codec in ("lz4", "zstd", "snappy", "none"):
            for place, master, network in (("", LOCAL, {}), ("cluster, ", CLUSTER, BY_NETWORK)):
                for secret, encryption in (("", {}), ("encrypted, ", ENCRYPTED)):
                    algorithm = next(algorithms)
                    yield damaged(f"all, {place}{secret}{codec}, {algorithm.lower()}", master, codec,
                                  {**encryption, **network, ALGORITHM: algorithm})
