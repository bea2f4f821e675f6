// SPDX-License-Identifier: Apache-2.0
//! Faults in a cluster of real processes, under load, with every answer checked.
//!
//! What happens when is decided by a seed: the same seed gives the same faults at the same pauses. Each fault proves that
//! it fired, or the scenario fails.

pub mod fleet;
pub mod load;

use std::io::Result;
use std::time::Duration;

use clap::ValueEnum;

use self::fleet::{Fleet, Signal};

/// Which faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Executors die by SIGKILL, every tenth time two at once, and are replaced
    Kill,
    /// Executors halt for longer than their lease by SIGSTOP, and come back as zombies
    Zombie,
    /// Executors are asked to leave by SIGTERM while queries run, and are replaced
    Drain,
}

impl Scenario {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Zombie => "zombie",
            Self::Drain => "drain",
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

/// Does what the `number`-th fault of a scenario is, and puts things right again. Returns how many processes it hit.
///
/// # Errors
/// If a fault did not fire, or a process cannot be replaced.
pub async fn strike(scenario: Scenario, fleet: &mut Fleet, draws: &mut Draws, number: u64) -> Result<u64> {
    let victim = draws.below(fleet.executors() as u64) as usize;
    let other = (victim + 1) % fleet.executors();
    match scenario {
        Scenario::Kill => {
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
    }
}

/// Waits for up to `millis`.
pub async fn pause(draws: &mut Draws, millis: u64) {
    tokio::time::sleep(Duration::from_millis(draws.below(millis))).await;
}
