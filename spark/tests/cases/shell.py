# SPDX-License-Identifier: Apache-2.0
"""What a person types."""

import os
import pathlib
import re
import subprocess

from harness import tables


def readme(spark):
    """The commands of the README's section on Spark, after the build: their exit code and what they print. Where another Java and
    another Spark are named by the environment."""
    text = (tables.REPOSITORY / "README.md").read_text()
    build, *commands = re.search(r"^## Ballista in Spark$.*?^```sh$(.*?)^```$", text, re.M | re.S).group(1).strip().splitlines()
    assert build.startswith("cargo xtask spark-build"), build
    # Spark keeps tables and logs in the folder where it starts.
    os.symlink(tables.REPOSITORY / "spark", pathlib.Path.cwd() / "spark")
    environment = {**os.environ, "JAVA_HOME": "/nowhere", "SPARK_HOME": "/nowhere"}
    done = subprocess.run(["bash", "-euc", "\n".join(commands)], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return {"code": done.returncode, "output": done.stdout}
