// SPDX-License-Identifier: Apache-2.0
package org.apache.spark

import java.util.{Collections, Map => JMap}

import org.apache.comet.{CometConf, Native}

import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, PluginContext, SparkPlugin}
import org.apache.spark.internal.{config, Logging}
import org.apache.spark.sql.comet.CometSparkSessionExtensions
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager
import org.apache.spark.sql.internal.StaticSQLConf

/** `spark.plugins=org.apache.spark.CometPlugin`.
  *
  * Nothing is switched off in silence: an application that asks for this plugin and lacks a setting it needs does not start, and
  * the error names every setting that is missing.
  */
class CometPlugin extends SparkPlugin {
  override def driverPlugin(): DriverPlugin = new CometDriverPlugin
  override def executorPlugin(): ExecutorPlugin = new CometExecutorPlugin
}

private class CometDriverPlugin extends DriverPlugin with Logging {
  override def init(sc: SparkContext, context: PluginContext): JMap[String, String] = {
    val problems = CometPlugin.problems(sc.conf, org.apache.spark.SPARK_VERSION)
    if (problems.nonEmpty) {
      throw new IllegalArgumentException(
        problems.mkString("Ballista in Spark cannot start:\n  - ", "\n  - ", ""))
    }
    val key = StaticSQLConf.SPARK_SESSION_EXTENSIONS.key
    val ours = classOf[CometSparkSessionExtensions].getName
    val present = sc.conf.getOption(key).toSeq.flatMap(_.split(',')).map(_.trim).filter(_.nonEmpty)
    if (!present.contains(ours)) sc.conf.set(key, (present :+ ours).mkString(","))
    Collections.emptyMap()
  }
}

private class CometExecutorPlugin extends ExecutorPlugin {
  private var loaded = false

  override def init(context: PluginContext, extra: JMap[String, String]): Unit = {
    Native.load()
    loaded = true
  }

  /** Threads of native code would keep the JVM from ending. */
  override def shutdown(): Unit = if (loaded) Native.stopRuntime()
}

object CometPlugin {
  val SupportedSpark = "4.1"

  /** Tasks that run at once in an executor, which is the whole of a local application. */
  private[spark] def slots(conf: SparkConf): Int = conf.get("spark.master", "") match {
    case local if local.startsWith("local") && !local.startsWith("local-cluster") => SparkContext.numDriverCores(local).max(1)
    case _ => conf.get(config.EXECUTOR_CORES).max(1)
  }

  /** Everything that is wrong, so that one start tells all. */
  private[spark] def problems(conf: SparkConf, sparkVersion: String): Seq[String] = {
    val manager = classOf[CometShuffleManager].getName
    val settings = CometConf.all.flatMap { key =>
      try { key.get(conf.getOption); None }
      catch { case e: IllegalArgumentException => Some(e.getMessage) }
    }
    val shuffle = settings.isEmpty && CometConf.Enabled.get(conf.getOption) && CometConf.ShuffleEnabled.get(conf.getOption)
    Seq(
      Option.when(!sparkVersion.startsWith(SupportedSpark + "."))(
        s"this jar is for Spark $SupportedSpark, this is Spark $sparkVersion"),
      Option.when(shuffle && conf.get(config.SHUFFLE_MANAGER) != manager)(
        s"spark.shuffle.manager is ${conf.get(config.SHUFFLE_MANAGER)} (hint: spark.shuffle.manager=$manager)"),
      Option.when(!conf.get(config.MEMORY_OFFHEAP_ENABLED))(
        "off-heap memory is off (hint: spark.memory.offHeap.enabled=true)"),
      Option.when(conf.get(config.MEMORY_OFFHEAP_SIZE) <= 0)(
        "off-heap memory has no size (hint: spark.memory.offHeap.size=2g)")).flatten ++
      settings ++
      CometConf.unknown(conf.getAll.map(_._1)).map(k => s"unknown setting $k")
  }
}
