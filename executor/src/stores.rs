// SPDX-License-Identifier: Apache-2.0
//! Object stores that clients opened with options: each job has its own, for as long as this executor works for it.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_plan::stores::settings::stores_of;
use ballista_plan::stores::{StoreOptions, Stores};
use ballista_proto as proto;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreRegistry;
use parking_lot::Mutex;

/// The stores of the jobs that have any.
#[derive(Debug, Default)]
pub(crate) struct JobStores(Mutex<HashMap<JobId, Arc<Stores>>>);

impl JobStores {
    /// Where the tasks of a job find their stores: `stores` with their options, everything else as in `session`.
    pub(crate) fn registry(
        &self,
        job: &JobId,
        stores: &[proto::ObjectStore],
        session: &SessionState,
    ) -> Result<Arc<dyn ObjectStoreRegistry>> {
        let below = Arc::clone(&session.runtime_env().object_store_registry);
        // In the client's own process the session is the client's, and has the stores.
        if stores.is_empty() || stores_of(session.config_options()).is_some() {
            return Ok(below);
        }
        if let Some(registry) = self.0.lock().get(job) {
            return Ok(Arc::clone(registry) as _);
        }
        // Not under the lock: opening loads certificates. Of two tasks that open at once, the first one counts.
        let named = stores.iter().map(|store| (store.url.clone(), StoreOptions::from_wire(store.options.clone())));
        let registry = Arc::new(Stores::of_job(below, named)?);
        Ok(Arc::clone(self.0.lock().entry(job.clone()).or_insert(registry)) as _)
    }

    /// Forgets the stores of a job.
    pub(crate) fn free_job(&self, job: &JobId) {
        self.0.lock().remove(job);
    }
}
