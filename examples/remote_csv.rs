// SPDX-License-Identifier: Apache-2.0
//! The same query on a cluster of processes: start `ballista-scheduler` and at least one `ballista-executor` first.
//!
//! `cargo run -p ballista-examples --example remote_csv`, in the folder of the repository, which the executors have to
//! see under the same path.

use ballista::prelude::*;
use datafusion::prelude::*;

#[tokio::main]
async fn main() -> datafusion::error::Result<()> {
    let ctx = SessionContext::remote("df://localhost:50050").await?;
    ctx.register_csv("example", "tests/data/example.csv", CsvReadOptions::new()).await?;
    let df = ctx.sql("SELECT a, MIN(b) FROM example WHERE a <= b GROUP BY a LIMIT 100").await?;
    df.show().await?;
    Ok(())
}
