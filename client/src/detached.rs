// SPDX-License-Identifier: Apache-2.0
//! Queries that go on without their clients, and rows of them for whoever comes back.
//!
//! ```no_run
//! # async fn example(ctx: datafusion::prelude::SessionContext) -> datafusion::error::Result<()> {
//! use std::sync::Arc;
//! use ballista_client::detached::{DetachedExt, attach};
//! use ballista_client::Cluster;
//!
//! let job = ctx.sql("COPY orders TO 's3://bucket/orders/' STORED AS PARQUET").await?.submit_detached().await?;
//! // Later, in another process:
//! let cluster = Arc::new(Cluster::connect("df://localhost:50050").await?);
//! let rows = attach(cluster, &job).await?;
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use ballista_core::{ClassifiedError, ErrorClass};
use ballista_plan::ipc::{decode_schema, encode_schema};
use ballista_proto as proto;
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::StreamExt;
use proto::job_event::Event;

use crate::call::{Broken, JobCall};
use crate::cluster::Cluster;
use crate::error::{ClientError, of_job};
use crate::exec::{DistributedQueryExec, sum_of_counts};
use crate::job::{Holds, JobContext, follow, with_key};

/// Marks the schema of a query whose rows are numbers of written rows.
const IS_SUM: &str = "ballista.sum";

/// Queries that go on by themselves.
pub trait DetachedExt {
    /// Submits the query to the cluster of its session, and returns the id of its job when that is written down: for
    /// good, if the scheduler has a state directory. The result is kept for a while after the job's end; [`attach`]
    /// has it.
    ///
    /// Errors: the query cannot be planned, or parts of it run in this process.
    fn submit_detached(self) -> impl Future<Output = Result<String>> + Send;
}

impl DetachedExt for DataFrame {
    async fn submit_detached(self) -> Result<String> {
        let plan = self.create_physical_plan().await?;
        let query = plan.downcast_ref::<DistributedQueryExec>().filter(|query| !query.uploads_rows());
        let query = query.ok_or_else(|| {
            DataFusionError::Plan(
                "only a query that runs in the cluster as a whole can be detached from its client; EXPLAIN shows which \
                 parts of it run here"
                    .to_owned(),
            )
        })?;
        let mut metadata = HashMap::new();
        if query.counts_writes() {
            metadata.insert(IS_SUM.to_owned(), String::new());
        }
        let schema = Schema::new_with_metadata(query.schema().fields().clone(), metadata);
        let request = proto::ExecuteRequest { detached: true, schema: encode_schema(&schema), ..query.request() };
        let mut call = JobCall::submit(Arc::clone(query.cluster()), with_key(request)).await?;
        let job = loop {
            match next(&mut call).await? {
                Event::Accepted(accepted) => break accepted.job,
                Event::Failed(failure) => {
                    return Err(of_job(ClassifiedError::new(ErrorClass::from_code(failure.class), failure.message)));
                }
                _ => {}
            }
        };
        call.leave();
        Ok(job)
    }
}

/// The rows of a detached job, from the first one. When they have been read to the end, the job's result is freed;
/// dropping the stream before changes nothing.
///
/// Errors: the job is not known, or its result was not fetched in time.
pub async fn attach(cluster: Arc<Cluster>, job: &str) -> Result<SendableRecordBatchStream> {
    let mut call = JobCall::attach(Arc::clone(&cluster), job).await?;
    let Event::Schema(schema) = next(&mut call).await? else {
        let scheduler = cluster.name().to_owned();
        return Err(ClientError::Protocol { scheduler, what: "rows before their schema" }.into());
    };
    let described = decode_schema(&schema)?;
    let is_sum = described.metadata().contains_key(IS_SUM);
    let schema: SchemaRef = Arc::new(Schema::new(described.fields().clone()));
    let context = JobContext {
        cluster,
        schema: Arc::clone(&schema),
        listener: None,
        on_finished: Box::new(|_, _| {}),
        holds: Holds::default(),
        writes: is_sum,
    };
    let rows = follow(call, context);
    let rows = match is_sum {
        true => futures::stream::once(sum_of_counts(rows)).boxed(),
        false => rows.boxed(),
    };
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

async fn next(call: &mut JobCall) -> Result<Event> {
    let broken = |reason: String| DataFusionError::External(reason.into());
    loop {
        match std::future::poll_fn(|cx| call.poll_next(cx)).await {
            Some(Ok(proto::JobEvent { event: Some(event) })) => return Ok(event),
            Some(Ok(_)) => {}
            Some(Err(Broken::Said(status))) => return Err(broken(status.message().to_owned())),
            Some(Err(Broken::Gone(reason))) => return Err(broken(reason)),
            None => return Err(broken("the job's events ended early".to_owned())),
        }
    }
}
