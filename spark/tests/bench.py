# SPDX-License-Identifier: Apache-2.0
"""Vanilla Spark and the adapter side by side: TPC-H, and single shuffles of many kinds.

    python spark/tests/bench.py --jar JAR --data TPCH_SF1 [--iterations 3] [--only WORDS]

Both run on `local[2]` with 4 GiB, of which the adapter has 1 GiB outside the heap. Of each workload every iteration runs in
one and then in the other, the first to go changing; nothing else should run on the machine meanwhile.
"""

import argparse
import dataclasses
import os
import pathlib
import signal
import statistics
import sys
import typing

from cases import timed
from harness import driver, tables

# Limits of the project, for vanilla's time divided by ours (more is better) and our bytes divided by vanilla's.
FLAT_SPEED, TPCH_SPEED, BYTES = 0.9, 0.95, 1.0

ROWS = {"10 columns": 2_000_000, "50 columns": 500_000, "nested": 500_000}


@dataclasses.dataclass
class Workload:
    name: str
    case: typing.Callable
    arguments: dict
    runs: dict = dataclasses.field(default_factory=lambda: {"vanilla": [], "ours": []})

    def median(self, side, what):
        return statistics.median(run[what] for run in self.runs[side])

    def speed(self):
        return self.median("vanilla", "seconds") / self.median("ours", "seconds")

    def size(self):
        vanilla = self.median("vanilla", "bytes")
        return self.median("ours", "bytes") / vanilla if vanilla else 1.0


def workloads(options):
    for kind, rows in ROWS.items():
        for how in ("hash", "range", "round robin"):
            for partitions in (200,) if kind != "10 columns" else (16, 200):
                yield Workload(f"{kind}, {how}, {partitions}", timed.shuffle,
                               dict(kind=kind, rows=int(rows * options.scale), how=how, partitions=partitions))
    for number in range(1, 23):
        yield Workload(f"tpch q{number}", timed.tpch, dict(number=number, data=options.data))


def run(workload, sides, iterations):
    # The first of each is not counted.
    for iteration in range(iterations + 1):
        order = list(sides.items())
        for side, spark in order if iteration % 2 else reversed(order):
            result = spark.call(workload.case, 600, **workload.arguments)
            if iteration:
                workload.runs[side].append(result)
    records = {side: runs[0]["records"] for side, runs in workload.runs.items()}
    note = "" if records["vanilla"] == records["ours"] else f" records: {records}"
    print(line(workload.name, *(workload.median(side, what) for what in ("seconds", "bytes") for side in sides)) + note, flush=True)


def line(name, vanilla, ours, vanilla_bytes, our_bytes):
    size = our_bytes / vanilla_bytes if vanilla_bytes else 1.0
    return (f"| {name} | {vanilla:.2f} | {ours:.2f} | {vanilla / ours:.2f} "
            f"| {vanilla_bytes / 1e6:.2f} | {our_bytes / 1e6:.2f} | {size:.2f} |")


def gates(done):
    flat = [workload for workload in done if "columns" in workload.name]
    tpch = [workload for workload in done if workload.name.startswith("tpch")]
    for workload in flat:
        yield f"{workload.name}: speed", workload.speed(), workload.speed() >= FLAT_SPEED, f"at least {FLAT_SPEED}"
    for workload in flat + [workload for workload in done if "nested" in workload.name]:
        yield f"{workload.name}: bytes", workload.size(), workload.size() <= BYTES, f"at most {BYTES}"
    if tpch:
        total = lambda side, what: sum(workload.median(side, what) for workload in tpch)
        print(line("tpch total", *(total(side, what) for what in ("seconds", "bytes") for side in ("vanilla", "ours"))))
        speed = total("vanilla", "seconds") / total("ours", "seconds")
        size = total("ours", "bytes") / total("vanilla", "bytes")
        yield "tpch total: speed", speed, speed >= TPCH_SPEED, f"at least {TPCH_SPEED}"
        yield "tpch total: bytes", size, size <= BYTES, f"at most {BYTES}"


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
    parser.add_argument("--vanilla", action="store_true", help="vanilla Spark on both sides: how much figures vary by chance")
    parser.add_argument("--work", type=pathlib.Path, default=cache, help="folder for logs")
    options = parser.parse_args()
    logs = options.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    common = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": str(options.partitions)}
    on_heap = {**common, "spark.driver.memory": "4g"}
    vanilla = {**on_heap, **dict(setting.split("=", 1) for setting in options.set_vanilla)}
    ours = {**common, **driver.settings_of_ours(options.jar.resolve()), "spark.driver.memory": "3g",
            "spark.memory.offHeap.size": "1g", **dict(setting.split("=", 1) for setting in options.set)}
    sides = {"vanilla": driver.Driver("bench-vanilla", vanilla, logs),
             "ours": driver.Driver("bench-ours", on_heap if options.vanilla else ours, logs)}
    done = []
    try:
        print("| | vanilla s | ours s | speed | vanilla MB | ours MB | bytes |\n|---|---|---|---|---|---|---|", flush=True)
        for workload in workloads(options):
            if all(word in workload.name for word in options.only.split()):
                run(workload, sides, options.iterations)
                done.append(workload)
        failed = 0
        results = list(gates(done))
        print()
        for name, value, holds, limit in results:
            failed += not holds
            print(f"{'pass' if holds else 'FAIL'} {name} {value:.2f} ({limit})")
        for spark in sides.values():
            spark.stop()
    finally:
        for spark in sides.values():
            spark.kill()
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
