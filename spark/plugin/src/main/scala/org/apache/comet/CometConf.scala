// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import java.util.Locale

/** One setting.
  *
  * @param key the name to use
  * @param aliases older names, still accepted; giving two names different values is an error
  * @param kind what the value is, with its unit, for people
  */
final case class ConfKey[T](key: String, aliases: Seq[String], kind: String, default: T, doc: String)(
    parse: String => Option[T],
    check: T => Option[String]) {

  /** The value in force. `lookup` gives the text under one name. */
  def get(lookup: String => Option[String]): T = {
    val values = (key +: aliases).flatMap(name => lookup(name).map(name -> _.trim))
    values.map(_._2).distinct match {
      case Seq() => default
      case Seq(text) => read(values.head._1, text)
      case _ =>
        throw new IllegalArgumentException(
          s"one setting has two values: ${values.map { case (k, v) => s"$k=$v" }.mkString(", ")} (hint: keep $key)")
    }
  }

  private def read(name: String, text: String): T = {
    val value = parse(text).getOrElse(throw new IllegalArgumentException(s"invalid value '$text' for $name: expected $kind"))
    check(value).foreach(reason => throw new IllegalArgumentException(s"invalid value '$text' for $name: $reason"))
    value
  }
}

/** The one table of settings: names old and new, kinds, defaults, documentation. [[main]] prints it for `docs/spark.md`.
  *
  * Values are read once, on the driver, and travel inside the shuffle dependency: a task never asks a `SQLConf`, which differs
  * between driver, map stage and reader.
  */
object CometConf {
  private def bool(key: String, aliases: Seq[String], default: Boolean)(doc: String): ConfKey[Boolean] =
    ConfKey(key, aliases, "true or false", default, doc)(_.toBooleanOption, _ => None)

  private def int(key: String, aliases: Seq[String], default: Int, kind: String, min: Int, max: Int = Int.MaxValue)(
      doc: String): ConfKey[Int] =
    ConfKey(key, aliases, kind, default, doc)(
      _.toIntOption,
      v => Option.when(v < min)(s"at least $min").orElse(Option.when(v > max)(s"at most $max")))

  private def double(key: String, aliases: Seq[String], default: Double, kind: String)(doc: String): ConfKey[Double] =
    ConfKey(key, aliases, kind, default, doc)(_.toDoubleOption, v => Option.when(!(v > 0))("more than 0"))

  private def oneOf(key: String, aliases: Seq[String], default: String, choices: String*)(doc: String): ConfKey[String] =
    ConfKey(key, aliases, choices.mkString(" | "), default, doc)(
      text => Some(text.toLowerCase(Locale.ROOT)).filter(choices.contains),
      _ => None)

  val Enabled: ConfKey[Boolean] =
    bool("spark.comet.enabled", Nil, default = true)("Whether plans are changed at all.")

  val ExecEnabled: ConfKey[Boolean] =
    bool("spark.comet.exec.enabled", Nil, default = false)(
      "Whether filters and projections are run by native code where every expression is known to it.")

  val BatchSize: ConfKey[Int] =
    int("spark.comet.batchSize", Nil, 8192, "rows", 1)("Rows per batch, at most, of the rows that go from Spark's operators to native ones; columns go in the batches they come in.")

  val ShuffleEnabled: ConfKey[Boolean] =
    bool("spark.comet.shuffle.enabled", Seq("spark.comet.exec.shuffle.enabled"), default = true)(
      "Whether exchanges become columnar ones. Needs spark.shuffle.manager to be CometShuffleManager.")

  val ShuffleMode: ConfKey[String] =
    oneOf("spark.comet.shuffle.mode", Seq("spark.comet.exec.shuffle.mode"), "auto", "auto", "native", "jvm")(
      "Which columnar shuffle: rows encoded by way of the JVM (jvm), entirely native (native; not there yet, so every exchange stays Spark's), or native where it can (auto).")

  val FromSparkPlan: ConfKey[Boolean] =
    bool("spark.comet.shuffle.convertFromSparkPlan.enabled", Nil, default = true)(
      "Whether exchanges that take rows become columnar ones. In this version every exchange takes rows.")

  val Codec: ConfKey[String] =
    oneOf(
      "spark.comet.shuffle.compression.codec", Seq("spark.comet.exec.shuffle.compression.codec"), "lz4",
      "lz4", "zstd", "snappy", "none")("Compression of shuffle blocks; spark.shuffle.compress=false means none.")

  val ZstdLevel: ConfKey[Int] =
    int("spark.comet.shuffle.compression.zstd.level", Seq("spark.comet.exec.shuffle.compression.zstd.level"), 1, "level", -7, 22)(
      "Level of zstd, from -7 (fastest) to 22 (smallest).")

  val ShuffleBatchSize: ConfKey[Int] =
    int("spark.comet.shuffle.jvm.batchSize", Seq("spark.comet.columnar.shuffle.batch.size"), 8192, "rows", 1)(
      "Rows per Arrow batch in a shuffle block, at most.")

  val SpillThreshold: ConfKey[Int] =
    int("spark.comet.shuffle.jvm.spillThreshold", Seq("spark.comet.columnar.shuffle.spill.threshold"), Int.MaxValue, "rows", 1)(
      "Rows after which a writer spills although there is memory.")

  val MaxWriters: ConfKey[Int] =
    int(
      "spark.comet.shuffle.jvm.maxWritersPerExecutor",
      Seq("spark.comet.columnar.shuffle.max.writers.per.executor", "spark.comet.columnar.shuffle.async.max.thread.num"), 100,
      "writers", 1)("Most partition writers at once in an executor; with more, rows are sorted instead.")

  val AsyncEnabled: ConfKey[Boolean] =
    bool("spark.comet.shuffle.jvm.async.enabled", Seq("spark.comet.columnar.shuffle.async.enabled"), default = false)(
      "Whether spills that no lack of memory forces run beside the task.")

  val AsyncThreads: ConfKey[Int] =
    int("spark.comet.shuffle.jvm.async.threads", Seq("spark.comet.columnar.shuffle.async.thread.num"), 3, "spills", 1)(
      "Spills of one task that may run beside it.")

  val AsyncMaxThreads: ConfKey[Int] =
    int("spark.comet.shuffle.jvm.async.maxThreads", Nil, 16, "threads", 1)(
      "Threads of an executor for spills; fixed by the first task that spills beside itself.")

  val SizeMultiplier: ConfKey[Double] =
    double("spark.comet.shuffle.sizeInBytesMultiplier", Nil, 1.0, "factor")(
      "Scales the size that adaptive execution sees.")

  val all: Seq[ConfKey[_]] = Seq(
    Enabled, ExecEnabled, BatchSize, ShuffleEnabled, ShuffleMode, FromSparkPlan, Codec, ZstdLevel, ShuffleBatchSize, SpillThreshold, MaxWriters, AsyncEnabled,
    AsyncThreads, AsyncMaxThreads, SizeMultiplier)

  private lazy val names: Set[String] = all.flatMap(k => k.key +: k.aliases).toSet

  /** Names under `spark.comet.` that mean nothing here: a mistyped setting must not pass in silence. */
  def unknown(keys: Iterable[String]): Seq[String] =
    keys.filter(k => k.startsWith("spark.comet.") && !names(k)).toSeq.sorted

  /** The table as Markdown. */
  def table: String = {
    val rows = all.map { k =>
      val older = if (k.aliases.isEmpty) "" else k.aliases.map(a => s"`$a`").mkString(", ")
      s"| `${k.key}` | ${k.kind.replace("|", "\\|")} | ${k.default} | $older | ${k.doc} |"
    }
    ("| Setting | Value | Default | Older names | |" +: "|---|---|---|---|---|" +: rows).mkString("", "\n", "\n")
  }

  /** Prints [[table]]; needs the Scala library only. */
  def main(args: Array[String]): Unit = print(table)
}
