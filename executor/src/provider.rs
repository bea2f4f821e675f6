// SPDX-License-Identifier: Apache-2.0
//! Where a task gets its session from: functions, configuration, object stores.
//!
//! Building a `SessionState` registers hundreds of functions and takes longer than a small task runs. So sessions are
//! built once per distinct settings and shared by all tasks that came with the same; [`CachedSessions`] keeps the ones
//! used last.
//!
//! *Invariant:* whatever session a provider returns, its tasks use the executor's own memory pool and spill directory;
//! only object stores and caches are taken from the session's runtime.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ballista_plan::config::with_settings;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use parking_lot::Mutex;

/// Distinct settings that are remembered.
const SESSIONS: usize = 64;

/// Gives tasks their session. Asked once per task, on a CPU thread, so an answer should take microseconds.
pub trait SessionProvider: fmt::Debug + Send + Sync {
    /// The session of tasks of the client's session `session_id` with these settings (`ballista.*` and
    /// `datafusion.*`). Its functions are found by name when plans are decoded; `runtime` is the executor's, with its
    /// object stores and file metadata caches, which the session should share unless it brings its own.
    fn session(
        &self,
        session_id: &str,
        settings: &[(String, String)],
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<Arc<SessionState>>;
}

/// The default provider: one base session, varied by settings.
pub struct CachedSessions {
    base: SessionState,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    sessions: HashMap<Vec<(String, String)>, Cached>,
    clock: u64,
}

struct Cached {
    session: Arc<SessionState>,
    /// Time of the last use, by the cache's clock.
    used: u64,
}

impl CachedSessions {
    /// Sessions with the functions, configuration and extensions of `base`. Its runtime is not used.
    pub fn new(base: SessionState) -> Self {
        Self { base, cache: Mutex::default() }
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
        f.debug_struct("CachedSessions").field("cached", &self.cache.lock().sessions.len()).finish_non_exhaustive()
    }
}

impl SessionProvider for CachedSessions {
    fn session(
        &self,
        _session_id: &str,
        settings: &[(String, String)],
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<Arc<SessionState>> {
        let mut cache = self.cache.lock();
        cache.clock += 1;
        let now = cache.clock;
        if let Some(cached) = cache.sessions.get_mut(settings) {
            cached.used = now;
            return Ok(Arc::clone(&cached.session));
        }
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let config = with_settings(self.base.config().clone(), pairs)?;
        let session = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_config(config)
            .with_runtime_env(Arc::clone(runtime))
            .build();
        let session = Arc::new(session);
        if cache.sessions.len() >= SESSIONS {
            let oldest =
                cache.sessions.iter().min_by_key(|(_, cached)| cached.used).map(|(settings, _)| settings.clone());
            if let Some(oldest) = oldest {
                cache.sessions.remove(&oldest);
            }
        }
        cache.sessions.insert(settings.to_vec(), Cached { session: Arc::clone(&session), used: now });
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use ballista_plan::config::SessionConfigExt;

    use super::*;

    fn setting(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn equal_settings_share_one_session_and_others_get_their_own() {
        let provider = CachedSessions::default();
        let runtime = Arc::new(RuntimeEnv::default());
        let settings = [setting("ballista.shuffle.memory_tier", "false")];
        let first = provider.session("a", &settings, &runtime).unwrap();
        let second = provider.session("b", &settings, &runtime).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!first.config().ballista().memory_tier);
        assert!(Arc::ptr_eq(first.runtime_env(), &runtime));
        let other = provider.session("a", &[], &runtime).unwrap();
        assert!(other.config().ballista().memory_tier);
        assert!(other.scalar_functions().contains_key("abs"));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let provider = CachedSessions::default();
        let runtime = Arc::new(RuntimeEnv::default());
        let hot = [setting("datafusion.execution.batch_size", "1")];
        let kept = provider.session("", &hot, &runtime).unwrap();
        for size in 2..SESSIONS + 20 {
            let settings = [setting("datafusion.execution.batch_size", &size.to_string())];
            provider.session("", &settings, &runtime).unwrap();
            provider.session("", &hot, &runtime).unwrap();
        }
        assert!(provider.cache.lock().sessions.len() <= SESSIONS);
        assert!(Arc::ptr_eq(&kept, &provider.session("", &hot, &runtime).unwrap()));
    }

    #[test]
    fn an_unknown_setting_is_the_users_error() {
        let settings = [setting("ballista.no.such", "1")];
        let error = CachedSessions::default().session("", &settings, &Arc::new(RuntimeEnv::default())).unwrap_err();
        assert_eq!(ballista_exchange::class_of(&error), ballista_core::ErrorClass::User);
    }
}
