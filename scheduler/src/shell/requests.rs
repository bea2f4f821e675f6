// SPDX-License-Identifier: Apache-2.0
//! What clients ask for: to run a query, to follow one, to end one.

use ballista_core::{ClassifiedError, ErrorClass, JobId};
use ballista_scheduler_core::Event;
use tracing::{debug, info};

use super::Shell;
use super::job::{self, Job};
use super::message::{Connection, Follower, Submission};

impl Shell {
    pub(super) fn submit(&mut self, submission: Submission) {
        let now = self.now();
        let Submission { job: id, request, terms, resume_only, record, follower } = submission;
        let is_there = |id: &&JobId| self.jobs.contains_key(*id) || self.kept_ends.contains_key(*id);
        let known = self.by_key.get(&terms.key).filter(|_| !terms.key.is_empty()).filter(is_there);
        if let Some(known) = known.cloned() {
            self.attach(&known, follower);
            return;
        }
        let mut job = Job::new(request, terms, now);
        let connection = follower.connection;
        job.clients.add(follower);
        let refused = if resume_only {
            Some(
                "the scheduler does not know the query any more: it was restarted without a state directory, or the client \
                 was away for too long; what the query wrote may be published or not"
                    .to_owned(),
            )
        } else if self.jobs.len() >= self.config.max_jobs {
            Some(format!("the cluster runs {} jobs, which is its limit; try again later", self.jobs.len()))
        } else if job.terms.detached && self.journal.has_failed() {
            Some("the scheduler's journal cannot be written, so it takes no detached queries; see its log".to_owned())
        } else {
            None
        };
        if let Some(message) = refused {
            job.fail(&id, &ClassifiedError::new(ErrorClass::Resource, message));
            return;
        }
        info!(job = %id, name = %job.name, "job accepted");
        self.followed.insert(connection, id.clone());
        self.write_job(&id, &mut job, record);
        if !job.terms.key.is_empty() {
            self.by_key.insert(job.terms.key.clone(), id.clone());
        }
        self.start(&id, &mut job);
        self.jobs.insert(id, job);
    }

    /// Hands a job to the core, unless it has to wait for an executor first.
    pub(super) fn start(&mut self, id: &JobId, job: &mut Job) {
        if self.executors.can_run_tasks() && !self.state.is_restoring() && job.may_start() {
            job.in_core = true;
            self.events.push_back(Event::JobSubmitted { job: id.clone(), weight: job.weight });
        }
    }

    /// A client follows a job that it submitted before, or one that goes on without clients. `false` if there is none.
    pub(super) fn attach(&mut self, id: &JobId, follower: Follower) -> bool {
        let connection = follower.connection;
        if let Some(job) = self.jobs.get_mut(id) {
            debug!(job = %id, "a client is back");
            if job.is_restoring {
                // What counts of its result is not known yet.
                job.attaching.push(follower);
                job.left = None;
            } else {
                job.attach(id, follower);
            }
        } else if let Some(end) = self.kept_ends.get(id) {
            end.replay(id, follower);
            return true;
        } else {
            return false;
        }
        self.followed.insert(connection, id.clone());
        true
    }

    /// A client's stream is gone: without a key its job ends, with one it waits for the client to come back.
    pub(super) fn client_gone(&mut self, connection: Connection) {
        let Some(id) = self.followed.remove(&connection) else { return };
        let now = self.now();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.attaching.retain(|follower| follower.connection != connection);
        job.clients.remove(connection);
        if !job.clients.is_empty() || !job.attaching.is_empty() {
            return;
        }
        job.left = Some(now);
        if job.terms.key.is_empty() && !job.terms.detached {
            self.client_done(&id);
        }
    }

    /// Nobody wants anything of a job any more.
    pub(super) fn client_done(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.in_core {
            self.events.push_back(Event::ClientDone { job: id.clone() });
        } else {
            self.forget(id, "cancelled");
        }
    }

    /// A client says that it wants nothing more of its job.
    pub(super) fn close(&mut self, id: Option<JobId>, key: &str) {
        let Some(id) = id.or_else(|| self.by_key.get(key).cloned()) else { return };
        self.drop_end(&id, false);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let is_finished = job.end.is_some();
        if job.terms.detached && !is_finished {
            return;
        }
        job.is_closed = true;
        self.client_done(&id);
    }

    /// Ends a job. Whether there was anything to end.
    pub(super) fn cancel(&mut self, id: &JobId, reason: &str) -> bool {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.end.is_none()) else { return false };
        job.cancel_reason = Some(reason.to_owned());
        if job.in_core {
            self.events.push_back(Event::JobCancelled { job: id.clone(), reason: reason.to_owned() });
        } else {
            job.cancelled(id);
            self.forget(id, "cancelled");
        }
        true
    }

    /// Ends a job for a reason that the core does not know of.
    pub(super) fn fail(&mut self, id: &JobId, error: &ClassifiedError) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let is_first = !matches!(job.end, Some(job::End::Failed(_)));
        job.fail(id, error);
        if job.in_core && is_first {
            self.events.push_back(Event::JobCancelled { job: id.clone(), reason: error.message.clone() });
        } else {
            // The core never knew it, or failed to end it.
            self.forget(id, "failed");
        }
    }
}
