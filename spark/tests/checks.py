# SPDX-License-Identifier: Apache-2.0
"""What the outcome of a case must fulfil besides its rows.

Each check takes what the case returned and what it returned in vanilla Spark (None if that is not asked), and raises an
AssertionError.
"""

import collections

OURS, SPARKS = "CometColumnarExchange", "ShuffleExchangeExec"
# With two task slots and at most eight writers (see `suite.Group`), how many partitions lead to which writer.
WRITERS = {"bypass": (3, "CometBypassMergeSortShuffleHandle"), "sort": (9, "CometSerializedShuffleHandle")}

# Operators that run natively.
NATIVE_NODES = {"CometFilterExec", "CometProjectExec"}


# -- What our plans must fulfil


def is_ours(outcome, expected=None):
    """Every exchange is ours, and tasks wrote through it."""
    kinds = kinds_of_exchanges(outcome)
    assert kinds[OURS] and not kinds[SPARKS], f"the exchanges are {dict(kinds)}\n{outcome['plan']}"
    tasks = outcome["tasks"]
    records = sum(exchange["metrics"]["shuffleRecordsWritten"] for exchange in outcome["exchanges"])
    written = [exchange["metrics"]["shuffleBytesWritten"] for exchange in outcome["exchanges"]]
    assert tasks["shuffleWriteRecords"] == records, f"tasks wrote {tasks['shuffleWriteRecords']} records, exchanges {records}"
    assert tasks["shuffleWriteBytes"] == sum(written), f"tasks wrote {tasks['shuffleWriteBytes']} bytes, exchanges {written}"
    assert not records or (tasks["shuffleWriteBytes"] and tasks["shuffleWriteTime"]), f"metrics of the tasks: {tasks}"


def is_ours_after_faults(outcome, expected):
    """What is counted of attempts that failed is not asked."""
    kinds = kinds_of_exchanges(outcome)
    assert set(kinds) == {OURS}, f"the exchanges are {dict(kinds)}"


def kinds_of_exchanges(outcome):
    return collections.Counter(exchange["node"] for exchange in outcome["exchanges"])


def is_written_by(writer):
    def check(outcome, expected):
        is_ours(outcome)
        handles = {exchange["handle"] for exchange in outcome["exchanges"] if exchange["partitions"] > 1}
        assert not handles or WRITERS[writer][1] in handles, f"the handles are {handles}"

    return check


def has_shape_of_vanilla(outcome, expected):
    shape = lambda facts: sorted(exchange["partitioning"] for exchange in facts["exchanges"])
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
        for name in ("shuffleWriteTime", "peakMemory", "decodeTime"):
            assert ours["metrics"][name] > 0, f"{name} of the exchange is 0: {ours['metrics']}"
        read = ours["metrics"]["localBytesRead"] + ours["metrics"]["remoteBytesRead"]
        assert read == ours["metrics"]["shuffleBytesWritten"], f"{read} bytes read: {ours['metrics']}"
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


def has_nodes(*wanted):
    def check(outcome, expected):
        missing = set(wanted) - set(outcome["nodes"])
        assert not missing, f"no {', '.join(missing)}\n{outcome['plan']}"

    return check


def came_by_network(outcome, expected):
    is_ours(outcome)
    remote = sum(exchange["metrics"]["remoteBytesRead"] for exchange in outcome["exchanges"])
    assert remote, f"every block was read from a disk: {[exchange['metrics'] for exchange in outcome['exchanges']]}"


def is_native(outcome, expected):
    is_ours(outcome)
    assert NATIVE_NODES & set(outcome["nodes"]), f"no native operator\n{outcome['plan']}"


def is_native_on_both_sides(outcome, expected):
    """Of an exchange: native operators read rows of Spark and batches of ours."""
    nodes = outcome["nodes"]
    places = [place for place, node in enumerate(nodes) if node == OURS]
    both = any(NATIVE_NODES & set(nodes[:place]) and NATIVE_NODES & set(nodes[place:]) for place in places)
    assert both, f"the operators are {nodes}"


def fails_natively(outcome, expected):
    assert outcome["rows"] and NATIVE_NODES & set(outcome["nodes"]), f"{outcome}"


def says_answer(outcome, expected):
    """Three groups, and their exchange."""
    for word in ("0\t334", "1\t333", "2\t333", "CometColumnarExchange"):
        assert word in outcome["output"], f"no {word!r} in the output, exit code {outcome['code']}:\n{outcome['output']}"
    assert outcome["code"] == 0, f"exit code {outcome['code']}:\n{outcome['output']}"


def ended_soon(outcome, expected):
    """Within a batch or a spill, which are small here; Spark's own map tasks may go on to their end."""
    assert outcome["seconds"] < 10, f"tasks ran on for {outcome['seconds']:.1f} s after the cancellation"


def is_partly_ours(outcome, expected):
    kinds = kinds_of_exchanges(outcome)
    assert dict(kinds) == {OURS: 1, SPARKS: 1}, f"the exchanges are {dict(kinds)}\n{outcome['plan']}"


def stays_sparks(outcome, expected):
    kinds = kinds_of_exchanges(outcome)
    assert kinds[SPARKS] and not kinds[OURS], f"the exchanges are {dict(kinds)}\n{outcome['plan']}"
    assert outcome["right"], f"another answer, of {outcome['rows']} rows"


def says(*words):
    def check(error, expected):
        assert error is not None, "it started"
        missing = [word for word in words if word not in error]
        assert not missing, f"the error says nothing of {missing}: {error}"

    return check


def starts(error, expected):
    assert error is None, error


# -- What must hold in vanilla Spark too


def was_cancelled(outcome, expected):
    assert outcome["ended"], "the query runs on after it was cancelled"
    assert any("cancel" in error.lower() for error in outcome["error"]), f"it ended with {outcome['error']}"
    assert not outcome["leaks"], f"held after the cancellation: {outcome['leaks']}"
    assert outcome["next"] == 100, f"the next query gave {outcome['next']}"


def ended_early(counts, expected):
    assert counts == [1000, 1, 50, 7], f"{counts} rows"


def was_repaired(outcome, expected):
    """The block was found to be damaged, for the right reason, and what it was of was written anew."""
    assert outcome["same"], f"another answer, of {outcome['rows']} rows"
    failures = outcome["tasks"]["failures"]
    assert any("FetchFailed" in failure for failure in failures), f"no fetch failure: {outcome['tasks']}"
    assert outcome["new files"], "no map task ran again"
    # Spark compares with what the writer noted of the partition: without it there is nothing to say.
    wanted = {"due to DISK_ISSUE"} if outcome["checksums"] else set()
    assert set(outcome["causes"]) == wanted, f"Spark says {outcome['causes']}, expected {wanted}: {failures}"


def was_computed_again(outcome, expected):
    assert outcome["executors"] == 2, f"{outcome['executors']} executors"
    assert outcome["tasks"]["attempts"] > outcome["attempts without a fault"], f"no stage ran again: {outcome['tasks']}"
    # Before the reducers start Spark may know already what is gone.
    failures = outcome["tasks"]["failures"]
    assert outcome["during"] != "reduce" or any("FetchFailed" in failure for failure in failures), f"no fetch failure: {failures}"


def has_true_checksums(outcome, expected):
    """Of each partition of each map output, an empty one too; a map output without rows has no such file."""
    outputs = outcome["outputs"]
    assert len(outputs) == 3, f"{len(outputs)} map outputs"
    assert sum(not any(output["lengths"]) for output in outputs) == 1, f"not one map output is empty: {outputs}"
    for output in outputs:
        about = f"{outcome['algorithm']} of {output}"
        assert output["size"] == sum(output["lengths"]), f"the index is of another size: {about}"
        if any(output["lengths"]):
            assert not all(output["lengths"]), f"no partition is empty: {about}"
            assert output["stored"] == output["computed"], f"wrong: {about}"
        else:
            assert output["stored"] is None, f"of nothing: {about}"


def is_flat(outcome, expected):
    sizes, balances = outcome["sizes"], outcome["balances"]
    # Vanilla Spark too grows in its first hundred runs, by some 100 MiB: what Java loads and compiles.
    if len(sizes) >= 300:
        calm = sizes[200:]
        median = lambda values: sorted(values)[len(values) // 2]
        grown = median(calm[-len(calm) // 4:]) - median(calm[:len(calm) // 4])
        assert grown < 48 << 20, f"resident memory grew by {grown >> 20} MiB: {[size >> 20 for size in sizes]}"
    assert not any(balances), f"Arrow memory held after queries: {balances}"
    assert not outcome["leaks"], f"held in the end: {outcome['leaks']}"


# The others are not asked of vanilla Spark.
OF_BOTH = {was_cancelled, ended_early, was_repaired, was_computed_again, has_true_checksums, is_flat}
