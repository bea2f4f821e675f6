// SPDX-License-Identifier: Apache-2.0
//! The examples of `docs/sql.md`, as they stand there, on an in-process cluster and on plain DataFusion.

use std::path::Path;

use datafusion::prelude::SessionContext;

use crate::common::config;
use crate::s3::{ACCESS_KEY, S3, SECRET};
use ballista::prelude::*;
use datafusion::execution::SessionStateBuilder;

#[tokio::test(flavor = "multi_thread")]
async fn examples_of_the_sql_page_run() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(workspace.join("docs/sql.md")).unwrap();
    let data = format!("'{}/tests/data/", workspace.display());
    let state = SessionStateBuilder::new().with_config(config()).with_default_features().build();
    let cluster = SessionContext::standalone_with_state(state).await.unwrap().enable_url_table();
    let plain = SessionContext::new_with_config(config().with_ballista_setting(|_| {})).enable_url_table();
    let s3 = S3::start(true).await;
    let ours = [("http://localhost:9000", s3.endpoint()), ("my-key", ACCESS_KEY.into()), ("my-secret", SECRET.into())];
    for (context, knows_s3) in [(cluster, true), (plain, false)] {
        let folder = tempfile::tempdir().unwrap();
        let scratch = format!("'{}/", folder.path().display());
        let mut statements = 0;
        for block in text.split("```sql\n").skip(1) {
            let sql = block.split("```").next().unwrap().replace("'tests/data/", &data);
            if sql.contains("s3://") && !knows_s3 {
                continue;
            }
            let sql = sql.replace("'/tmp/ballista/", &scratch);
            let sql = ours.iter().fold(sql, |sql, (theirs, ours)| sql.replace(theirs, ours));
            for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                let done = context.sql(statement).await.unwrap_or_else(|error| panic!("{statement}\n{error}"));
                done.collect().await.unwrap_or_else(|error| panic!("{statement}\n{error}"));
                statements += 1;
            }
        }
        assert!(statements > 15, "{statements}");
    }
}
