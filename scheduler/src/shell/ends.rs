// SPDX-License-Identifier: Apache-2.0
//! Jobs without clients, and ends of jobs for clients that come back for them.
//!
//! A job whose client has left without a word waits for it, then ends; a detached one goes on, and its result waits. The
//! end of a job that a client may ask for again is kept when the job is freed: the last events with all rows, as long as
//! none has to be fetched from an executor.

use ballista_core::JobId;
use ballista_proto as proto;
use ballista_proto::journal as record;
use prost::bytes::Bytes;
use proto::job_event::Event as ToClient;

use super::job::{End, Job};
use super::message::{Follower, Terms};
use super::{Shell, unix_millis};
use crate::journal::{Op, keys};

/// The end of a job that is freed.
pub(super) struct KeptEnd {
    terms: Terms,
    /// Until when, in milliseconds since 1970.
    until: u64,
    events: Vec<ToClient>,
}

impl KeptEnd {
    /// Tells a client what it missed.
    pub(super) fn replay(&self, id: &JobId, follower: Follower) {
        if self.terms.detached {
            follower.queue.send(ToClient::Schema(self.terms.schema.clone()));
        }
        let parts = self.events.iter().filter_map(|event| match event {
            ToClient::Result(part) => part.task.as_ref().map(|task| task.task),
            _ => None,
        });
        let accepted = proto::JobAccepted { job: id.to_string(), resumed: true, tasks: parts.collect() };
        follower.queue.send(ToClient::Accepted(accepted));
        self.events.iter().for_each(|event| follower.queue.send(event.clone()));
    }

    fn from_record(end: record::End) -> Self {
        let terms = Terms {
            key: end.key,
            key_is_users: end.key_is_users,
            detached: !end.schema.is_empty(),
            schema: end.schema,
        };
        Self { terms, until: end.until, events: end.events.into_iter().filter_map(|event| event.event).collect() }
    }

    fn to_record(&self, name: String) -> record::End {
        record::End {
            key: self.terms.key.clone(),
            key_is_users: self.terms.key_is_users,
            schema: if self.terms.detached { self.terms.schema.clone() } else { Bytes::new() },
            name,
            until: self.until,
            events: self.events.iter().map(|event| proto::JobEvent { event: Some(event.clone()) }).collect(),
        }
    }
}

impl Shell {
    /// A job is being freed: keeps its end if somebody may come for it.
    pub(super) fn keep_end(&mut self, id: &JobId, job: &mut Job) {
        let attaching = job.attaching.iter().map(|follower| follower.connection);
        for connection in job.clients.connections().chain(attaching) {
            self.followed.remove(&connection);
        }
        let users = job.terms.key_is_users && !matches!(job.end, Some(End::Failed(_) | End::Cancelled));
        let somebody_comes = job.terms.detached
            || (job.publishing && !job.terms.key.is_empty())
            || (job.left.is_some() && !job.terms.key.is_empty());
        let is_complete = job.end != Some(End::Finished) || !job.has_remote_parts();
        let is_kept = job.end.is_some() && is_complete && (users || (somebody_comes && !job.is_closed));
        let mut batch = Vec::new();
        if job.is_journalled {
            batch.push(Op::DeleteAll(keys::job(id)));
        }
        if is_kept {
            let keeps = if users || job.terms.detached || job.publishing {
                self.config.result_ttl
            } else {
                self.config.client_grace
            };
            let until = unix_millis().saturating_add(u64::try_from(keeps.as_millis()).unwrap_or(u64::MAX));
            let parts = std::mem::take(&mut job.parts).into_values().map(ToClient::Result);
            let parts = parts.filter(|_| job.end == Some(End::Finished));
            let events = parts.chain(std::mem::take(&mut job.last_events)).collect();
            let end = KeptEnd { terms: job.terms.clone(), until, events };
            if job.is_journalled {
                batch.push(Op::put(keys::end(id), &end.to_record(job.name.clone())));
            }
            self.kept_ends.insert(id.clone(), end);
        } else if self.by_key.get(&job.terms.key) == Some(id) {
            self.by_key.remove(&job.terms.key);
        }
        if !batch.is_empty() {
            self.journal.append(batch);
        }
    }

    /// Takes over an end of before a restart.
    pub(super) fn restore_end(&mut self, id: JobId, end: record::End) {
        let end = KeptEnd::from_record(end);
        if !end.terms.key.is_empty() {
            self.by_key.insert(end.terms.key.clone(), id.clone());
        }
        self.kept_ends.insert(id, end);
    }

    /// Forgets the end of a job; one that a user may ask for by a key only when its time is up.
    pub(super) fn drop_end(&mut self, id: &JobId, time_is_up: bool) {
        let may_go = |end: &KeptEnd| time_is_up || !end.terms.key_is_users;
        if !self.kept_ends.get(id).is_some_and(may_go) {
            return;
        }
        if let Some(end) = self.kept_ends.remove(id) {
            if self.by_key.get(&end.terms.key) == Some(id) {
                self.by_key.remove(&end.terms.key);
            }
            self.journal.append(vec![Op::DeleteAll(keys::job(id))]);
        }
    }

    /// Ends the jobs that have waited long enough for their clients, and forgets ends.
    pub(super) fn end_waits(&mut self) {
        let now = self.now().0;
        let millis = |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let (grace, ttl) = (millis(self.config.client_grace), millis(self.config.result_ttl));
        let is_over = |job: &Job| {
            let since = if job.terms.detached { job.finished_at.filter(|_| job.left.is_some()) } else { job.left };
            let wait = if job.terms.detached { ttl } else { grace };
            since.is_some_and(|since| now.saturating_sub(since.0) >= wait)
        };
        let over: Vec<_> = self.jobs.iter().filter(|(_, job)| is_over(job)).map(|(id, _)| id.clone()).collect();
        for id in over {
            tracing::info!(job = %id, "nobody came back for the job");
            if let Some(job) = self.jobs.get_mut(&id) {
                // Not again at the next tick, if it cannot end now.
                job.left = None;
            }
            self.client_done(&id);
        }
        let now = unix_millis();
        let old: Vec<_> = self.kept_ends.iter().filter(|(_, end)| end.until <= now).map(|(id, _)| id.clone()).collect();
        for id in old {
            self.drop_end(&id, true);
        }
    }
}
