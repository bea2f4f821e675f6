// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import java.io.IOException
import java.lang.invoke.MethodType
import java.lang.reflect.Modifier
import java.nio.file.{Files, Path}
import java.util.function.LongSupplier

import org.scalatest.funsuite.AnyFunSuite

class NativeSuite extends AnyFunSuite {
  // Loading the library finds what it registers and Java lacks; this finds the opposite too, and needs no library.
  test("the native methods are those that the library registers") {
    val source = Files.readString(Path.of("../native/src/jvm/natives.rs"))
    val registered = """\("(\w+)", "(\([^"]*\)[^"]+)"\)""".r.findAllMatchIn(source).map(m => m.group(1) -> m.group(2)).toMap
    val declared = Class.forName("org.apache.comet.Native", false, getClass.getClassLoader).getDeclaredMethods
      .filter(m => Modifier.isNative(m.getModifiers))
      .map(m => m.getName -> MethodType.methodType(m.getReturnType, m.getParameterTypes).toMethodDescriptorString)
      .toMap
    assert(declared.nonEmpty)
    assert(declared == registered)
  }

  test("a panic and an error become exceptions of their classes, and a Java exception stays the same object") {
    val probe = sys.props("java.library.path").split(':').map(Path.of(_, "examples", "libborder_probe.so")).find(Files.exists(_))
    assume(probe.isDefined, "the native library is not built")
    System.load(probe.get.toAbsolutePath.toString)
    val border = new BorderProbe
    for (_ <- 0 until 3) {
      assert(intercept[CometNativeException](border.panic()).getMessage == "native code panicked: on purpose")
      assert(intercept[IOException](border.fail()).getMessage == "corrupt shuffle block: on purpose")
      val own = new IllegalStateException("of Java")
      assert(intercept[IllegalStateException](border.call(() => throw own)) eq own)
      assert(border.call(() => 42) == 42)
    }
  }
}

/** Methods of `spark/native/examples/border_probe.rs`. */
class BorderProbe {
  @native def panic(): Long
  @native def fail(): Long
  @native def call(supplier: LongSupplier): Long
}
