// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

/** An error of native code that is neither I/O nor a Java exception passing through. Made by native code. */
public final class CometNativeException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public CometNativeException(String message) {
    super(message);
  }
}
