// SPDX-License-Identifier: Apache-2.0
//! What a session on a cluster offers beside rows: figures of a job, progress, settings, `EXPLAIN`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ballista::prelude::*;
use datafusion::physical_plan::collect;

use crate::common::{config, distributed, rows, standalone};

#[tokio::test]
async fn a_job_reports_its_figures() {
    let context = standalone(distributed(config())).await;
    let sql = "SELECT x % 10 AS k, count(*) FROM generate_series(1, 10000) AS t(x) GROUP BY k";
    let frame = context.sql(sql).await.unwrap();
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.unwrap();
    assert_eq!(job_summary(plan.as_ref()), None);
    collect(Arc::clone(&plan), Arc::clone(&task)).await.unwrap();
    let first = job_summary(plan.as_ref()).unwrap();
    assert_eq!(first.rows, 10);
    assert!(first.stages >= 2 && first.tasks >= first.stages && first.bytes_exchanged > 0, "{first:?}");
    assert_eq!(plan.metrics().unwrap().output_rows(), Some(10));
    // A plan may run again, as another job.
    collect(Arc::clone(&plan), task).await.unwrap();
    assert_ne!(job_summary(plan.as_ref()).unwrap().job_id, first.job_id);
}

#[tokio::test]
async fn a_long_job_reports_its_progress() {
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    let listener = move |progress: &JobProgress| {
        assert!(!progress.job_id.is_empty());
        counter.fetch_max(progress.tasks_done as usize, Ordering::Relaxed);
    };
    let context = standalone(distributed(config()).with_ballista_progress(Arc::new(listener))).await;
    // The first stage ends at once, the second takes a while.
    let sql = "SELECT count(*) FROM generate_series(1, 5000000) AS t(x) \
               WHERE sqrt(x) > (SELECT max(x) FROM generate_series(1, 5) AS s(x))";
    rows(&context, sql).await.unwrap();
    assert!(heard.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn settings_are_shown_and_changed_in_sql() {
    let context = standalone(config()).await;
    context.sql("SET ballista.shuffle.compression = 'zstd'").await.unwrap();
    let shown = rows(&context, "SHOW ballista.shuffle.compression").await.unwrap();
    assert!(shown.iter().any(|line| line.contains("zstd")), "{shown:?}");
    let error = context.sql("SET ballista.no.such = 1").await.unwrap_err();
    assert!(error.to_string().contains("ballista.no.such"), "{error}");
    assert!(rows(&context, "SELECT 1").await.is_ok());
}

#[tokio::test]
async fn explain_shows_the_plan_and_explain_analyze_the_job() {
    let context = standalone(distributed(config())).await;
    let sql = "SELECT x % 2 AS k, count(*) FROM generate_series(1, 10) AS t(x) GROUP BY k";
    let explained = rows(&context, &format!("EXPLAIN {sql}")).await.unwrap().join("\n");
    assert!(explained.contains("Aggregate"), "{explained}");
    let analyzed = rows(&context, &format!("EXPLAIN ANALYZE {sql}")).await.unwrap().join("\n");
    assert!(analyzed.contains("DistributedQueryExec") && analyzed.contains("output_rows=2"), "{analyzed}");
}
