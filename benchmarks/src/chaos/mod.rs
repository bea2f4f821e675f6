// SPDX-License-Identifier: Apache-2.0
//! Faults in a cluster of real processes, under load, with every answer checked.
//!
//! What happens when is decided by a seed: the same seed gives the same faults at the same pauses. Each fault proves that
//! it fired, or the scenario fails.

pub mod fleet;
pub mod load;
pub mod proxy;

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use self::fleet::{Fleet, Restart, Signal};
use self::proxy::Damage;

/// How long a damage may take to happen.
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
}

impl Scenario {
    /// Whether the clients write files instead of reading.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Commit)
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
        }
    }
}

/// Numbers that look random, from a seed.
#[derive(Debug, Clone)]
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

/// Does what the `number`-th fault of a scenario is, and puts things right again. Returns how many processes it hit; the
/// scheduler's restarts go to `restarts`.
///
/// # Errors
/// If a fault did not fire, or a process cannot be replaced.
pub async fn strike(
    scenario: Scenario,
    fleet: &mut Fleet,
    draws: &mut Draws,
    number: u64,
    restarts: &mut Vec<Restart>,
) -> Result<u64> {
    let victim = draws.below(fleet.executors() as u64) as usize;
    let other = (victim + 1) % fleet.executors();
    match scenario {
        Scenario::Kill | Scenario::Write => {
            fleet.signal(victim, Signal::Kill)?;
            let two = number % 10 == 9 && other != victim;
            if two {
                fleet.signal(other, Signal::Kill)?;
            }
            pause(draws, 500).await;
            fleet.replace(victim)?;
            if two {
                fleet.replace(other)?;
            }
            Ok(1 + u64::from(two))
        }
        Scenario::Zombie => {
            fleet.signal(victim, Signal::Stop)?;
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            pause(draws, 1_000).await;
            fleet.signal(victim, Signal::Continue)?;
            Ok(1)
        }
        Scenario::Drain => {
            fleet.signal(victim, Signal::Term)?;
            pause(draws, 2_000).await;
            fleet.replace(victim)?;
            Ok(1)
        }
        Scenario::Scheduler | Scenario::Commit => {
            let early: Vec<_> = (0..u64::from(number % 4 == 3) * (1 + draws.below(3)))
                .map(|_| Duration::from_millis(draws.below(60)))
                .collect();
            restarts.push(fleet.restart_scheduler(&early)?);
            Ok(1 + early.len() as u64)
        }
        Scenario::Both => {
            fleet.signal(victim, Signal::Kill)?;
            restarts.push(fleet.restart_scheduler(&[])?);
            fleet.replace(victim)?;
            Ok(2)
        }
        Scenario::Cut => damage(fleet, victim, Damage::CutAfter(draws.below(200_000)), 0).await,
        Scenario::Flip => damage(fleet, victim, Damage::FlipAfter(draws.below(200_000)), 0).await,
        Scenario::Partition => damage(fleet, victim, Damage::Refuse, 1_000 + draws.below(3_000)).await,
        Scenario::Stall => damage(fleet, victim, Damage::Stall, 1_000 + draws.below(3_000)).await,
        Scenario::Link => {
            let millis = if number % 3 == 2 { 2_500 } else { draws.below(1_000) };
            let link = fleet.link(victim);
            let before = link.fired();
            link.set(Damage::Refuse);
            tokio::time::sleep(Duration::from_millis(millis + 50)).await;
            link.set(Damage::None);
            match link.fired() > before {
                true => Ok(1),
                false => Err(Error::other("no connection to the scheduler broke")),
            }
        }
        Scenario::Slow => {
            for _ in 0..20 {
                fleet.signal(victim, Signal::Stop)?;
                tokio::time::sleep(Duration::from_millis(190)).await;
                fleet.signal(victim, Signal::Continue)?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(1)
        }
    }
}

/// Damages what comes from an executor, and goes on with it for so many milliseconds after it has happened once. An
/// executor that nobody reads from, because it is on probation, is passed over.
async fn damage(fleet: &Fleet, first: usize, damage: Damage, millis: u64) -> Result<u64> {
    for executor in (0..fleet.executors()).map(|number| (first + number) % fleet.executors()) {
        let proxy = fleet.proxy(executor);
        let before = proxy.fired();
        proxy.set(damage);
        let start = Instant::now();
        while start.elapsed() < PATIENCE && proxy.fired() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if proxy.fired() > before {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        proxy.set(Damage::None);
        if proxy.fired() > before {
            return Ok(1);
        }
    }
    Err(Error::other(format!("{damage:?} did not happen at any executor")))
}

/// Waits for up to `millis`.
pub async fn pause(draws: &mut Draws, millis: u64) {
    tokio::time::sleep(Duration::from_millis(draws.below(millis))).await;
}
