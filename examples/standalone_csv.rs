// SPDX-License-Identifier: Apache-2.0
//! A query over a CSV file on a cluster inside the process.
//!
//! `cargo run -p ballista-examples --example standalone_csv`, in the folder of the repository.

use ballista::prelude::*;
use datafusion::prelude::*;

#[tokio::main]
async fn main() -> datafusion::error::Result<()> {
    let ctx = SessionContext::standalone().await?;
    ctx.register_csv("example", "tests/data/example.csv", CsvReadOptions::new()).await?;
    let df = ctx.sql("SELECT a, MIN(b) FROM example WHERE a <= b GROUP BY a LIMIT 100").await?;
    df.show().await?;
    Ok(())
}
