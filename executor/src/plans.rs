// SPDX-License-Identifier: Apache-2.0
//! Encoded stage plans, fetched once per (job, stage, stage attempt) and kept until the job is freed, or the
//! one task that runs all of the stage has it.
//!
//! Launches are small because plans travel apart from them. Tasks of one stage that start together share one request;
//! if the one that asks is cancelled, the next takes over.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::{ClassifiedError, ErrorClass, JobId, StageId, TaskKey};
use ballista_exchange::status::from_status;
use ballista_proto as proto;
use ballista_proto::scheduler_service_client::SchedulerServiceClient;
use parking_lot::Mutex;
use prost::bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A plan larger than this is refused instead of eating the executor's memory.
const MAX_PLAN_BYTES: usize = 1 << 30;

type Plans = HashMap<(StageId, u32), Arc<OnceCell<Bytes>>>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PlanCache {
    scheduler: SchedulerServiceClient<Channel>,
    jobs: Mutex<HashMap<JobId, Plans>>,
}

impl PlanCache {
    pub(crate) fn new(scheduler: SchedulerServiceClient<Channel>) -> Self {
        Self { scheduler, jobs: Mutex::default() }
    }

    /// The encoded stage that `task` runs a slice of.
    pub(crate) async fn get(&self, task: &TaskKey) -> Result<Bytes, ClassifiedError> {
        let cell = {
            let mut jobs = self.jobs.lock();
            let plans = jobs.entry(task.job.clone()).or_default();
            Arc::clone(plans.entry((task.stage, task.stage_attempt)).or_default())
        };
        let bytes = cell.get_or_try_init(|| self.fetch(task)).await?;
        Ok(bytes.clone())
    }

    /// Forgets the plan of a stage; whoever asks again fetches it again.
    pub(crate) fn forget(&self, task: &TaskKey) {
        if let Some(plans) = self.jobs.lock().get_mut(&task.job) {
            plans.remove(&(task.stage, task.stage_attempt));
        }
    }

    /// Forgets all plans of a job.
    pub(crate) fn free_job(&self, job: &JobId) {
        self.jobs.lock().remove(job);
    }

    async fn fetch(&self, task: &TaskKey) -> Result<Bytes, ClassifiedError> {
        let request = proto::GetStagePlanRequest {
            job: task.job.to_string(),
            stage: task.stage.0,
            stage_attempt: task.stage_attempt,
        };
        let failed = |status: Status| failure(task, &status);
        let mut chunks = self.scheduler.clone().get_stage_plan(request).await.map_err(failed)?.into_inner();
        let Some(first) = chunks.message().await.map_err(failed)? else {
            let message = format!("the scheduler sent an empty plan for stage {}", task.stage);
            return Err(ClassifiedError::new(ErrorClass::Deterministic, message));
        };
        let mut plan = BytesMut::from(first.data);
        while let Some(chunk) = chunks.message().await.map_err(failed)? {
            if plan.len() + chunk.data.len() > MAX_PLAN_BYTES {
                let message = format!("the plan of stage {} is larger than {MAX_PLAN_BYTES} bytes", task.stage);
                return Err(ClassifiedError::new(ErrorClass::Resource, message));
            }
            plan.extend_from_slice(&chunk.data);
        }
        Ok(plan.freeze())
    }
}

fn failure(task: &TaskKey, status: &Status) -> ClassifiedError {
    if let Some(error) = from_status(status) {
        return error;
    }
    let class = match status.code() {
        // The scheduler has forgotten the stage: its attempt is over.
        Code::NotFound => ErrorClass::Fenced,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            ErrorClass::Transient
        }
        Code::ResourceExhausted => ErrorClass::Resource,
        _ => ErrorClass::Deterministic,
    };
    ClassifiedError::new(class, format!("cannot get the plan of stage {}: {}", task.stage, status.message()))
}
