// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import java.nio.file.{Files, Path}

import org.scalatest.funsuite.AnyFunSuite

class CometConfSuite extends AnyFunSuite {
  private def lookup(settings: (String, String)*): String => Option[String] = settings.toMap.get

  test("old names work like new ones") {
    assert(CometConf.ShuffleBatchSize.get(lookup("spark.comet.columnar.shuffle.batch.size" -> "17")) == 17)
    assert(CometConf.Codec.get(lookup("spark.comet.exec.shuffle.compression.codec" -> "ZSTD")) == "zstd")
  }

  test("two names with different values are an error, with equal ones they are not") {
    val old = "spark.comet.columnar.shuffle.batch.size"
    assert(CometConf.ShuffleBatchSize.get(lookup(CometConf.ShuffleBatchSize.key -> "5", old -> "5")) == 5)
    assertThrows[IllegalArgumentException](CometConf.ShuffleBatchSize.get(lookup(CometConf.ShuffleBatchSize.key -> "5", old -> "6")))
  }

  test("an unknown codec is an error, not lz4") {
    assertThrows[IllegalArgumentException](CometConf.Codec.get(lookup(CometConf.Codec.key -> "brotli")))
  }

  test("numbers beyond their bounds are errors when a query is planned, not in its tasks") {
    for (level <- Seq("-8", "23", "x")) {
      val thrown = intercept[IllegalArgumentException](CometConf.ZstdLevel.get(lookup(CometConf.ZstdLevel.key -> level)))
      assert(thrown.getMessage.contains(s"'$level' for ${CometConf.ZstdLevel.key}"))
    }
    assert(CometConf.ZstdLevel.get(lookup(CometConf.ZstdLevel.key -> "22")) == 22)
    assertThrows[IllegalArgumentException](CometConf.ShuffleBatchSize.get(lookup(CometConf.ShuffleBatchSize.key -> "0")))
    assertThrows[IllegalArgumentException](CometConf.SizeMultiplier.get(lookup(CometConf.SizeMultiplier.key -> "0")))
  }

  test("no name is used twice") {
    val names = CometConf.all.flatMap(k => k.key +: k.aliases)
    assert(names.distinct == names)
  }

  test("the documentation has the table of today") {
    val page = Files.readString(Path.of("../../docs/spark.md"))
    assert(page.contains(CometConf.table), "run org.apache.comet.CometConf and put what it prints into docs/spark.md")
  }
}
