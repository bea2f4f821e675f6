# SPDX-License-Identifier: Apache-2.0
"""Spark drivers, each in a process of its own.

A case is a function `case(spark, **arguments)` at the top level of a module. `Driver.call` runs it in the process and returns
what it returns. A call that takes too long, or takes the process down, costs that process only: the next call starts another.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

# Seconds that a session may take to start.
START = 120

PLUGIN = "org.apache.spark.CometPlugin"
MANAGER = "org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager"

COMMON = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    # A task that leaks memory fails.
    "spark.unsafe.exceptionOnMemoryLeak": "true",
    "spark.sql.session.timeZone": "Asia/Kathmandu",
    "spark.sql.shuffle.partitions": "5",
    "spark.sql.timeType.enabled": "true",
    "spark.sql.debug.maxToStringFields": "200",
    # What a query did is looked up after it.
    "spark.ui.retainedJobs": "20000",
    "spark.ui.retainedStages": "20000",
    # Range bounds come from all rows: those of a sample depend on how many RDDs the session made before.
    "spark.sql.execution.rangeExchange.sampleSizePerPartition": "100000",
    # Blocks are damaged and executors die here: fetchers need not be patient about it.
    "spark.shuffle.io.maxRetries": "1",
    "spark.shuffle.io.retryWait": "100ms",
}


def settings_of_ours(jar):
    """What turns the adapter on."""
    return {
        "spark.plugins": PLUGIN,
        "spark.shuffle.manager": MANAGER,
        "spark.memory.offHeap.enabled": "true",
        "spark.memory.offHeap.size": "512m",
        "spark.driver.extraClassPath": str(jar),
        "spark.executor.extraClassPath": str(jar),
    }


def end_on_signals():
    """Signals that end this process do so by way of its `finally` blocks, which end the drivers."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number, _):
        # Another one must not break off the way out.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, end)


class CallFailed(Exception):
    """The case raised; the text is its traceback."""


class DriverLost(Exception):
    """The process ended, or had to be killed."""


class Driver:
    """A process with one Spark session of these settings; without settings, one that starts sessions itself."""

    def __init__(self, name, settings, logs):
        self.name, self.settings = name, settings
        self.log = pathlib.Path(logs) / f"{name}.log"
        self.process = self.connection = self.scratch = None

    def call(self, case, timeout, **arguments):
        self.start()
        return self._exchange((case, arguments), timeout, case.__name__)

    def start(self):
        """Starts the process and Spark in it, unless it runs."""
        if self.process is not None:
            return
        self.scratch = tempfile.mkdtemp(prefix="ballista-spark-")
        settings = self.settings and {
            **COMMON, **self.settings, "spark.local.dir": self.scratch, "spark.sql.warehouse.dir": self.scratch}
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # A daemon: if nobody comes to kill it, the end of this process does.
        self.process = context.Process(target=_serve, args=(theirs, settings, str(self.log), self.scratch), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self._exchange(None, START, "the start of Spark")
        except CallFailed:
            self.kill()
            raise

    def _exchange(self, request, timeout, what):
        """Sends a request, if there is one, and waits for what comes back."""
        try:
            if request is not None:
                self.connection.send(request)
            if not self.connection.poll(timeout):
                self._dump_threads()
                raise DriverLost(f"{what} took more than {timeout:.0f} s; threads are in {self.log}")
            outcome, value = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(10)
            code = self.process.exitcode
            self.kill()
            raise DriverLost(f"{what} ended the driver process (exit code {code}); see {self.log}") from None
        except BaseException:
            self.kill()
            raise
        if outcome == "raised":
            raise CallFailed(value)
        return value

    def _dump_threads(self):
        """SIGQUIT makes a JVM write what its threads do."""
        for pid in descendants(self.process.pid):
            if is_jvm(pid):
                os.kill(pid, signal.SIGQUIT)
        time.sleep(1)

    def stop(self):
        """Ends Spark in order, and fails if it does not end."""
        if self.process is None:
            return
        try:
            self.connection.send(None)
        except BrokenPipeError:
            pass
        self.process.join(60)
        hangs, code = self.process.is_alive(), self.process.exitcode
        if hangs:
            self._dump_threads()
        self.kill()
        if hangs or code != 0:
            why = "did not end within 60 s" if hangs else f"ended with exit code {code}"
            raise DriverLost(f"{self.name}: Spark {why}; see {self.log}")

    def kill(self):
        """Ends the process and all that it has started."""
        if self.process is None:
            return
        try:
            # Its Java processes are of its group, even if it is gone itself.
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.process = None


def _serve(connection, settings, log, scratch):
    """The process: runs what it is sent, until it is sent None or nobody is there any more."""
    from py4j.protocol import Py4JNetworkError

    os.setsid()

    def orphaned(*_):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, orphaned)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: ends with the parent
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    os.chdir(scratch)
    spark = None
    try:
        spark = start_session(settings) if settings else None
        connection.send(("returned", None))
    except Exception:
        connection.send(("raised", traceback.format_exc()))
    while True:
        try:
            request = connection.recv()
        except EOFError:
            break
        if request is None:
            break
        case, arguments = request
        print(f"== {case.__name__} {arguments}", flush=True)
        try:
            answer = ("returned", case(spark, **arguments))
        except (ConnectionError, Py4JNetworkError):
            traceback.print_exc()
            sys.exit("Spark's JVM is gone")
        except Exception:
            answer = ("raised", traceback.format_exc())
        connection.send(answer)
    if spark is not None:
        stop_session(spark)
    sys.exit(0)


def stop_session(spark):
    """Stops Spark, and waits for its JVM to end by itself: threads that keep it alive would be a bug."""
    from pyspark import SparkContext

    jvm = SparkContext._gateway.proc
    spark.stop()
    jvm.stdin.close()
    jvm.wait()


def start_session(settings):
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    # Not the shared builder, which keeps settings of sessions before.
    builder = SparkSession.Builder()
    conf = SparkConf()
    for key, value in settings.items():
        conf.set(key, value)
    return builder.config(conf=conf).getOrCreate()


def descendants(pid):
    """Children of a process, their children, and so on."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_jvm(pid):
    return command_line(pid).split(" ")[0].endswith("java")


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0
