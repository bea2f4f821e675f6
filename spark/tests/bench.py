# SPDX-License-Identifier: Apache-2.0
"""Vanilla Spark and the adapter side by side: TPC-H, and single shuffles of many kinds.

    python spark/tests/bench.py --jar JAR --data TPCH_SF1 [--iterations 3] [--only WORDS] [--control]

Each side is one Spark on `local[2]`, which lives as long as the program does, so that both are as warm as a service is; a side
is idle while the other one works. Both have 3 GiB of heap and 1 GiB outside of it, which the operators of vanilla Spark use
too. Of each workload, either side does some runs that are not counted; then each iteration is a run of both, the first to go
changing. Nothing else should run on the machine meanwhile; how much figures vary by chance, --control shows.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import sys
import typing

from cases import timed
from harness import driver, tables

# Limits of the project, for vanilla's time divided by ours (more is better) and our bytes divided by vanilla's.
FLAT_SPEED, TPCH_SPEED, BYTES = 0.9, 0.95, 1.0

ROWS = {"10 columns": 2_000_000, "50 columns": 500_000, "nested": 500_000}
# Runs of a workload that are not counted: the compiler of Java is still busy with the code that Spark made for it. Of 50 columns
# it has more to do on our side, where rows are made of columns again: the first runs are slower by a tenth or two.
SHUFFLE_WARM_UPS, TPCH_WARM_UPS = 10, 2
SIDES = ("vanilla", "ours")
# Of both.
SETTINGS = {
    "spark.master": "local[2]",
    "spark.driver.memory": "3g",
    # All of the heap from the start: when it grows depends on what ran before.
    "spark.driver.extraJavaOptions": "-Xms3g",
    "spark.memory.offHeap.enabled": "true",
    "spark.memory.offHeap.size": "1g",
}


@dataclasses.dataclass
class Workload:
    name: str
    case: typing.Callable
    arguments: dict
    warm_ups: int
    runs: dict = dataclasses.field(default_factory=lambda: {side: [] for side in SIDES})

    def median(self, side, what):
        return statistics.median(run[what] for run in self.runs[side])

    def medians(self, what):
        return [self.median(side, what) for side in SIDES]


def workloads(options):
    for kind, rows in ROWS.items():
        for how in ("hash", "range", "round robin"):
            for partitions in (200,) if kind != "10 columns" else (16, 200):
                yield Workload(f"{kind}, {how}, {partitions}", timed.shuffle,
                               dict(kind=kind, rows=int(rows * options.scale), how=how, partitions=partitions), SHUFFLE_WARM_UPS)
    for number in range(1, 23):
        yield Workload(f"tpch q{number}", timed.tpch, dict(number=number, data=options.data), TPCH_WARM_UPS)


def run(workload, place, sides, iterations):
    for iteration in range(-workload.warm_ups, iterations):
        # Also from workload to workload, for odd numbers of iterations.
        for side in SIDES if (iteration + place) % 2 else reversed(SIDES):
            result = sides[side].call(workload.case, 600, **workload.arguments)
            if iteration >= 0:
                workload.runs[side].append(result)
    records = workload.medians("records")
    note = "" if len(set(records)) == 1 else f" records: {records}"
    print(line(workload.name, workload.medians("seconds"), workload.medians("bytes")) + note, flush=True)


def speed(seconds):
    vanilla, ours = seconds
    return vanilla / ours


def size(lengths):
    vanilla, ours = lengths
    return ours / vanilla if vanilla else 1.0


def line(name, seconds, lengths):
    return (f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {speed(seconds):.2f} "
            f"| {lengths[0] / 1e6:.2f} | {lengths[1] / 1e6:.2f} | {size(lengths):.3f} |")


def gates(done):
    """What the project has set limits for: its name, its value, whether it holds, the limit."""
    flat = [workload for workload in done if "columns" in workload.name]
    tpch = [workload for workload in done if workload.name.startswith("tpch")]
    at_least = lambda name, value, limit: (name, value, value >= limit, f"at least {limit}")
    at_most = lambda name, value, limit: (name, value, value <= limit, f"at most {limit}")
    if flat:
        speeds = [speed(workload.medians("seconds")) for workload in flat]
        yield at_least("flat rows, geometric mean: speed", statistics.geometric_mean(speeds), FLAT_SPEED)
    for workload in done:
        if workload in flat:
            yield at_least(f"{workload.name}: speed", speed(workload.medians("seconds")), FLAT_SPEED)
        if workload not in tpch:
            yield at_most(f"{workload.name}: bytes", size(workload.medians("bytes")), BYTES)
    if tpch:
        total = lambda what: [sum(workload.median(side, what) for workload in tpch) for side in SIDES]
        print(line("tpch total", total("seconds"), total("bytes")))
        yield at_least("tpch total: speed", speed(total("seconds")), TPCH_SPEED)
        yield at_most("tpch total: bytes", size(total("bytes")), BYTES)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ballista/spark"
    parser.add_argument("--jar", type=pathlib.Path, default=tables.REPOSITORY / "spark/plugin/target/ballista-spark-0.1.0.jar")
    parser.add_argument("--data", required=True, help="folder of TPC-H at scale factor 1")
    parser.add_argument("--iterations", type=int, default=3, help="counted runs of each workload")
    parser.add_argument("--partitions", type=int, default=200, help="of shuffles in TPC-H; 200 is Spark's default")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows of single shuffles")
    parser.add_argument("--only", default="", help="words that a workload's name must have")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the adapter's session; repeatable")
    parser.add_argument("--set-vanilla", action="append", default=[], metavar="KEY=VALUE", help="setting of vanilla's session; repeatable")
    parser.add_argument("--control", action="store_true", help="vanilla Spark on both sides: how much figures vary by chance")
    parser.add_argument("--work", type=pathlib.Path, default=cache, help="folder for logs")
    options = parser.parse_args()
    options.jar = options.jar.resolve()
    if options.iterations < 1:
        parser.error("--iterations must be at least 1")
    if not options.control and not options.jar.exists():
        parser.error(f"{options.jar} is not there (hint: cargo xtask spark-build)")
    logs = options.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    driver.end_on_signals()

    pairs = lambda settings: dict(setting.split("=", 1) for setting in settings)
    common = {"spark.sql.shuffle.partitions": str(options.partitions)}
    adapter = {} if options.control else driver.settings_of_ours(options.jar)
    # Last what both have, so that it is the same.
    sides = {"vanilla": driver.Driver("bench-vanilla", {**common, **SETTINGS, **pairs(options.set_vanilla)}, logs),
             "ours": driver.Driver("bench-ours", {**common, **adapter, **SETTINGS, **pairs(options.set)}, logs)}
    done = []
    try:
        print("| | vanilla s | ours s | speed | vanilla MB | ours MB | bytes |\n|---|---|---|---|---|---|---|", flush=True)
        wanted = [workload for workload in workloads(options) if all(word in workload.name for word in options.only.split())]
        for place, workload in enumerate(wanted):
            run(workload, place, sides, options.iterations)
            done.append(workload)
        results = list(gates(done))
        for spark in sides.values():
            spark.stop()
    finally:
        for spark in sides.values():
            spark.kill()
    print()
    for workload in done:
        if workload.name.startswith("nested"):
            print(f"info {workload.name}: speed {speed(workload.medians('seconds')):.3f} (no limit)")
    for name, value, holds, limit in results:
        print(f"{'pass' if holds else 'FAIL'} {name} {value:.3f} ({limit})")
    failed = [name for name, _, holds, _ in results if not holds]
    print(f"{len(results) - len(failed)} limits hold, {len(failed)} do not")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
