// SPDX-License-Identifier: Apache-2.0
//! Errors: those of a query read as in plain DataFusion, those of the cluster say what to do.

use std::sync::Arc;

use ballista::prelude::*;
use ballista::{ClientError, ErrorClass};
use datafusion::arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;

use crate::common::{config, distributed, rows, standalone};

#[tokio::test]
async fn an_error_of_the_query_reads_as_in_datafusion() {
    let plain = SessionContext::new_with_config(config());
    let cluster = standalone(distributed(config())).await;
    for sql in [
        "SELECT nope",
        "SELECT * FROM nowhere",
        "SELECT 10 / (x - 5) FROM generate_series(1, 10) AS t(x)",
        "SELECT CAST('x' || x AS INT) FROM generate_series(1, 10) AS t(x)",
    ] {
        let expected = rows(&plain, sql).await.unwrap_err().strip_backtrace();
        let error = rows(&cluster, sql).await.unwrap_err().strip_backtrace();
        assert_eq!(error, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_function_that_fails_or_panics_fails_its_query_only() {
    let context = standalone(distributed(config())).await;
    let failing = |name: &str, panics: bool| {
        let implementation = move |_: &[ColumnarValue]| -> Result<ColumnarValue> {
            assert!(!panics, "this function panics");
            Err(DataFusionError::Execution("this function fails".into()))
        };
        let (input, output) = (vec![DataType::Int64], DataType::Int64);
        create_udf(name, input, output, Volatility::Volatile, Arc::new(implementation))
    };
    context.register_udf(failing("fails", false));
    context.register_udf(failing("panics", true));
    let error = rows(&context, "SELECT fails(x) FROM generate_series(1, 3) AS t(x)").await.unwrap_err();
    assert_eq!(error.strip_backtrace(), "Execution error: this function fails");
    let error = rows(&context, "SELECT panics(x) FROM generate_series(1, 3) AS t(x)").await.unwrap_err();
    assert!(error.to_string().contains("this function panics"), "{error}");
    assert!(rows(&context, "SELECT 1").await.is_ok());
}

#[tokio::test]
async fn an_unreachable_scheduler_says_what_where_and_what_to_do() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("df://{}", listener.local_addr().unwrap());
    drop(listener);
    let Err(error) = SessionContext::remote(&url).await else { panic!("connected") };
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("ballista-scheduler"), "{text}");
    let DataFusionError::External(inner) = error else { panic!("not external") };
    assert_eq!(inner.downcast_ref::<ClientError>().unwrap().class(), ErrorClass::Infra);
    let Err(error) = SessionContext::remote("localhost").await else { panic!("connected") };
    assert!(error.to_string().contains("df://host:port"), "{error}");
}
