// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

/** What native code may ask of its Spark task: plans on the task's thread, shuffle writers on any that writes. */
public interface NativeTask {
  /** Asked between batches. */
  boolean isKilled();

  /**
   * The exception an input stream threw, to be rethrown as the same object, or null. The C stream interface itself carries
   * only an error number and a text.
   */
  Throwable takeFailure();
}
