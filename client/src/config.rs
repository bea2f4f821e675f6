// SPDX-License-Identifier: Apache-2.0
//! What an application may add to its `SessionConfig` for Ballista, beside the `ballista.*` settings.

use std::fmt;
use std::sync::Arc;

use ballista_core::BallistaConfig;
use ballista_plan::codec::PlanCodec;
use ballista_plan::config::SessionConfigExt as _;
use datafusion::prelude::SessionConfig;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;

use crate::summary::ProgressListener;

/// Ballista's additions to a session's configuration.
///
/// ```
/// use ballista_client::ClientConfigExt;
/// use datafusion::prelude::SessionConfig;
///
/// let config = SessionConfig::new().with_ballista_job_name("nightly").with_ballista_setting(|b| b.memory_tier = false);
/// assert_eq!(config.ballista_settings().job_name, "nightly");
/// ```
pub trait ClientConfigExt: Sized {
    /// Encodes and decodes physical nodes, functions and expressions that DataFusion does not know. Scheduler and
    /// executors need a codec that agrees with it; an in-process cluster uses this one.
    fn with_ballista_physical_extension_codec(self, codec: Arc<dyn PhysicalExtensionCodec>) -> Self;

    /// Encodes and decodes logical nodes. Queries travel as physical plans, so nothing uses it yet; it is kept for
    /// sessions that live on the scheduler.
    fn with_ballista_logical_extension_codec(self, codec: Arc<dyn LogicalExtensionCodec>) -> Self;

    /// Hears of the progress of every job of the session.
    fn with_ballista_progress(self, listener: Arc<dyn ProgressListener>) -> Self;

    /// Names the session's jobs for people who watch the cluster (`ballista.job.name`).
    fn with_ballista_job_name(self, name: impl Into<String>) -> Self;

    /// Changes `ballista.*` settings.
    fn with_ballista_setting(self, change: impl FnOnce(&mut BallistaConfig)) -> Self;

    /// The `ballista.*` settings; defaults where none were made.
    fn ballista_settings(&self) -> BallistaConfig;

    /// The physical codec of the session, if it has one.
    fn ballista_physical_extension_codec(&self) -> Option<Arc<dyn PhysicalExtensionCodec>>;

    /// The logical codec of the session, if it has one.
    fn ballista_logical_extension_codec(&self) -> Option<Arc<dyn LogicalExtensionCodec>>;
}

// Extensions are found by type, so each kind needs one of its own.
struct PhysicalCodec(Arc<dyn PhysicalExtensionCodec>);
struct LogicalCodec(Arc<dyn LogicalExtensionCodec>);
struct Progress(Arc<dyn ProgressListener>);

impl ClientConfigExt for SessionConfig {
    fn with_ballista_physical_extension_codec(self, codec: Arc<dyn PhysicalExtensionCodec>) -> Self {
        self.with_extension(Arc::new(PhysicalCodec(codec)))
    }

    fn with_ballista_logical_extension_codec(self, codec: Arc<dyn LogicalExtensionCodec>) -> Self {
        self.with_extension(Arc::new(LogicalCodec(codec)))
    }

    fn with_ballista_progress(self, listener: Arc<dyn ProgressListener>) -> Self {
        self.with_extension(Arc::new(Progress(listener)))
    }

    fn with_ballista_job_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with_ballista_setting(|settings| settings.job_name = name)
    }

    fn with_ballista_setting(self, change: impl FnOnce(&mut BallistaConfig)) -> Self {
        let mut settings = self.ballista();
        change(&mut settings);
        self.with_ballista_config(settings)
    }

    fn ballista_settings(&self) -> BallistaConfig {
        self.ballista()
    }

    fn ballista_physical_extension_codec(&self) -> Option<Arc<dyn PhysicalExtensionCodec>> {
        self.get_extension::<PhysicalCodec>().map(|codec| Arc::clone(&codec.0))
    }

    fn ballista_logical_extension_codec(&self) -> Option<Arc<dyn LogicalExtensionCodec>> {
        self.get_extension::<LogicalCodec>().map(|codec| Arc::clone(&codec.0))
    }
}

pub(crate) fn plan_codec(config: &SessionConfig) -> PlanCodec {
    config.ballista_physical_extension_codec().map(PlanCodec::new).unwrap_or_default()
}

pub(crate) fn progress_listener(config: &SessionConfig) -> Option<Arc<dyn ProgressListener>> {
    config.get_extension::<Progress>().map(|progress| Arc::clone(&progress.0))
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
