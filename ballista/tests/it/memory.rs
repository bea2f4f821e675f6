// SPDX-License-Identifier: Apache-2.0
//! Queries that do not fit into memory as they were planned first.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use ballista::Size;
use ballista::prelude::*;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use tokio::net::TcpListener;

use crate::common::{config, write_parquet};

/// The build side is far larger than the executor's memory, but each of its buckets is small.
#[tokio::test]
async fn a_query_that_does_not_fit_as_one_task_runs_as_many() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _scheduler = SchedulerBuilder::new().build().unwrap().serve(listener).unwrap();
    let executor =
        ExecutorBuilder::new().with_slots(2).with_memory(Size::Bytes(24 << 20)).with_scheduler("127.0.0.1", port);
    let executor = executor.start().await.unwrap();
    executor.registered().await.unwrap();

    let settings = config().with_ballista_setting(|settings| settings.bucket_bytes = 64 << 10);
    let state = SessionStateBuilder::new().with_config(settings).with_default_features().build();
    let cluster = SessionContext::remote_with_state(&format!("df://127.0.0.1:{port}"), state).await.unwrap();
    let plain = SessionContext::new_with_config(config());
    let folder = tempfile::tempdir().unwrap();
    for table in ["a", "b"] {
        let sql = "SELECT x AS k, repeat('x', 150) || x AS v FROM generate_series(1, 200000) AS t(x)";
        let batches = plain.sql(sql).await.unwrap().collect().await.unwrap();
        let path = folder.path().join(format!("{table}.parquet"));
        write_parquet(&path, &arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap());
        for context in [&plain, &cluster] {
            context.register_parquet(table, path.to_str().unwrap(), ParquetReadOptions::new()).await.unwrap();
        }
    }

    let sql = "SELECT count(*), max(a.v), min(b.v) FROM a JOIN b ON a.k = b.k WHERE a.v <> b.v || 'y'";
    let expected = plain.sql(sql).await.unwrap().collect().await.unwrap();
    let frame = cluster.sql(sql).await.unwrap();
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.unwrap();
    let rows = collect(Arc::clone(&plan), task).await.unwrap();
    assert_eq!(
        pretty_format_batches(&rows).unwrap().to_string(),
        pretty_format_batches(&expected).unwrap().to_string()
    );
    assert!(job_summary(plan.as_ref()).unwrap().stages > 1);
}
