# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapter inside real Spark: the answers of vanilla Spark, and proof that the shuffles were ours.

    python spark/tests/run.py --jar JAR --data TPCH_SF0.1 [--big-data TPCH_SF1] [--full] [--only WORDS] [--vanilla]

A `Group` is a Spark driver with its own static settings, its tests run in it one by one. A `Test` is a case with arguments;
if it has an answer to be compared, the case runs in vanilla Spark first (answers are kept from run to run, by what made them).
With --vanilla the groups are vanilla too, and what only the adapter can fulfil is not asked: a test of the tests.
"""

import argparse
import collections
import dataclasses
import hashlib
import os
import pathlib
import pickle
import re
import shutil
import signal
import sys
import time
import typing

from cases import faults, queries
from harness import compare, driver, tables

AQE = "spark.sql.adaptive.enabled"
NO_AQE = {AQE: "false"}
PARTITIONS = "spark.sql.shuffle.partitions"
CODEC = "spark.comet.shuffle.compression.codec"
SPILL_ROWS = "spark.comet.shuffle.jvm.spillThreshold"
ASYNC = "spark.comet.shuffle.jvm.async.enabled"
NATIVE = {"spark.comet.exec.enabled": "true"}
BATCH_ROWS = "spark.comet.shuffle.jvm.batchSize"

# Operators that run natively.
NATIVE_NODES = {"CometFilterExec", "CometProjectExec"}

# Queries of a second do not repay an optimising compiler: a third of the processor time without it.
QUICK_JAVA = "-XX:TieredStopAtLevel=1"

OURS, SPARKS = "CometColumnarExchange", "ShuffleExchangeExec"
# With two task slots and at most eight writers (see `static_settings`), how many partitions lead to which writer.
WRITERS = {"bypass": (3, "CometBypassMergeSortShuffleHandle"), "sort": (9, "CometSerializedShuffleHandle")}


@dataclasses.dataclass
class Test:
    name: str
    case: typing.Callable
    arguments: dict = dataclasses.field(default_factory=dict)
    # How the rows are compared with vanilla's: compare.same_rows, compare.same_bytes, or not at all.
    same: typing.Callable | None = None
    # Raises AssertionError: takes what the case returned, what it returned in vanilla Spark (or None).
    check: typing.Callable | None = None
    timeout: float = 90


@dataclasses.dataclass
class Group:
    name: str
    master: str
    tests: list
    settings: dict = dataclasses.field(default_factory=dict)


# -- What our plans must fulfil


def is_ours(outcome, expected=None):
    """Every exchange is ours, and tasks wrote through it."""
    kinds = collections.Counter(exchange["node"] for exchange in outcome["exchanges"])
    assert kinds[OURS] and not kinds[SPARKS], f"the exchanges are {dict(kinds)}\n{outcome['plan']}"
    tasks = outcome["tasks"]
    records = sum(exchange["metrics"]["shuffleRecordsWritten"] for exchange in outcome["exchanges"])
    written = [exchange["metrics"]["shuffleBytesWritten"] for exchange in outcome["exchanges"]]
    assert tasks["shuffleWriteRecords"] == records, f"tasks wrote {tasks['shuffleWriteRecords']} records, exchanges {records}"
    assert tasks["shuffleWriteBytes"] == sum(written), f"tasks wrote {tasks['shuffleWriteBytes']} bytes, exchanges {written}"
    assert not records or (tasks["shuffleWriteBytes"] and tasks["shuffleWriteTime"]), f"metrics of the tasks: {tasks}"


def is_written_by(writer):
    def check(outcome, expected):
        is_ours(outcome)
        handles = {exchange["handle"] for exchange in outcome["exchanges"] if exchange["partitions"] > 1}
        assert not handles or WRITERS[writer][1] in handles, f"the handles are {handles}"

    return check


def has_shape_of_vanilla(outcome, expected):
    shape = lambda facts: sorted((exchange["partitioning"]) for exchange in facts["exchanges"])
    assert shape(outcome) == shape(expected), f"exchanges by {shape(outcome)}, vanilla {shape(expected)}"


def has_metrics_of_vanilla(outcome, expected):
    """Counts are equal; sizes are there."""
    is_ours(outcome)
    for name in ("shuffleWriteRecords", "shuffleReadRecords"):
        got, wanted = outcome["tasks"][name], expected["tasks"][name]
        assert got == wanted, f"{name} is {got}, vanilla {wanted}"
    for ours, sparks in zip(outcome["exchanges"], expected["exchanges"]):
        for name in ("dataSize", "shuffleRecordsWritten", "recordsRead"):
            assert ours["metrics"][name] == sparks["metrics"][name], (
                f"{name} is {ours['metrics'][name]}, vanilla {sparks['metrics'][name]}")
        for name in ("shuffleWriteTime", "localBytesRead", "peakMemory", "decodeTime"):
            assert ours["metrics"][name] > 0, f"{name} of the exchange is 0: {ours['metrics']}"
    assert outcome["tasks"]["shuffleReadBytes"] and outcome["tasks"]["peakExecutionMemory"], f"{outcome['tasks']}"


def has_spilled(times):
    def check(outcome, expected):
        is_ours(outcome)
        spills = sum(exchange["metrics"]["spills"] for exchange in outcome["exchanges"])
        assert spills >= times, f"{spills} spills, expected {times} at least"
        assert outcome["tasks"]["diskBytesSpilled"] and outcome["tasks"]["memoryBytesSpilled"], f"{outcome['tasks']}"

    return check


def is_read(how):
    def check(outcome, expected):
        is_ours(outcome)
        assert how in outcome["reads"], f"reads are {outcome['reads']}\n{outcome['plan']}"

    return check


def is_reused(outcome, expected):
    is_ours(outcome)
    assert "ReusedExchangeExec" in outcome["nodes"], outcome["plan"]


def is_native(outcome, expected):
    is_ours(outcome)
    assert NATIVE_NODES & set(outcome["nodes"]), f"no native operator\n{outcome['plan']}"


def fails_natively(outcome, expected):
    assert outcome["rows"] and NATIVE_NODES & set(outcome["nodes"]), f"{outcome}"


# -- What must hold in vanilla Spark too


def was_cancelled(outcome, expected):
    assert outcome["ended"], "the query runs on after it was cancelled"
    assert any("cancel" in error.lower() for error in outcome["error"]), f"it ended with {outcome['error']}"
    assert not outcome["leaks"], f"held after the cancellation: {outcome['leaks']}"
    assert outcome["next"] == 100, f"the next query gave {outcome['next']}"


def ended_early(counts, expected):
    assert counts == [1000, 1], f"{counts} rows"


def was_fetched_again(outcome, expected):
    assert outcome["same"], f"another answer, of {outcome['rows']} rows"
    failures = outcome["tasks"]["failures"]
    assert any("FetchFailed" in failure for failure in failures), f"no fetch failure: {outcome['tasks']}"


def was_computed_again(outcome, expected):
    assert outcome["executors"] == 2, f"{outcome['executors']} executors"
    assert outcome["tasks"]["attempts"] > 2, f"no stage ran again: {outcome['tasks']}"


def is_flat(outcome, expected):
    sizes = outcome["sizes"]
    calm = sizes[len(sizes) // 5:]
    median = lambda values: sorted(values)[len(values) // 2]
    grown = median(calm[-len(calm) // 4:]) - median(calm[:len(calm) // 4])
    assert grown < 48 << 20, f"resident memory grew by {grown >> 20} MiB: {[size >> 20 for size in sizes]}"
    assert not outcome["leaks"], f"held in the end: {outcome['leaks']}"


def says(*words):
    def check(error, expected):
        assert error is not None, "it started"
        missing = [word for word in words if word not in error]
        assert not missing, f"the error does not name {missing}:\n{error}"

    return check


def starts(error, expected):
    assert error is None, error


# -- The tests


def tpch_tests(data, numbers, configurations, name="tpch"):
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
                       compare.same_rows, all_of(checks))


def some_tpch_tests(data, numbers, configurations, each):
    """Each query with `each` of the configurations, in turn."""
    step = len(configurations) // each
    for number in numbers:
        yield from tpch_tests(data, [number], [configurations[(number + turn * step) % len(configurations)] for turn in range(each)])


def all_of(checks):
    def check(outcome, expected):
        for one in checks:
            one(outcome, expected)

    return check


# Each pair of values of two settings is in one of these.
PAIRWISE = [
    ("true", "bypass", "lz4", "false"), ("false", "sort", "lz4", "true"), ("true", "sort", "zstd", "true"),
    ("false", "bypass", "zstd", "false"), ("false", "sort", "none", "false"), ("true", "bypass", "none", "true"),
]
ALL = [(aqe, writer, codec, asynchronous) for aqe in ("true", "false") for writer in WRITERS
       for codec in ("lz4", "zstd", "none") for asynchronous in ("false", "true")]


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
                       compare.same_bytes, is_written_by(writer))


def edge_tests():
    yield Test("no rows", queries.no_rows, dict(settings=NO_AQE), compare.same_bytes, is_ours)
    yield Test("no columns", queries.no_columns, dict(settings=NO_AQE), compare.same_bytes, is_ours)
    yield Test("2001 partitions", queries.partitions_2001, dict(settings=NO_AQE), compare.same_bytes, is_ours)
    for writer, (partitions, _) in WRITERS.items():
        for asynchronous in ("false", "true"):
            settings = {**NO_AQE, SPILL_ROWS: "10", ASYNC: asynchronous}
            yield Test(f"2000 spills a task, {writer}, {'async' if asynchronous == 'true' else 'sync'}", queries.big,
                       dict(rows=100_000, how="hash", partitions=partitions, settings=settings), compare.same_rows,
                       has_spilled(8000), timeout=240)
    for how in ("hash", "range", "round robin", "single"):
        yield Test(f"metrics {how}", queries.big, dict(rows=50_000, how=how, partitions=3, settings=NO_AQE),
                   compare.same_rows, has_metrics_of_vanilla)
    for how in ("coalesced", "local", "skewed"):
        yield Test(f"{how} read", queries.adaptive_read, dict(how=how), compare.same_rows, is_read(how))
    yield Test("reused exchange", queries.reused_exchange, {}, compare.same_rows, is_reused)
    for codec in ("lz4", "none"):
        yield Test(f"corrupt block {codec}", faults.corrupt_block, dict(settings={CODEC: codec}), None, was_fetched_again)
    for name, settings in [("", {}), (", native", NATIVE)]:
        yield Test(f"cancelled{name}", faults.cancelled, dict(settings=settings), None, was_cancelled, timeout=150)
        yield Test(f"failing input{name}", faults.failing_input, dict(settings=settings), compare.same_rows,
                   fails_natively if settings else None)
        yield Test(f"early end{name}", faults.early_end, dict(settings=settings), None, ended_early)


def sample_tests(seeds, data, rows=20_000, check=is_ours):
    """A little of everything, for groups that differ by static settings."""
    yield from random_tests(seeds)
    for writer, (partitions, _) in WRITERS.items():
        yield Test(f"many rows {writer}", queries.big, dict(rows=rows, how="hash", partitions=partitions, settings=NO_AQE),
                   compare.same_rows, check, timeout=240)
    yield from tpch_tests(data, [3, 18], PAIRWISE[:2])


def refusals(jar):
    plugin = {"spark.master": "local[1]", "spark.plugins": driver.PLUGIN, "spark.driver.extraClassPath": jar}
    memory = {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": "64m"}
    manager = {"spark.shuffle.manager": driver.MANAGER}
    refused = lambda name, settings, check: Test(name, faults.refused, dict(settings={**plugin, **settings}), None, check)
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


def groups(options):
    full, data, jar = options.full, options.data, str(options.jar)
    everything = range(1, 23)
    seeds = range(options.seed, options.seed + (40 if full else 4))
    local = [*edge_tests(), *random_tests(seeds),
             *(tpch_tests(data, everything, ALL) if full else some_tpch_tests(data, everything, PAIRWISE, 3)),
             *native_tests(data, everything)]
    if full:
        local += tpch_tests(options.big_data, everything, [PAIRWISE[0], PAIRWISE[4]], "tpch sf1")
    cluster = [
        *(tpch_tests(data, everything, ALL) if full else some_tpch_tests(data, [3, 9, 13, 16, 18, 21], PAIRWISE, 1)),
        *random_tests(list(seeds)[:None if full else 2]),
        *(Test(f"executor killed {'in the' if when == 'reduce' else 'before the'} reduce", faults.executor_killed,
               dict(during=when), compare.same_bytes, all_of([was_computed_again, is_ours_after_faults]), timeout=150)
          for when in ("reduce", "pause")),
        Test("corrupt block lz4", faults.corrupt_block, dict(settings={CODEC: "lz4"}), None, was_fetched_again),
    ]
    few = list(seeds)[:None if full else 1]
    yield Group("settings", None, list(refusals(jar)))
    yield Group("local", "local[2]", local)
    # Task slots in a cluster of one-core executors are one each; eight writers still part the two kinds.
    yield Group("cluster", "local-cluster[2,1,1024]", cluster)
    yield Group("little memory, no checksums", "local[2]",
                list(sample_tests(few, data, 1_000_000, has_spilled(1))),
                {"spark.memory.offHeap.size": "64m", "spark.shuffle.checksum.enabled": "false"})
    yield Group("encrypted, crc32", "local[2]",
                [*sample_tests(few, data), Test("corrupt block", faults.corrupt_block, dict(settings={}), None, was_fetched_again)],
                {"spark.io.encryption.enabled": "true", "spark.shuffle.checksum.algorithm": "CRC32"})
    yield Group("not compressed, crc32c", "local[2]", list(sample_tests(few, data)),
                {"spark.shuffle.compress": "false", "spark.shuffle.checksum.algorithm": "CRC32C"})
    times = 500 if full else 50
    yield Group("repeats", "local[2]",
                [Test(f"{times} repeats", faults.repeats, dict(times=times), None, is_flat, timeout=900 if full else 120)],
                # A heap that is there from the start, so that growth of anything else shows.
                {"spark.driver.memory": "1g", **java_settings(options, "-Xms1g", "-XX:+AlwaysPreTouch")})


def is_ours_after_faults(outcome, expected):
    kinds = {exchange["node"] for exchange in outcome["exchanges"]}
    assert kinds == {OURS}, f"the exchanges are {kinds}"


def native_tests(data, numbers):
    for test in tpch_tests(data, numbers, [("true", "bypass", "lz4", "false")], "tpch native"):
        test.arguments["settings"] |= NATIVE
        test.check = is_native
        yield test


def static_settings(group, options):
    if group.master is None:
        return None
    settings = {"spark.master": group.master, **java_settings(options)}
    if not options.vanilla:
        settings |= driver.settings_of_ours(options.jar)
        settings["spark.comet.shuffle.jvm.maxWritersPerExecutor"] = "8"
    return {**settings, **group.settings, **dict(setting.split("=", 1) for setting in options.set)}


def java_settings(options, *more):
    arguments = " ".join([*([] if options.full else [QUICK_JAVA]), *more])
    return {"spark.driver.extraJavaOptions": arguments, "spark.executor.extraJavaOptions": arguments}


# -- Running them

# Not asked of vanilla Spark, with --vanilla.
OF_BOTH = {was_cancelled, was_fetched_again, ended_early, is_flat}


class Answers:
    """What cases give in vanilla Spark, kept in files under a digest of all that they depend on."""

    def __init__(self, folder, options):
        digest = hashlib.sha256(options.data.encode())
        here = pathlib.Path(__file__).parent
        for path in [here / "requirements.txt", *here.glob("cases/*.py"), *here.glob("harness/*.py"), *tables.QUERIES.glob("*.sql"),
                     *pathlib.Path(options.data).glob("*.json")]:
            digest.update(path.read_bytes())
        self.folder = pathlib.Path(folder) / digest.hexdigest()[:16]
        for other in pathlib.Path(folder).glob("*"):
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, test):
        name = repr((test.case.__name__, sorted(self.arguments(test).items())))
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:16]

    @staticmethod
    def arguments(test):
        """One answer for all settings that must not change it."""
        return {**test.arguments, "settings": NO_AQE_TPCH} if "settings" in test.arguments else test.arguments

    def get(self, test):
        path = self.path(test)
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def put(self, test, answer):
        new = self.path(test).with_suffix(".new")
        new.write_bytes(pickle.dumps(answer))
        new.rename(self.path(test))


NO_AQE_TPCH = {**NO_AQE, PARTITIONS: "3", "spark.sql.autoBroadcastJoinThreshold": "-1"}


class Tally:
    """Counts, and tells. What went wrong stands in full in a file."""

    passed = failed = 0

    def __init__(self, failures):
        self.failures = failures

    def ok(self, name, seconds):
        self.passed += 1
        print(f"ok {name} ({seconds:.1f} s)", flush=True)

    def fail(self, name, why):
        self.failed += 1
        with self.failures.open("a") as file:
            file.write(f"FAILED {name}: {why}\n\n")
        lines = str(why).strip().splitlines() or [repr(why)]
        if lines[0].startswith("Traceback"):
            # What was raised, in Python and below in Java.
            lines = [line for line in lines if re.match(r"[^\s].*(Error|Exception)|Caused by", line)] or lines[-1:]
        short = lines[:6]
        print(f"FAILED {name}: " + "\n  ".join(line[:300] for line in short), flush=True)


def run_group(group, answers, options, tally):
    print(f"-- {group.name}: {group.master or 'sessions that start themselves'}, {len(group.tests)} tests", flush=True)
    spark = driver.Driver(group.name.replace(" ", "-").replace(",", ""), static_settings(group, options), options.logs)
    ours = not options.vanilla

    def step(name, work):
        start = time.monotonic()
        try:
            work()
        except (AssertionError, driver.CallFailed, driver.DriverLost) as error:
            tally.fail(f"{group.name}: {name}", error)
            return False
        tally.ok(f"{group.name}: {name}", time.monotonic() - start)
        return True

    try:
        if not step("Spark starts", spark.start):
            return
        for test in group.tests:
            step(test.name, lambda: run_test(spark, test, answers, ours, group.master == "local[2]"))
        step("Spark ends in order", spark.stop)
    finally:
        spark.kill()


def run_test(spark, test, answers, ours, one_process):
    arguments = dict(test.arguments)
    if test.case in (faults.cancelled, faults.repeats):
        arguments["ours"] = ours
    outcome = spark.call(test.case, test.timeout, **arguments)
    expected = answers.get(test) if test.same else None
    if test.same:
        assert expected is not None, "vanilla Spark gave no answer"
        try:
            test.same(outcome["rows"], expected["rows"])
        except AssertionError as error:
            raise AssertionError(f"{error} {outcome.get('about', '')}") from None
    if test.check and (ours or test.check in OF_BOTH):
        test.check(outcome, expected)
    if one_process:
        held = spark.call(faults.leaks, 30, ours=ours)
        assert not held, f"held after the query: {held}"


def make_answers(wanted, answers, options, tally):
    """Runs the cases whose answer is not there yet in vanilla Spark."""
    missing = {answers.path(test): (group, test) for group in wanted for test in group.tests
               if test.same and not answers.path(test).exists()}
    if not missing:
        return
    print(f"-- vanilla: {len(missing)} answers", flush=True)
    start = time.monotonic()
    # Executors are only killed where there are any.
    masters = {path: group.master if test.case is faults.executor_killed else "local[2]"
               for path, (group, test) in missing.items()}
    for master in sorted(set(masters.values())):
        spark = driver.Driver("vanilla", {"spark.master": master, **java_settings(options)}, options.logs)
        try:
            for _, test in (pair for path, pair in missing.items() if masters[path] == master):
                try:
                    answers.put(test, spark.call(test.case, test.timeout, **answers.arguments(test)))
                except (driver.CallFailed, driver.DriverLost) as error:
                    tally.fail(f"vanilla: {test.name}", error)
            spark.stop()
        finally:
            spark.kill()
    print(f"-- vanilla: done in {time.monotonic() - start:.0f} s", flush=True)


def select(every, words):
    """Groups with the tests whose names, with the group's, have all the words."""
    for group in every:
        group.tests = [test for test in group.tests if all(word in f"{group.name}: {test.name}" for word in words)]
        if group.tests:
            yield group


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ballista/spark"
    parser.add_argument("--jar", type=pathlib.Path, default=tables.REPOSITORY / "spark/plugin/target/ballista-spark-0.1.0.jar")
    parser.add_argument("--data", required=True, help="folder of TPC-H at scale factor 0.1")
    parser.add_argument("--big-data", help="folder of TPC-H at scale factor 1, for --full")
    parser.add_argument("--full", action="store_true", help="all of it: several hours instead of minutes")
    parser.add_argument("--vanilla", action="store_true", help="vanilla Spark on both sides")
    parser.add_argument("--seed", type=int, default=1, help="of the first random table")
    parser.add_argument("--only", default="", help="words that a test's name must have")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of all sessions but vanilla's; repeatable")
    parser.add_argument("--list", action="store_true", help="names of the tests")
    parser.add_argument("--work", type=pathlib.Path, default=cache, help="folder for logs and answers")
    options = parser.parse_args()
    if options.full and not options.big_data:
        parser.error("--full needs --big-data")
    options.jar = options.jar.resolve()
    wanted = list(select(groups(options), options.only.split()))
    if options.list:
        print("\n".join(f"{group.name}: {test.name}" for group in wanted for test in group.tests))
        return 0
    if not options.vanilla and not options.jar.exists():
        parser.error(f"{options.jar} is not there (hint: cargo xtask spark-build)")
    if options.vanilla:
        wanted = [group for group in wanted if group.master]
    # Ends drivers on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    options.logs = options.work / "logs"
    shutil.rmtree(options.logs, ignore_errors=True)
    options.logs.mkdir(parents=True)
    print(f"seed {options.seed}, logs in {options.logs}", flush=True)
    tally, start = Tally(options.logs / "failures.txt"), time.monotonic()
    answers = Answers(options.work / "answers", options)
    make_answers(wanted, answers, options, tally)
    for group in wanted:
        run_group(group, answers, options, tally)
    print(f"{time.monotonic() - start:.0f} s")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
