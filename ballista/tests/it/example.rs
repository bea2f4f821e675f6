// SPDX-License-Identifier: Apache-2.0
//! The example programs' own query.

use ballista::prelude::*;
use datafusion::prelude::*;

use crate::common::lines;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/example.csv");
const QUERY: &str = "SELECT a, MIN(b) FROM example WHERE a <= b GROUP BY a LIMIT 100";

#[tokio::test]
async fn the_program_of_the_readme_prints_what_datafusion_prints() -> datafusion::error::Result<()> {
    let plain = SessionContext::new();
    plain.register_csv("example", DATA, CsvReadOptions::new()).await?;
    let expected = lines(&plain.sql(QUERY).await?.collect().await?, false);

    let ctx = SessionContext::standalone().await?;
    ctx.register_csv("example", DATA, CsvReadOptions::new()).await?;
    let df = ctx.sql(QUERY).await?;
    df.clone().show().await?;
    assert_eq!(lines(&df.collect().await?, false), expected);
    assert!(expected.iter().any(|line| line == "| 1 | 2              |"), "{expected:?}");
    Ok(())
}
