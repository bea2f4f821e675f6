// SPDX-License-Identifier: Apache-2.0
//! Faults in a cluster of real processes, under load, with every answer checked.
//!
//! What happens when is decided by a seed: the same seed gives the same faults at the same pauses. Each fault proves that
//! it fired, or the scenario fails.
//!
//! A tour:
//! * [`run`]: a scenario from its cluster's start to its end. [`strike`]: what each fault is.
//! * `udf`, [`matrix`], [`full`]: the faults that take more than a few lines: hostile functions, deaths at every place
//!   of the code, a full disk.
//! * [`fleet`]: the processes; [`process`]: one of them; [`proxy`]: what stands between them; [`restart`]: a new
//!   scheduler.
//! * [`host`]: this program as those processes, for faults that the daemons people run do not have; [`hostile`]: the
//!   functions that come with it.
//! * [`load`]: the clients; [`oracle`]: the right answers; [`tally`]: what became of the queries.
//! * [`log`]: what the scheduler's log tells; [`report`]: the table that is printed.
//!
//! *Negative controls.* A check that cannot fail proves nothing: with [`host::Protection`] a scenario runs without what
//! protects from its faults, and has to notice.

pub mod fleet;
pub mod full;
pub mod host;
pub mod hostile;
pub mod load;
pub mod log;
pub mod matrix;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod report;
pub mod restart;
pub mod run;
pub mod strike;
pub mod tally;
mod udf;

use std::time::Duration;

use clap::ValueEnum;

/// How long a fault may take to happen, and what it broke to be whole again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Executors die by SIGKILL, every tenth time two at once, and are replaced
    Kill,
    /// Executors die by SIGKILL while files are written
    Write,
    /// Executors halt for longer than their lease by SIGSTOP, and come back as zombies
    Zombie,
    /// Executors are asked to leave by SIGTERM while queries run, and are replaced
    Drain,
    /// Connections to executors break after some bytes
    Cut,
    /// A bit flips on the way from an executor
    Flip,
    /// Nobody but the scheduler reaches an executor, for some seconds
    Partition,
    /// Nothing comes from an executor, for some seconds, and nothing breaks
    Stall,
    /// An executor does not reach the scheduler, for a moment or for longer than its lease
    Link,
    /// An executor gets a twentieth of its time
    Slow,
    /// The scheduler dies by SIGKILL, every fourth time again while it starts, and is started again
    Scheduler,
    /// The scheduler dies by SIGKILL while files are written, and is started again
    Commit,
    /// The scheduler dies by SIGKILL, and an executor with it
    Both,
    /// Queries call functions that panic, end their process, or never end
    Udf,
    /// Executors die at a place of the code: each place in queries of each shape, which run alone
    Matrix,
    /// Statuses of tasks come late, and twice because the link to the scheduler breaks
    Late,
    /// The disk of an executor is full for some seconds; needs root, for a file system of its own
    Full,
}

impl Scenario {
    /// Whether the clients write files instead of reading.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Commit)
    }

    /// Whether its processes are not the daemons that people run, but those of [`host`].
    pub fn needs_hosts(self) -> bool {
        matches!(self, Self::Udf | Self::Matrix | Self::Late)
    }

    /// Whether clients run queries all the time.
    pub fn has_load(self) -> bool {
        self != Self::Matrix
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Write => "write",
            Self::Zombie => "zombie",
            Self::Drain => "drain",
            Self::Cut => "cut",
            Self::Flip => "flip",
            Self::Partition => "partition",
            Self::Stall => "stall",
            Self::Link => "link",
            Self::Slow => "slow",
            Self::Scheduler => "scheduler",
            Self::Commit => "commit",
            Self::Both => "both",
            Self::Udf => "udf",
            Self::Matrix => "matrix",
            Self::Late => "late",
            Self::Full => "full",
        }
    }
}

/// Numbers that look random, from a seed.
#[derive(Debug, Clone, Default)]
pub struct Draws(u64);

impl Draws {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound.max(1)
    }
}

/// Waits for up to `millis`.
pub async fn pause(draws: &mut Draws, millis: u64) {
    tokio::time::sleep(Duration::from_millis(draws.below(millis))).await;
}
