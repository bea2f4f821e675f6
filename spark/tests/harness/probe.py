# SPDX-License-Identifier: Apache-2.0
"""What runs in a driver beside a query: exact rows, the executed plan, metrics, leaks."""

import contextlib
import itertools
import os
import time

from pyspark.sql import DataFrame

_groups = itertools.count()


@contextlib.contextmanager
def settings(spark, wanted):
    """SQL settings for a while."""
    before = {key: spark.conf.get(key, None) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.unset(key) if value is None else spark.conf.set(key, value)


def observe(spark, frame: DataFrame, collect):
    """Runs `collect(frame)`; returns its rows, and facts about the executed plan and its tasks."""
    with job_group(spark) as group:
        rows = collect(frame)
    plan = frame._jdf.queryExecution().executedPlan()
    return {"rows": rows, **plan_facts(plan), "tasks": task_metrics(spark, group)}


@contextlib.contextmanager
def job_group(spark):
    group = f"group-{next(_groups)}"
    spark.sparkContext.setJobGroup(group, group)
    yield group


def tuples(frame):
    """Rows as Python values."""
    return [tuple(row) for row in frame.collect()]


def placed(frame):
    """`frame` with the partition of each row before its columns.

    The condition is never true and not known to be false, so that one operator writes every row anew: then equal rows
    have equal bytes, whichever operator was below.
    """
    columns = [f"if(spark_partition_id() < 0, null, `{name}`) as `{name}`" for name in frame.columns]
    return frame.selectExpr("spark_partition_id() as partition", *columns)


def exact(frame):
    """Rows as the bytes of UnsafeRows: every bit counts, and every type has them."""
    return exact_rows(frame._jdf.queryExecution().executedPlan())


def exact_rows(plan):
    return [bytes(row.getBytes()) for row in plan.executeCollect()]


def count(frame):
    """How many rows there are, all of them made as they are asked for."""
    return frame._jdf.queryExecution().executedPlan().execute().count()


def kind(node):
    return node.getClass().getSimpleName()


def nodes(plan):
    """All operators of an executed plan, those of stages and subqueries too; a reused exchange only as such."""
    name = kind(plan)
    yield plan
    if name == "AdaptiveSparkPlanExec":
        below = [plan.executedPlan()]
    elif name.endswith("QueryStageExec"):
        below = [plan.plan()]
    elif name == "ReusedExchangeExec" or name == "ReusedSubqueryExec":
        below = []
    else:
        below = elements(plan.children())
    for node in below + elements(plan.subqueries()):
        yield from nodes(node)


def elements(sequence):
    """Of a Scala Seq."""
    return [sequence.apply(index) for index in range(sequence.size())]


def plan_facts(plan):
    found = list(nodes(plan))
    names = [kind(node) for node in found]
    exchanges = [exchange_facts(node) for node in found if kind(node) in ("ShuffleExchangeExec", "CometColumnarExchange")]
    reads = []
    for node in found:
        if kind(node) == "AQEShuffleReadExec":
            reads += [what for what, holds in [("coalesced", node.hasCoalescedPartition()),
                                               ("skewed", node.hasSkewedPartition()), ("local", node.isLocalRead())] if holds]
    return {"nodes": names, "exchanges": exchanges, "reads": reads, "plan": plan.toString()}


def exchange_facts(node):
    metrics = node.metrics()
    keys = metrics.keys().toSeq()
    handle = node.shuffleDependency().shuffleHandle()
    return {
        "node": kind(node),
        "partitioning": kind(node.outputPartitioning()),
        "partitions": node.numPartitions(),
        "handle": kind(handle),
        "shuffle": handle.shuffleId(),
        "metrics": {key: metrics.apply(key).value() for key in elements(keys)},
    }


STAGE_METRICS = ["shuffleWriteBytes", "shuffleWriteRecords", "shuffleWriteTime", "shuffleReadBytes", "shuffleReadRecords",
                 "memoryBytesSpilled", "diskBytesSpilled", "peakExecutionMemory"]


def task_metrics(spark, group):
    """Sums over all stages of the jobs of a group; `failures`: why attempts of stages failed."""
    context = spark.sparkContext._jsc.sc()
    context.listenerBus().waitUntilEmpty()
    tracker, store = spark.sparkContext.statusTracker(), context.statusStore()
    stages = {stage for job in tracker.getJobIdsForGroup(group) for stage in tracker.getJobInfo(job).stageIds}
    sums = dict.fromkeys(STAGE_METRICS, 0)
    failures, attempts = [], 0
    for stage in sorted(stages):
        last = store.lastStageAttempt(stage).attemptId()
        for attempt in range(last + 1):
            data = stage_attempt(spark, store, stage, attempt)
            if data.status().toString() == "SKIPPED":
                continue
            attempts += 1
            if data.failureReason().isDefined():
                failures.append(data.failureReason().get())
            for name in STAGE_METRICS:
                sums[name] += getattr(data, name)()
    return {**sums, "failures": failures, "attempts": attempts}


def stage_attempt(spark, store, stage, attempt):
    none = spark._jvm.java.util.ArrayList()
    quantiles = spark.sparkContext._gateway.new_array(spark._jvm.double, 0)
    return store.stageAttempt(stage, attempt, False, none, False, quantiles)._1()


def leaks(spark, ours):
    """What is still held though nothing runs, by name; empty if nothing is."""
    deadline = time.time() + 30
    while True:
        held = {name: amount for name, amount in holdings(spark, ours) if amount}
        if not held or time.time() > deadline:
            return held
        # Tasks that were cancelled take a moment.
        time.sleep(0.1)


def holdings(spark, ours):
    yield "temporary files", temporary_files(spark)
    if not spark.sparkContext.master.startswith("local-cluster"):
        yield "bytes of execution memory", spark._jvm.org.apache.spark.SparkEnv.get().memoryManager().executionMemoryUsed()
    if ours:
        yield "bytes of Arrow memory", in_executors(spark, "org.apache.comet.CometArrowAllocator", "allocated")
        yield "native objects", in_executors(spark, "org.apache.comet.Native", "liveHandles")


def temporary_files(spark):
    """Of writers, which delete or rename them when they are done. In any process: all have their folders in one."""
    return [name for _, _, names in os.walk(spark.conf.get("spark.local.dir")) for name in names if name.startswith("temp_shuffle_")]


def in_executors(spark, name, method):
    """What a static method returns, the most in any executor."""
    if not spark.sparkContext.master.startswith("local-cluster"):
        return getattr(getattr(spark._jvm, name), method)()
    # More tasks than executors, so that each gets some.
    call = f"cast(java_method('{name}', '{method}') as bigint) as n"
    return max(row.n for row in spark.range(0, 16, 1, 16).selectExpr(call).collect())
