# SPDX-License-Identifier: Apache-2.0
"""Things that go wrong while a query runs, and things that may only show after a while."""

import os
import pathlib
import re
import signal
import threading
import time

from harness import driver, probe

NO_AQE = {"spark.sql.adaptive.enabled": "false"}
NO_CODEGEN = {"spark.sql.codegen.wholeStage": "false"}


def sleep(milliseconds):
    """SQL of a column that takes its time."""
    return f"java_method('java.lang.Thread', 'sleep', {milliseconds}L) as slept"


def slow_rows(spark, rows, milliseconds, partitions=8):
    """An exchange whose reducers take their time over each row."""
    moved = spark.range(0, rows, 1, 4).selectExpr("id as k", "sha2(cast(id as string), 256) as s").repartition(partitions, "k")
    return moved.selectExpr("k", "s", sleep(milliseconds))


def slow_input(spark, rows, milliseconds, partitions):
    """An exchange whose map tasks wait for each row. All rows of a task come of one, and without generated code: nothing below
    the exchange looks whether the task was killed."""
    last = rows // 4 - 1
    many = spark.range(0, 4, 1, 4).selectExpr(f"explode(sequence(id * {last + 1}, id * {last + 1} + {last})) as k")
    return many.selectExpr("k", "sha2(cast(k as string), 256) as s", sleep(milliseconds)).repartition(partitions, "k")


def cancelled(spark, ours, during, partitions, settings):
    """A query is cancelled in its map tasks or in its reducers. Returns the error it ended with, what leaks, and what the next
    query gives."""
    error = []

    def run():
        try:
            if during == "map":
                slow_input(spark, 40000, 2, partitions).collect()
            else:
                # Not pushed below what has effects, so with native operators the slow rows are their input.
                slow_rows(spark, 20000, 10, partitions).where("k >= 0").collect()
        except Exception as raised:
            error.append(str(raised))

    with probe.settings(spark, {**NO_AQE, **(NO_CODEGEN if during == "map" else {}), **settings}):
        with probe.job_group(spark) as group:
            # Threads take the job group along.
            from pyspark import InheritableThread

            thread = InheritableThread(target=run)
            thread.start()
            wait_for_tasks(spark, group, during)
            start = time.time()
            spark.sparkContext.cancelJobGroup(group)
            thread.join(60)
        leaks = probe.leaks(spark, ours)
        return {"ended": not thread.is_alive(), "error": error, "leaks": leaks, "seconds": time.time() - start,
                "next": slow_rows(spark, 100, 0).count()}


def failing_input(spark, settings):
    """A Java exception below a filter that may be native: its class and message."""
    number = "java_method('java.lang.Long', 'parseLong', if(k = 777, 'not a number', '1')) as n"
    with probe.settings(spark, {**NO_AQE, **settings}):
        frame = spark.range(0, 2000, 1, 2).selectExpr("id as k").repartition(3, "k").selectExpr("k", number).where("k >= 0")
        try:
            frame.collect()
        except Exception as error:
            rows = sorted(set(re.findall(r"\w+(?:\.\w+)+(?:Exception|Error): [^\n]*not a number[^\n]*", str(error))))
            return {"rows": [(row,) for row in rows if "Job aborted" not in row],
                    "nodes": [probe.kind(node) for node in probe.nodes(frame._jdf.queryExecution().executedPlan())]}
    raise AssertionError("the query did not fail")


def early_end(spark, settings):
    """Reducers that are done before their input is: how many rows came."""
    with probe.settings(spark, {**NO_AQE, **settings}):
        frame = spark.range(0, 200000, 1, 2).selectExpr("id as k", "hex(id) as s").repartition(3, "k").where("k > 10")
        return [len(frame.limit(1000).collect()), len(frame.take(1)), frame.limit(50).groupBy("k").count().count(),
                len(frame.orderBy("s").limit(7).collect())]


def wait_for_tasks(spark, group, during):
    """Until map tasks of the group have run for a moment; or reducers have, after a stage that has ended."""
    tracker = spark.sparkContext.statusTracker()
    deadline = time.time() + 60
    while time.time() < deadline:
        stages = [tracker.getStageInfo(stage) for job in tracker.getJobIdsForGroup(group)
                  for stage in tracker.getJobInfo(job).stageIds]
        ready = during == "map" or any(stage and stage.numCompletedTasks == stage.numTasks for stage in stages)
        if ready and any(stage and 0 < stage.numActiveTasks for stage in stages):
            time.sleep(0.5)
            return
        time.sleep(0.05)
    raise AssertionError(f"no {during} task started within 60 s")


def corrupt_block(spark, settings):
    """A bit of a shuffle file flips between map and reduce. Returns what Spark says of the cause, besides the facts."""
    with probe.settings(spark, {**NO_AQE, **settings}):
        frame = probe.placed(spark.range(0, 2000, 1, 2).selectExpr("id as k", "sha2(hex(id), 512) as s").repartition(4, "k"))
        plan = frame._jdf.queryExecution().executedPlan()
        before = probe.exact_rows(plan)
        # Executed again, the plan finds its map outputs and starts with the reducers.
        exchange = next(node for node in probe.nodes(plan) if probe.kind(node) in ("ShuffleExchangeExec", "CometColumnarExchange"))
        shuffle = exchange.shuffleDependency().shuffleId()
        files = lambda: sorted(pathlib.Path(spark.conf.get("spark.local.dir")).rglob(f"shuffle_{shuffle}_*_0.data"))
        written = files()
        flip_bit(written[0])
        with probe.job_group(spark) as group:
            after = probe.exact_rows(plan)
        tasks = probe.task_metrics(spark, group)
        causes = re.findall(r"is corrupted (due to \w+|but [\w ]+)", "\n".join(tasks["failures"]))
        # Files are named after the attempt that wrote them.
        return {"same": sorted(before) == sorted(after), "rows": len(after), "new files": len(set(files()) - set(written)),
                "causes": causes, "checksums": spark.conf.get("spark.shuffle.checksum.enabled", "true") == "true", "tasks": tasks}


def flip_bit(path):
    data = bytearray(path.read_bytes())
    # Within a block: its end is none of the fields that frame it.
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def executor_killed(spark, during):
    """An executor dies by SIGKILL, between map and reduce or while reducers run; its map outputs go with it."""
    with probe.settings(spark, NO_AQE):
        frame = slow_rows(spark, 400, 20)
        plan = frame._jdf.queryExecution().executedPlan()
        wait_for_executors(spark, 2)
        executors = [pid for pid in driver.descendants(os.getpid())
                     if driver.is_jvm(pid) and "CoarseGrainedExecutorBackend" in driver.command_line(pid)]
        with probe.job_group(spark) as group:
            if during == "reduce":
                killer = threading.Thread(target=lambda: (wait_for_tasks(spark, group, during), os.kill(executors[0], signal.SIGKILL)))
                killer.start()
                rows = probe.exact_rows(plan)
                killer.join()
            else:
                plan.execute().count()
                os.kill(executors[0], signal.SIGKILL)
                rows = probe.exact_rows(plan)
        # Map stage and reduce stage; killed before the reduce, the plan runs twice, and its second run needs the reduce stage alone.
        return {"rows": rows, **probe.plan_facts(plan), "executors": len(executors), "tasks": probe.task_metrics(spark, group),
                "attempts without a fault": 2 if during == "reduce" else 3, "during": during}


def wait_for_executors(spark, wanted):
    context = spark.sparkContext._jsc.sc()
    deadline = time.time() + 60
    # The driver is one of them.
    while len(context.statusTracker().getExecutorInfos()) <= wanted:
        assert time.time() < deadline, f"{wanted} executors are not there within 60 s"
        time.sleep(0.1)


def repeats(spark, times, ours, settings):
    """One query again and again: resident memory and Arrow memory after each run, and what leaks in the end."""
    def frame():
        moved = spark.range(0, 100000, 1, 4).selectExpr("id as k", "hex(id) as s", "array(id) as l").where("k <> 7").repartition(16, "k")
        groups = moved.where("k >= 0").groupBy("s").agg({"*": "count", "l": "max"})
        return groups.where("`count(1)` > 1 or size(`max(l)`) > 1").groupBy().count()

    jvm = spark.sparkContext._gateway.proc.pid
    sizes, balances = [], []
    with probe.settings(spark, settings):
        for _ in range(times):
            query = frame()
            assert query.collect() == [(0,)]
            sizes.append(sum(map(driver.resident_bytes, [jvm, *driver.descendants(jvm)])))
            balances.append(spark._jvm.org.apache.comet.CometArrowAllocator.allocated() if ours else 0)
    nodes = [probe.kind(node) for node in probe.nodes(query._jdf.queryExecution().executedPlan())]
    return {"nodes": nodes, "sizes": sizes, "balances": balances, "leaks": probe.leaks(spark, ours)}


def refused(spark, settings):
    """The error with which a session of these settings does not start; None if it starts, runs a query and stops."""
    assert spark is None
    try:
        session = driver.start_session({**driver.COMMON, **settings})
    except Exception as error:
        return str(error)
    try:
        assert session.range(100).repartition(3).count() == 100
        return None
    finally:
        session.stop()


def enabled_later(spark, settings, later):
    """A session in which the shuffle is turned on when it is too late for its manager: whether the answer is right, and the plan."""
    assert spark is None
    session = driver.start_session({**driver.COMMON, **settings})
    try:
        with probe.settings(session, later):
            frame = session.range(0, 1000, 1, 4).selectExpr("id % 10 as k", "id").repartition(3, "id").groupBy("k").sum("id")
            outcome = probe.observe(session, frame, probe.tuples)
        right = sorted(outcome["rows"]) == [(key, sum(range(key, 1000, 10))) for key in range(10)]
        return {**outcome, "rows": len(outcome["rows"]), "right": right}
    finally:
        session.stop()


def leaks(spark, ours):
    return probe.leaks(spark, ours)
