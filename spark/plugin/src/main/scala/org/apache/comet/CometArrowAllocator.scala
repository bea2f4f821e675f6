// SPDX-License-Identifier: Apache-2.0
package org.apache.comet

import org.apache.arrow.memory.{BufferAllocator, RootAllocator}

/** Where all Arrow memory of the adapter on the JVM's side comes from. Each task has children of it and closes them; a child that
  * still owns memory then throws, and [[allocated]] is what a test of leaks looks at.
  */
object CometArrowAllocator {
  private val root: RootAllocator = new RootAllocator(Long.MaxValue)

  def child(name: String): BufferAllocator = root.newChildAllocator(name, 0, Long.MaxValue)

  /** Whether buffers of `allocator` may change hands with ours. */
  def related(allocator: BufferAllocator): Boolean = allocator.getRoot eq root

  def allocated: Long = root.getAllocatedMemory
}
