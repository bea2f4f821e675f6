// SPDX-License-Identifier: Apache-2.0
//! [`SessionTable`]: the open sessions, how many they may be, and for how long one may be idle.
//!
//! *Invariant:* a session in which a statement runs is never idle; its time starts when the last one ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use parking_lot::Mutex;

use crate::error::{Result, SchedulerError};

/// Sessions by id.
pub(super) struct SessionTable {
    most: usize,
    idle: Duration,
    open: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    context: SessionContext,
    statements: usize,
    last_used: Instant,
}

/// A statement's hold on its session.
pub(super) struct Use {
    table: Arc<SessionTable>,
    id: String,
    context: SessionContext,
}

impl SessionTable {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self { most, idle, open: Mutex::default() }
    }

    /// An error if there is no room for another session.
    pub(super) fn check_room(&self, now: Instant) -> Result<()> {
        self.expire(now);
        self.room_in(&self.open.lock())
    }

    /// Adds a session under an id that nobody has.
    pub(super) fn insert(&self, id: String, context: SessionContext, now: Instant) -> Result<()> {
        let mut open = self.open.lock();
        self.room_in(&open)?;
        open.insert(id, Entry { context, statements: 0, last_used: now });
        Ok(())
    }

    /// The session `id`, kept until the returned value is dropped.
    pub(super) fn use_session(self: &Arc<Self>, id: &str, now: Instant) -> Result<Use> {
        self.expire(now);
        let mut open = self.open.lock();
        let entry = open.get_mut(id).ok_or(SchedulerError::NoSession)?;
        entry.statements += 1;
        Ok(Use { table: Arc::clone(self), id: id.to_owned(), context: entry.context.clone() })
    }

    /// Forgets a session; whether there was one. Its statements go on.
    pub(super) fn remove(&self, id: &str) -> bool {
        // Dropped outside of the lock.
        let removed = self.open.lock().remove(id);
        removed.is_some()
    }

    /// Forgets the sessions whose time is up.
    pub(super) fn expire(&self, now: Instant) {
        let is_kept =
            |entry: &Entry| entry.statements > 0 || now.saturating_duration_since(entry.last_used) < self.idle;
        // Dropped outside of the lock: a session may hold much.
        let expired: Vec<_> = self.open.lock().extract_if(|_, entry| !is_kept(entry)).collect();
        if !expired.is_empty() {
            tracing::info!(sessions = expired.len(), "closed sessions that were idle");
        }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    fn room_in(&self, open: &HashMap<String, Entry>) -> Result<()> {
        if open.len() < self.most { Ok(()) } else { Err(SchedulerError::TooManySessions { most: self.most }) }
    }
}

impl Use {
    pub(super) fn context(&self) -> &SessionContext {
        &self.context
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        // It may have been closed meanwhile.
        if let Some(entry) = self.table.open.lock().get_mut(&self.id) {
            entry.statements -= 1;
            entry.last_used = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(most: usize) -> (Arc<SessionTable>, Instant) {
        (Arc::new(SessionTable::new(most, Duration::from_secs(10))), Instant::now())
    }

    #[test]
    fn an_idle_session_is_closed_and_one_with_a_statement_is_not() {
        let (table, start) = table(2);
        let after = |seconds| start + Duration::from_secs(seconds);
        for id in ["idle", "busy"] {
            table.insert(id.into(), SessionContext::new(), start).unwrap();
        }
        let statement = table.use_session("busy", after(9)).unwrap();
        assert!(matches!(table.use_session("idle", after(10)), Err(SchedulerError::NoSession)));
        table.expire(after(1000));
        drop(statement);
        // Its time starts now, when the statement ended.
        table.expire(after(9));
        assert!(table.use_session("busy", after(9)).is_ok());
        table.expire(after(1000));
        assert!(!table.remove("busy"));
    }

    #[test]
    fn there_is_room_for_so_many_sessions_and_no_more() {
        let (table, now) = table(1);
        table.insert("a".into(), SessionContext::new(), now).unwrap();
        assert!(matches!(table.check_room(now), Err(SchedulerError::TooManySessions { most: 1 })));
        let another = table.insert("b".into(), SessionContext::new(), now);
        assert!(matches!(another, Err(SchedulerError::TooManySessions { most: 1 })));
        assert!(table.remove("a"));
        table.insert("b".into(), SessionContext::new(), now).unwrap();
        // The room of an expired session is free.
        table.check_room(now + Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_session_closed_under_a_statement_leaves_it_alone() {
        let (table, now) = table(1);
        table.insert("a".into(), SessionContext::new(), now).unwrap();
        let statement = table.use_session("a", now).unwrap();
        assert!(table.remove("a"));
        assert!(statement.context().state().scalar_functions().contains_key("abs"));
        drop(statement);
        assert!(matches!(table.use_session("a", now), Err(SchedulerError::NoSession)));
    }
}
