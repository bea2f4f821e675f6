// SPDX-License-Identifier: Apache-2.0
//! Where planning gets its session from: functions, optimizer settings, `ballista.*` settings.
//!
//! Building a `SessionState` registers hundreds of functions and takes longer than planning a small query. So sessions
//! are built once per distinct settings and shared by all jobs that came with the same.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use ballista_plan::config::with_settings;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use parking_lot::Mutex;

/// Distinct settings that are remembered.
const SESSIONS: usize = 64;

/// Gives jobs the session that they are planned with. Asked once per job, on a planning thread, so an answer should
/// take microseconds.
pub trait SessionProvider: fmt::Debug + Send + Sync + 'static {
    /// The session for jobs of the client's session `session_id` with these settings (`ballista.*` and
    /// `datafusion.*`). Functions that plans name are found in it.
    ///
    /// An error ends the job; an unknown setting should be one.
    fn session(&self, session_id: &str, settings: &[(String, String)]) -> Result<Arc<SessionState>>;
}

/// The default provider: one base session, varied by settings; the [`SESSIONS`] used last are kept.
pub struct CachedSessions {
    base: SessionState,
    /// Used last first.
    cache: Mutex<VecDeque<(Settings, Arc<SessionState>)>>,
}

type Settings = Vec<(String, String)>;

impl CachedSessions {
    /// Sessions with the functions, configuration and extensions of `base`.
    pub fn new(base: SessionState) -> Self {
        Self { base, cache: Mutex::default() }
    }

    fn build(&self, settings: &[(String, String)]) -> Result<SessionState> {
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        // The catalogs are shared with the base: making a default one here would replace the application's.
        let config = with_settings(self.base.config().clone(), pairs)?.with_create_default_catalog_and_schema(false);
        Ok(SessionStateBuilder::new_from_existing(self.base.clone()).with_config(config).build())
    }
}

impl Default for CachedSessions {
    /// Sessions with all that DataFusion has built in.
    fn default() -> Self {
        Self::new(SessionStateBuilder::new_with_default_features().build())
    }
}

impl fmt::Debug for CachedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedSessions").field("cached", &self.cache.lock().len()).finish_non_exhaustive()
    }
}

impl SessionProvider for CachedSessions {
    fn session(&self, _session_id: &str, settings: &[(String, String)]) -> Result<Arc<SessionState>> {
        let mut cache = self.cache.lock();
        let known = cache.iter().position(|(known, _)| known == settings).and_then(|position| cache.remove(position));
        if let Some(entry) = known {
            let session = Arc::clone(&entry.1);
            cache.push_front(entry);
            return Ok(session);
        }
        let session = Arc::new(self.build(settings)?);
        cache.push_front((settings.to_vec(), Arc::clone(&session)));
        cache.truncate(SESSIONS);
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use ballista_plan::config::SessionConfigExt;
    use datafusion::prelude::SessionContext;

    use super::*;

    fn setting(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn equal_settings_share_one_session_and_others_get_their_own() {
        let provider = CachedSessions::default();
        let settings = [setting("ballista.planner.adaptive", "false")];
        let first = provider.session("a", &settings).unwrap();
        assert!(Arc::ptr_eq(&first, &provider.session("b", &settings).unwrap()));
        assert!(!first.config().ballista().adaptive);
        let other = provider.session("a", &[]).unwrap();
        assert!(other.config().ballista().adaptive);
        assert!(other.scalar_functions().contains_key("abs"));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let provider = CachedSessions::default();
        let hot = [setting("datafusion.execution.batch_size", "1")];
        let kept = provider.session("", &hot).unwrap();
        for size in 2..SESSIONS + 20 {
            provider.session("", &[setting("datafusion.execution.batch_size", &size.to_string())]).unwrap();
            provider.session("", &hot).unwrap();
        }
        assert_eq!(provider.cache.lock().len(), SESSIONS);
        assert!(Arc::ptr_eq(&kept, &provider.session("", &hot).unwrap()));
    }

    #[test]
    fn the_applications_tables_survive() {
        let context = SessionContext::new();
        let table = context.read_empty().unwrap().into_view();
        context.register_table("kept", table).unwrap();
        CachedSessions::new(context.state()).session("", &[setting("ballista.job.name", "x")]).unwrap();
        assert!(context.table_exist("kept").unwrap());
    }

    #[test]
    fn an_unknown_setting_is_the_users_error() {
        let error = CachedSessions::default().session("", &[setting("ballista.no.such", "1")]).unwrap_err();
        assert_eq!(ballista_exchange::class_of(&error), ballista_core::ErrorClass::User);
    }
}
