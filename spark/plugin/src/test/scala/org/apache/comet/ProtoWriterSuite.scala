// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import org.scalatest.funsuite.AnyFunSuite

class ProtoWriterSuite extends AnyFunSuite {
  private def hex(writer: ProtoWriter): String = writer.toByteArray.map(b => f"$b%02x").mkString

  test("bytes are those of protobuf's encoding") {
    assert(hex(new ProtoWriter().uint32(1, 150)) == "089601")
    assert(hex(new ProtoWriter().uint32(2, 0)) == "1000")
    assert(hex(new ProtoWriter().uint32(1, -1)) == "08ffffffff0f")
    assert(hex(new ProtoWriter().int32(4, -7)) == "20f9ffffffffffffffff01")
    assert(hex(new ProtoWriter().string(2, "testing")) == "120774657374696e67")
    assert(hex(new ProtoWriter().string(16, "é")) == "820102c3a9")
    assert(hex(new ProtoWriter().message(3, new ProtoWriter().uint32(1, 150))) == "1a03089601")
    assert(hex(new ProtoWriter().bytes(1, new Array(200))) == "0ac801" + "00" * 200)
  }

  test("depth counts messages inside each other") {
    val two = new ProtoWriter().message(1, new ProtoWriter())
    assert(two.depth == 2)
    assert(new ProtoWriter().message(1, two).message(2, new ProtoWriter()).depth == 3)
  }
}
