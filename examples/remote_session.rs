// SPDX-License-Identifier: Apache-2.0
//! SQL text and Substrait plans on a session of the scheduler, and Spark's functions: start `ballista-scheduler` and at
//! least one `ballista-executor` first.
//!
//! `cargo run -p ballista-examples --example remote_session`, in the folder of the repository, which the daemons have
//! to see under the same path.

use ballista::prelude::*;
use datafusion::arrow::util::pretty::print_batches;
use datafusion::common::Result;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::physical_plan::common::collect;
use datafusion::prelude::*;
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use prost::Message;

#[tokio::main]
async fn main() -> Result<()> {
    text().await?;
    substrait().await?;
    spark_functions().await
}

async fn text() -> Result<()> {
    let session = ServerSession::open("df://localhost:50050", [("ballista.job.name", "report")]).await?;
    session.sql("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'tests/data/example.csv'").await?;
    let rows: SendableRecordBatchStream = session.sql("SELECT count(*) FROM t").await?;
    print(rows).await?;
    session.close().await?;
    Ok(())
}

async fn substrait() -> Result<()> {
    let ctx = SessionContext::remote("df://localhost:50050").await?;
    let session = ServerSession::open("df://localhost:50050", [("ballista.job.name", "report")]).await?;
    let query = ctx.sql("SELECT 1 AS one").await?;
    let plan = to_substrait_plan(query.logical_plan(), &ctx.state())?.encode_to_vec();

    let frame: DataFrame = ctx.substrait(&plan).await?;
    let rows: SendableRecordBatchStream = session.substrait(plan).await?;

    frame.show().await?;
    print(rows).await
}

async fn spark_functions() -> Result<()> {
    let config = SessionConfig::new().with_ballista_setting(|ballista| ballista.spark_functions = true);
    let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    let ctx = SessionContext::standalone_with_state(state).await?;
    ctx.sql("SELECT luhn_check('79927398713')").await?.show().await
}

async fn print(rows: SendableRecordBatchStream) -> Result<()> {
    Ok(print_batches(&collect(rows).await?)?)
}
