// SPDX-License-Identifier: Apache-2.0
//! A cluster over TCP: two executors, sessions that come and go, and what happens when something is missing.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use ballista::prelude::*;
use ballista::{ClientError, ExecutorHandle, SchedulerHandle};
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::common::{config, distributed, lines, rows};

struct Cluster {
    scheduler: SchedulerHandle,
    _executors: Vec<ExecutorHandle>,
    url: String,
}

fn state(functions: impl IntoIterator<Item = ScalarUDF>) -> SessionState {
    let mut builder = SessionStateBuilder::new().with_config(distributed(config())).with_default_features();
    builder.scalar_functions().get_or_insert_default().extend(functions.into_iter().map(Arc::new));
    builder.build()
}

async fn cluster(functions: impl Fn() -> Vec<ScalarUDF>) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scheduler = SchedulerBuilder::new().session_state(state(functions())).build().unwrap();
    let scheduler = scheduler.serve(listener).unwrap();
    let mut executors = vec![];
    for _ in 0..2 {
        let executor = ExecutorBuilder::new()
            .with_slots(2)
            .with_scheduler("127.0.0.1", port)
            .with_session_state(state(functions()));
        let executor = executor.start().await.unwrap();
        executor.registered().await.unwrap();
        executors.push(executor);
    }
    Cluster { scheduler, _executors: executors, url: format!("df://127.0.0.1:{port}") }
}

fn twice() -> ScalarUDF {
    let implementation = |arguments: &[_]| {
        datafusion::logical_expr::ColumnarValue::values_to_arrays(arguments)
            .and_then(|arrays| Ok(arrow::compute::kernels::numeric::add(&arrays[0], &arrays[0])?))
            .map(datafusion::logical_expr::ColumnarValue::Array)
    };
    create_udf("twice", vec![DataType::Int64], DataType::Int64, Volatility::Immutable, Arc::new(implementation))
}

const QUERY: &str = "SELECT x % 5 AS k, count(*), sum(x) FROM generate_series(1, 100000) AS t(x) GROUP BY k ORDER BY k";

#[tokio::test]
async fn sessions_share_a_cluster_and_have_their_own_settings() {
    let cluster = cluster(Vec::new).await;
    let expected = rows(&SessionContext::new(), QUERY).await.unwrap();
    let first = SessionContext::remote_with_state(&cluster.url, state([])).await.unwrap();
    let second = SessionContext::remote(&cluster.url).await.unwrap();
    second.sql("SET ballista.shuffle.memory_tier = false").await.unwrap();
    second.sql("SET ballista.planner.single_task_bytes = 0").await.unwrap();
    for context in [&first, &second] {
        assert_eq!(rows(context, QUERY).await.unwrap(), expected);
    }
    let many = futures::future::join_all((0..50).map(|_| rows(&first, QUERY))).await;
    assert!(many.into_iter().all(|result| result.unwrap() == expected));
}

#[tokio::test]
async fn a_function_must_be_known_to_the_cluster() {
    let with = cluster(|| vec![twice()]).await;
    let without = cluster(Vec::new).await;
    let sql = "SELECT twice(x) FROM generate_series(1, 3) AS t(x) ORDER BY 1";
    let context = SessionContext::remote_with_state(&with.url, state([twice()])).await.unwrap();
    assert_eq!(rows(&context, sql).await.unwrap().len(), 3 + 4);
    let context = SessionContext::remote_with_state(&without.url, state([twice()])).await.unwrap();
    let error = rows(&context, sql).await.unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    // The session itself is fine.
    assert!(rows(&context, "SELECT 1").await.is_ok());
}

#[tokio::test]
async fn a_large_ordered_result_is_read_from_several_executors() {
    let cluster = cluster(Vec::new).await;
    let context = SessionContext::remote_with_state(&cluster.url, state([])).await.unwrap();
    context.sql("SET datafusion.execution.batch_size = 8192").await.unwrap();
    let sql = "SELECT x, repeat('x', 20) AS t FROM generate_series(1, 300000) AS t(x) ORDER BY x * 7919 % 300007";
    let expected = SessionContext::new().sql(sql).await.unwrap().collect().await.unwrap();
    let received = context.sql(sql).await.unwrap().collect().await.unwrap();
    assert!(lines(&received, true) == lines(&expected, true));
}

#[tokio::test]
async fn a_scheduler_that_goes_away_fails_its_queries_and_says_so() {
    let cluster = cluster(Vec::new).await;
    let context = SessionContext::remote_with_state(&cluster.url, state([])).await.unwrap();
    let sql = "SELECT x, repeat('x', 100) AS t FROM generate_series(1, 3000000) AS t(x)";
    let mut stream = context.sql(sql).await.unwrap().execute_stream().await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    cluster.scheduler.shutdown().await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    });
    assert!(matches!(end.await.unwrap(), Some(Err(_))), "cut short without an error");
    let error = rows(&context, "SELECT 1").await.unwrap_err();
    let DataFusionError::External(inner) = error else { panic!("{error}") };
    assert!(matches!(inner.downcast_ref(), Some(ClientError::Unreachable { .. })), "{inner}");
}
