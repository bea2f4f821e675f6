// SPDX-License-Identifier: Apache-2.0
//! Whose functions a session has: DataFusion's or, with `ballista.functions.spark`, Spark's.
//!
//! Functions are registered once, when the session is made. A setting that says something else later would be ignored
//! silently, so every query of such a session is refused.

use ballista_plan::config::{SessionConfigExt as _, ballista_config};
use ballista_plan::functions::{HAS_SPARK_FUNCTIONS, with_spark_functions};
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;

/// `state` with the functions that its settings ask for, and whether these are Spark's.
pub(crate) fn with_functions(state: SessionState) -> (SessionState, bool) {
    if !state.config().ballista().spark_functions {
        return (state, false);
    }
    match with_spark_functions(state.clone()) {
        Ok(state) => (state, true),
        // Every query will say so.
        Err(_) => (state, false),
    }
}

/// An error if `session` was made with other functions than its settings ask for now.
pub(crate) fn check_functions(session: &dyn Session, has_spark: bool) -> Result<()> {
    let asked_for = ballista_config(session.config_options()).spark_functions;
    if asked_for == has_spark {
        return Ok(());
    }
    let reason = match HAS_SPARK_FUNCTIONS {
        true => "must be set when the session is made, and this one was made with",
        false => "needs a program built with the cargo feature spark-compat; this one has",
    };
    Err(DataFusionError::Configuration(format!("ballista.functions.spark {reason} {has_spark}")))
}
