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

/// The Rust examples of the pages are parts of the programs in `examples/`, which `cargo xtask test` runs.
#[test]
fn rust_examples_are_those_that_run() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lines = |text: &str| -> String {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
    };
    let programs: Vec<String> = std::fs::read_dir(workspace.join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| lines(&std::fs::read_to_string(path).unwrap()))
        .collect();
    let mut examples = 0;
    for page in ["README.md", "docs/sql.md", "docs/cli.md", "docs/configuration.md", "docs/architecture.md"] {
        let text = std::fs::read_to_string(workspace.join(page)).unwrap();
        for block in text.split("```rust\n").skip(1) {
            let block = lines(block.split("```").next().unwrap());
            assert!(programs.iter().any(|program| program.contains(&block)), "{page}: no program has\n{block}");
            examples += 1;
        }
    }
    assert!(examples > 4, "{examples}");
}
