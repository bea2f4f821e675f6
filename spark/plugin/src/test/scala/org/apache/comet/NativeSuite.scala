// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import java.lang.invoke.MethodType
import java.lang.reflect.Modifier
import java.nio.file.{Files, Path}

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
}
