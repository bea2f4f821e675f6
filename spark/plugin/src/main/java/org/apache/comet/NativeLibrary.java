// SPDX-License-Identifier: Apache-2.0
package org.apache.comet;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Locale;

/**
 * Finds and loads {@code libballista_spark}: from {@code java.library.path} if it is there, else the copy inside the jar,
 * which is extracted to a file of its own and unlinked once it is mapped.
 */
final class NativeLibrary {
  private static final String NAME = "ballista_spark";

  private NativeLibrary() {}

  static void load() {
    if (loadFromPath()) {
      return;
    }
    String resource = platform() + "/" + System.mapLibraryName(NAME);
    try (InputStream library = NativeLibrary.class.getResourceAsStream(resource)) {
      if (library == null) {
        throw new UnsatisfiedLinkError(
            "no native library for this platform in the jar: " + resource + " (hint: the jar is built for "
                + "one platform; put the library on java.library.path instead)");
      }
      Path extracted = Files.createTempFile("libballista_spark-", ".so");
      try {
        Files.copy(library, extracted, StandardCopyOption.REPLACE_EXISTING);
        System.load(extracted.toAbsolutePath().toString());
      } finally {
        Files.deleteIfExists(extracted);
      }
    } catch (IOException e) {
      UnsatisfiedLinkError error = new UnsatisfiedLinkError("cannot extract the native library " + resource);
      error.initCause(e);
      throw error;
    }
  }

  private static boolean loadFromPath() {
    String path = System.getProperty("java.library.path", "");
    String file = System.mapLibraryName(NAME);
    for (String folder : path.split(java.io.File.pathSeparator)) {
      // Looked for first, so that a library which exists but does not load is an error and not passed over.
      if (!folder.isEmpty() && Files.exists(Path.of(folder, file))) {
        System.load(Path.of(folder, file).toAbsolutePath().toString());
        return true;
      }
    }
    return false;
  }

  private static String platform() {
    String os = System.getProperty("os.name").toLowerCase(Locale.ROOT).startsWith("linux") ? "linux" : "other";
    String arch = System.getProperty("os.arch").toLowerCase(Locale.ROOT);
    if (arch.equals("x86_64")) {
      arch = "amd64";
    }
    return os + "/" + arch;
  }
}
