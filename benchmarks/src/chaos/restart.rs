// SPDX-License-Identifier: Apache-2.0
//! What a restart of the scheduler came to.

use std::collections::BTreeSet;
use std::io::Result;
use std::path::PathBuf;
use std::time::Duration;

use super::log::taken_over;

/// A restart of the scheduler.
pub struct Restart {
    /// From its start to its being ready.
    pub ready: Duration,
    log: PathBuf,
    /// Outputs that were complete when it died, of jobs that were not over.
    finished: BTreeSet<String>,
}

impl Restart {
    pub(super) fn new(ready: Duration, log: PathBuf, finished: BTreeSet<String>) -> Self {
        Self { ready, log, finished }
    }

    /// How many outputs there were, and how many of them count again by now.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn outputs(&self) -> Result<(usize, usize)> {
        let taken = taken_over(&std::fs::read_to_string(&self.log)?);
        Ok((self.finished.len(), self.finished.intersection(&taken).count()))
    }
}
