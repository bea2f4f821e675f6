// SPDX-License-Identifier: Apache-2.0
//! A cluster with a function of the application: own daemons, built from the same parts as `ballista-scheduler` and
//! `ballista-executor`. A real deployment puts them into two programs; here they share one, connected by TCP.
//!
//! `cargo run -p ballista-examples --example custom_daemon`

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::DataType;
use ballista::prelude::*;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::*;
use tokio::net::TcpListener;

/// `shout(text)`; scheduler, executors and clients have to agree on it.
fn shout() -> ScalarUDF {
    let implementation = |arguments: &[ColumnarValue]| -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let texts = arrays[0].as_string::<i32>();
        let shouted: StringArray = texts.iter().map(|text| text.map(|text| text.to_uppercase() + "!")).collect();
        Ok(ColumnarValue::Array(Arc::new(shouted)))
    };
    create_udf("shout", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(implementation))
}

/// The session that all three start from.
fn state() -> Result<SessionState> {
    let mut state = SessionStateBuilder::new_with_default_features().build();
    datafusion::execution::FunctionRegistry::register_udf(&mut state, Arc::new(shout()))?;
    Ok(state)
}

#[tokio::main]
async fn main() -> Result<()> {
    // The scheduler plans with the function …
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let scheduler = SchedulerBuilder::new().session_state(state()?).build().map_err(external)?;
    let scheduler = scheduler.serve(listener).map_err(external)?;

    // … the executor runs it …
    let executor = ExecutorBuilder::new().with_scheduler("127.0.0.1", port).with_session_state(state()?);
    let executor = executor.start().await.map_err(external)?;
    executor.registered().await.map_err(external)?;

    // … and the client uses it.
    let ctx = SessionContext::remote_with_state(&format!("df://127.0.0.1:{port}"), state()?).await?;
    ctx.sql("SELECT shout(word) FROM (VALUES ('hello'), ('cluster')) AS words(word)").await?.show().await?;

    drop(ctx);
    executor.shutdown().await.map_err(external)?;
    scheduler.shutdown().await.map_err(external)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
