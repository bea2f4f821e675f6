# SPDX-License-Identifier: Apache-2.0
# To be sourced in bash after `cargo xtask spark-build`: puts the Spark that it installed on the PATH, and the settings that turn the
# adapter on into BALLISTA_SPARK. For another Spark 4.1, use the jar and the settings alone.
[ -n "${BASH_VERSION:-}" ] || { echo "spark/env.sh: needs bash" >&2; return 1; }
_ballista="$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
_jar="$_ballista/plugin/target/ballista-spark-0.1.0.jar"
PATH="${XDG_CACHE_HOME:-$HOME/.cache}/ballista/spark/venv/bin:$PATH"
BALLISTA_SPARK="--conf spark.plugins=org.apache.spark.CometPlugin \
--conf spark.shuffle.manager=org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager \
--conf spark.memory.offHeap.enabled=true --conf spark.memory.offHeap.size=2g \
--conf spark.driver.extraClassPath=$_jar --conf spark.executor.extraClassPath=$_jar"
export PATH BALLISTA_SPARK
# Otherwise the commands would start the Spark that these name, or with its settings.
unset SPARK_HOME SPARK_CONF_DIR
_is_17() { grep -qs '^JAVA_VERSION="17\.' "$1/release"; }
if ! _is_17 "${JAVA_HOME:-}"; then
  # Debian's Java 17, beside which an older or newer one may be the default.
  for _java in /usr/lib/jvm/java-17-*; do
    if _is_17 "$_java"; then export JAVA_HOME="$_java"; break; fi
  done
  _is_17 "${JAVA_HOME:-}" || echo "spark/env.sh: no Java 17 (hint: set JAVA_HOME)" >&2
  unset _java
fi
unset -f _is_17
unset _ballista _jar
