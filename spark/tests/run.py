# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapter inside real Spark: the answers of vanilla Spark, and proof that the shuffles were ours.

    python spark/tests/run.py --jar JAR --data TPCH_SF0.1 [--big-data TPCH_SF1] [--full] [--only WORDS] [--vanilla]

The tests are in `suite`. If a test has an answer to be compared, its case runs in vanilla Spark first (answers are kept from
run to run, by what made them). With --vanilla the groups are vanilla too, and what only the adapter can fulfil is not asked: a
test of the tests.
"""

import argparse
import hashlib
import os
import pathlib
import pickle
import re
import shutil
import sys
import time

import checks
import suite
from cases import faults
from harness import driver, tables


class Answers:
    """What cases give in vanilla Spark, kept in files under a digest of all that they depend on."""

    def __init__(self, folder, options):
        digest = hashlib.sha256(options.data.encode())
        here = pathlib.Path(__file__).parent
        for path in sorted([here / "requirements.txt", *here.glob("cases/*.py"), *here.glob("harness/*.py"),
                            *tables.QUERIES.glob("*.sql"), *pathlib.Path(options.data).glob("*.json")]):
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
        return {**test.arguments, "settings": VANILLA} if "settings" in test.arguments else test.arguments

    def get(self, test):
        path = self.path(test)
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def put(self, test, answer):
        new = self.path(test).with_suffix(".new")
        new.write_bytes(pickle.dumps(answer))
        new.rename(self.path(test))


VANILLA = {**suite.NO_AQE, suite.PARTITIONS: "3", "spark.sql.autoBroadcastJoinThreshold": "-1"}


class Tally:
    """Counts, and tells. What went wrong stands in full in a file."""

    passed = failed = 0

    def __init__(self, failures):
        self.failures = failures

    def begin(self, name):
        self.name, self.start = name, time.monotonic()
        print(f"{name} ... ", end="", flush=True)

    def ok(self):
        self.passed += 1
        print(f"ok ({time.monotonic() - self.start:.1f} s)", flush=True)

    def fail(self, why):
        self.failed += 1
        with self.failures.open("a") as file:
            file.write(f"FAILED {self.name}: {why}\n\n")
        lines = str(why).strip().splitlines() or [repr(why)]
        if lines[0].startswith("Traceback"):
            # What was raised, in Python and below in Java.
            lines = [line for line in lines if re.match(r"[^\s].*(Error|Exception)|Caused by", line)] or lines[-1:]
        short = "\n  ".join(line[:300] for line in lines[:6])
        print(f"FAILED ({time.monotonic() - self.start:.1f} s)\n  {short}", flush=True)


FAILURES = (AssertionError, driver.CallFailed, driver.DriverLost)


def run_group(group, answers, options, tally):
    print(f"-- {group.name}: {group.master or 'sessions that start themselves'}, {len(group.tests)} tests", flush=True)
    start = time.monotonic()
    spark = driver.Driver(group.name.replace(" ", "-").replace(",", ""), group.static_settings(options), options.logs)
    ours = not options.vanilla

    def step(name, work):
        tally.begin(f"{group.name}: {name}")
        try:
            work()
        except FAILURES as error:
            tally.fail(error)
            return False
        tally.ok()
        return True

    try:
        if not step("Spark starts", spark.start):
            return
        for test in group.tests:
            step(test.name, lambda: run_test(spark, test, answers, ours, group.master))
        # After each test already where that costs nothing.
        if group.master == suite.CLUSTER:
            step("nothing is held", lambda: check_leaks(spark, ours))
        step("Spark ends in order", spark.stop)
    finally:
        spark.kill()
    print(f"-- {group.name}: {time.monotonic() - start:.0f} s", flush=True)


def run_test(spark, test, answers, ours, master):
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
    for check in test.checks:
        if ours or check in checks.OF_BOTH:
            check(outcome, expected)
    if master == suite.LOCAL:
        check_leaks(spark, ours)


def check_leaks(spark, ours):
    held = spark.call(faults.leaks, 60, ours=ours)
    assert not held, f"held though nothing runs: {held}"


def make_answers(wanted, answers, options, tally):
    """Runs the cases whose answer is not there yet in vanilla Spark."""
    missing = {answers.path(test): (group, test) for group in wanted for test in group.tests
               if test.same and not answers.path(test).exists()}
    if not missing:
        return
    print(f"-- vanilla: {len(missing)} answers", flush=True)
    start = time.monotonic()
    # Executors are only killed where there are any.
    masters = {path: group.master if test.case is faults.executor_killed else suite.LOCAL
               for path, (group, test) in missing.items()}
    for master in sorted(set(masters.values())):
        spark = driver.Driver("vanilla", {"spark.master": master, **suite.java_settings(options)}, options.logs)
        try:
            for test in (test for path, (_, test) in missing.items() if masters[path] == master):
                tally.begin(f"vanilla: {test.name}")
                try:
                    answers.put(test, spark.call(test.case, test.timeout, **answers.arguments(test)))
                    print(f"done ({time.monotonic() - tally.start:.1f} s)", flush=True)
                except FAILURES as error:
                    tally.fail(error)
            tally.begin("vanilla: Spark ends in order")
            try:
                spark.stop()
                tally.ok()
            except FAILURES as error:
                tally.fail(error)
        finally:
            spark.kill()
    print(f"-- vanilla: {time.monotonic() - start:.0f} s", flush=True)


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
    parser.add_argument("--full", action="store_true", help="all of it: on two cores some 80 minutes, where the quick part takes 8")
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
    wanted = list(select(suite.groups(options), options.only.split()))
    if options.list:
        print("\n".join(f"{group.name}: {test.name}" for group in wanted for test in group.tests))
        return 0
    if not options.vanilla and not options.jar.exists():
        parser.error(f"{options.jar} is not there (hint: cargo xtask spark-build)")
    if options.vanilla:
        wanted = [group for group in wanted if group.master]
    driver.end_on_signals()

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
