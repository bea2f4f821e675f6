// SPDX-License-Identifier: Apache-2.0
package org.apache.spark.sql.comet

import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.comet.execution.shuffle.CometExchangeRule

/** Adaptive execution plans stages one by one and sees exchanges first in its preparation rules; without it the columnar rule
  * sees the whole plan. The same rule serves both.
  */
class CometSparkSessionExtensions extends (SparkSessionExtensions => Unit) {
  override def apply(extensions: SparkSessionExtensions): Unit = {
    extensions.injectQueryStagePrepRule(CometExchangeRule(_))
    extensions.injectColumnar(CometColumnarRules(_))
  }
}
