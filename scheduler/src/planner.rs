// SPDX-License-Identifier: Apache-2.0
//! The seam between the shell and planning: [`Planner`] is what the shell drives, [`JobPlanners`] makes the real ones,
//! tests make scripted ones.

use std::fmt;
use std::sync::Arc;

use ballista_core::StageId;
use ballista_plan::codec::PlanCodec;
use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use prost::bytes::Bytes;

use crate::planning::explain::{ExplainStyle, explain};
use crate::planning::job::{ClusterShape, JobPlanner, PlanStep, StageResult};
use crate::session::SessionProvider;

/// Plans one job, step by step. Called on a planning thread, by one thread at a time.
pub(crate) trait Planner: Send {
    /// The stages that can run without knowing any result.
    fn start(&mut self) -> Result<PlanStep>;
    /// The stages that can run now that this one is finished.
    fn stage_finished(&mut self, stage: StageId, result: StageResult) -> Result<PlanStep>;
    /// After a plan of one task: the first stages of a plan of many.
    fn spread(&mut self) -> Result<PlanStep>;
}

impl Planner for JobPlanner {
    fn start(&mut self) -> Result<PlanStep> {
        Self::start(self)
    }

    fn stage_finished(&mut self, stage: StageId, result: StageResult) -> Result<PlanStep> {
        Self::stage_finished(self, stage, result)
    }

    fn spread(&mut self) -> Result<PlanStep> {
        Self::spread(self)
    }
}

/// What a client asked for.
#[derive(Clone)]
pub(crate) struct PlanRequest {
    pub(crate) session_id: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) plan: Bytes,
    /// The client wants to know how it ran.
    pub(crate) analyze: bool,
    /// The rows stay in the executors for later jobs.
    pub(crate) keep: bool,
    /// Object stores with options, for executors only.
    pub(crate) stores: Vec<proto::ObjectStore>,
}

/// Makes the planner of a job, on a planning thread.
pub(crate) trait PlannerFactory: fmt::Debug + Send + Sync + 'static {
    fn planner(&self, request: &PlanRequest, cluster: ClusterShape) -> Result<Box<dyn Planner>>;
    /// The first plan as text.
    fn explain(&self, _: &PlanRequest, _: ClusterShape, _: ExplainStyle) -> Result<String> {
        Err(DataFusionError::NotImplemented("explaining plans of this kind".to_owned()))
    }
}

/// Planners for DataFusion plans.
#[derive(Debug)]
pub(crate) struct JobPlanners {
    pub(crate) sessions: Arc<dyn SessionProvider>,
    pub(crate) codec: PlanCodec,
}

impl PlannerFactory for JobPlanners {
    fn planner(&self, request: &PlanRequest, cluster: ClusterShape) -> Result<Box<dyn Planner>> {
        let session = self.sessions.session(&request.session_id, &request.settings)?;
        let planner = JobPlanner::try_new(&request.plan, &session, self.codec.clone(), cluster)?;
        Ok(Box::new(if request.keep { planner.keeping_rows() } else { planner }))
    }

    fn explain(&self, request: &PlanRequest, cluster: ClusterShape, style: ExplainStyle) -> Result<String> {
        let session = self.sessions.session(&request.session_id, &request.settings)?;
        let planner = JobPlanner::try_new(&request.plan, &session, self.codec.clone(), cluster)?;
        explain(planner, &session.task_ctx(), style)
    }
}
