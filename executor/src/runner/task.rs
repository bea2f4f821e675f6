// SPDX-License-Identifier: Apache-2.0
//! From a checked launch to the task's output: session, plan, slice, run.
//!
//! The plan is decoded afresh for each task, because DataFusion keeps state in plan nodes; see
//! [`ballista_plan::task::instance_of`].

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use ballista_core::{BallistaConfig, ClassifiedError, ErrorClass, TaskKey};
use ballista_exchange::{FetchMetrics, FetchOptions, classify};
use ballista_plan::config::SessionConfigExt;
use ballista_plan::context::TaskExchange;
use ballista_plan::stage::{StageOutput, keeps_partitions};
use ballista_plan::task::instance_of;
use ballista_plan::write::WriteExec;
use ballista_plan::write::staging::TaskWrites;
use ballista_proto as proto;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream};

use super::metrics::of_task;
use super::partitions::Work;
use super::spec::TaskSpec;
use super::{TaskEnv, exchange, result, scalar};

/// A plan instance that is about to run, once.
pub(crate) struct Instance {
    pub(crate) key: TaskKey,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    pub(crate) config: BallistaConfig,
    /// The stage's partition that each partition of the instance is.
    pub(crate) partitions: Vec<usize>,
    pub(crate) work: Work,
}

impl Instance {
    pub(crate) fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Every partition's rows, with the number of the stage's partition.
    pub(crate) fn streams(&self) -> Result<Vec<(usize, SendableRecordBatchStream)>, ClassifiedError> {
        let execute = |(index, partition): (usize, &usize)| {
            let stream = self.plan.execute(index, Arc::clone(&self.context)).map_err(|error| classify(&error))?;
            Ok((*partition, stream))
        };
        self.partitions.iter().enumerate().map(execute).collect()
    }
}

/// Runs a task to its end.
pub(crate) async fn run(env: &TaskEnv, spec: TaskSpec, work: &Work) -> Result<proto::TaskOutput, ClassifiedError> {
    let start = Instant::now();
    let session =
        env.provider.session(&spec.session_id, &spec.settings, &env.runtime).map_err(|error| classify(&error))?;
    let config = session.config().ballista();
    let metrics = Arc::new(FetchMetrics::default());
    let bytes = env.plans.get(&spec.key).await?;
    let writes = Arc::new(TaskWrites::new(spec.key.job.to_string(), spec.partitions.clone()));
    let registry = env.stores.registry(&spec.key.job, &spec.stores, &session).map_err(|error| classify(&error))?;
    let context = task_context(env, &session, &spec, registry, &metrics, &writes);
    let stage = env.codec.decode_stage(bytes, &context).map_err(|error| classify(&error))?;
    let context = Arc::new(match keeps_partitions(&stage.plan, &stage.output) {
        true => without_stealing(context),
        false => context,
    });
    if stage.plan.output_partitioning().partition_count() == spec.partitions.len() {
        // No other task of the stage will ask for the plan, which may hold as many rows as the task writes.
        env.plans.forget(&spec.key);
    }
    if WriteExec::is_in(&stage.plan) {
        env.writes.begin(&spec.key, Arc::clone(&writes));
    }
    let options = context.session_config().options();
    let plan = instance_of(&stage.plan, &spec.partitions, options).map_err(|error| classify(&error))?;
    let count = plan.output_partitioning().partition_count();
    if count != spec.partitions.len() {
        let message =
            format!("the plan of task {} has {count} partitions, {} were launched", spec.key, spec.partitions.len());
        return Err(ClassifiedError::new(ErrorClass::Deterministic, message));
    }
    let observed = spec.metrics.then(|| (stage.plan, Arc::clone(&plan)));
    let types = session.config_options().explain.analyze_level.included_types();
    let instance = Instance { key: spec.key, plan, context, config, partitions: spec.partitions, work: work.clone() };
    let mut output = match stage.output {
        StageOutput::Exchange { partitioning, sample } => exchange::run(env, instance, &partitioning, &sample).await?,
        StageOutput::Result { ordered } => result::run(env, instance, ordered).await?,
        StageOutput::Scalar => scalar::run(instance).await?,
    };
    output.read_local_bytes = metrics.local_bytes();
    output.read_remote_bytes = metrics.remote_bytes();
    output.metrics = observed.map(|(stage, ran)| of_task(&stage, &ran, start.elapsed(), &types));
    Ok(output)
}

/// The session's functions and settings over the executor's own memory and disk.
fn task_context(
    env: &TaskEnv,
    session: &SessionState,
    spec: &TaskSpec,
    object_store_registry: Arc<dyn ObjectStoreRegistry>,
    metrics: &Arc<FetchMetrics>,
    writes: &Arc<TaskWrites>,
) -> TaskContext {
    let memory_tier = session.config().ballista().memory_tier;
    let exchange = TaskExchange {
        job: spec.key.job.clone(),
        client: env.client.clone(),
        inputs: spec.inputs.clone(),
        options: FetchOptions { memory_tier, metrics: Arc::clone(metrics) },
    };
    let runtime = RuntimeEnv {
        memory_pool: Arc::clone(&env.runtime.memory_pool),
        disk_manager: Arc::clone(&env.disk),
        object_store_registry,
        ..session.runtime_env().as_ref().clone()
    };
    let config = session.config().clone().with_extension(Arc::new(exchange)).with_extension(Arc::clone(writes));
    TaskContext::from(session)
        .with_session_config(config)
        .with_runtime(Arc::new(runtime))
        .with_task_id(spec.key.to_string())
}

/// Scans of the task read the files of their own partition, also when they are done before others.
fn without_stealing(context: TaskContext) -> TaskContext {
    let mut config = context.session_config().clone();
    config.options_mut().execution.enable_file_stream_work_stealing = false;
    context.with_session_config(config)
}
