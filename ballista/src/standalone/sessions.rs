// SPDX-License-Identifier: Apache-2.0
//! Lets an in-process cluster plan and run with the application's own sessions.
//!
//! Each query leaves a snapshot of its session here, found by an id that travels with the query, and gone with the
//! query's plan. So functions and object stores may be registered at any time, and contexts that were cloned and then
//! went different ways do not see each other's.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ballista_client::{SessionLease, SessionObserver};
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use parking_lot::Mutex;

/// The sessions of queries that have a plan.
#[derive(Default)]
pub(super) struct ClientSessions {
    live: Arc<Live>,
    next: AtomicU64,
}

type Live = Mutex<HashMap<String, Weak<SessionState>>>;

/// Keeps a snapshot findable.
struct Lease {
    live: Arc<Live>,
    id: String,
    _snapshot: Arc<SessionState>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.live.lock().remove(&self.id);
    }
}

impl ClientSessions {
    fn find(&self, id: &str) -> Result<Arc<SessionState>> {
        let snapshot = self.live.lock().get(id).and_then(Weak::upgrade);
        // The client dropped the plan, which cancels its job.
        snapshot.ok_or_else(|| DataFusionError::Execution("the query was cancelled: its session is gone".into()))
    }
}

impl SessionObserver for ClientSessions {
    fn observe(&self, session: &dyn Session) -> Option<(String, SessionLease)> {
        let snapshot = Arc::new(session.as_any().downcast_ref::<SessionState>()?.clone());
        let id = format!("query-{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.live.lock().insert(id.clone(), Arc::downgrade(&snapshot));
        let lease = Lease { live: Arc::clone(&self.live), id: id.clone(), _snapshot: snapshot };
        Some((id, Arc::new(lease)))
    }
}

impl ballista_scheduler::SessionProvider for ClientSessions {
    /// The settings are in the snapshot already.
    fn session(&self, session_id: &str, _: &[(String, String)]) -> Result<Arc<SessionState>> {
        self.find(session_id)
    }
}

impl ballista_executor::SessionProvider for ClientSessions {
    fn session(&self, session_id: &str, _: &[(String, String)], _: &Arc<RuntimeEnv>) -> Result<Arc<SessionState>> {
        self.find(session_id)
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSessions").field("live", &self.live.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballista_executor::SessionProvider as _;
    use datafusion::prelude::SessionContext;

    #[test]
    fn a_session_is_found_as_it_was_until_its_lease_ends() {
        let sessions = ClientSessions::default();
        let context = SessionContext::new();
        let runtime = context.runtime_env();
        let before = context.state();
        context.deregister_udf("abs");
        let (old, old_lease) = sessions.observe(&before).unwrap();
        let (new, _new_lease) = sessions.observe(&context.state()).unwrap();
        assert!(sessions.session(&old, &[], &runtime).unwrap().scalar_functions().contains_key("abs"));
        assert!(!sessions.session(&new, &[], &runtime).unwrap().scalar_functions().contains_key("abs"));
        drop(old_lease);
        assert!(sessions.session(&old, &[], &runtime).is_err());
        assert_eq!(sessions.live.lock().len(), 1);
    }
}
