// SPDX-License-Identifier: Apache-2.0
//! What each fault of each scenario is.

use std::io::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Signal};
use super::full::Disk;
use super::load::Clients;
use super::matrix::Matrix;
use super::oracle::Oracle;
use super::proxy::Damage;
use super::restart::Restart;
use super::tally::Tally;
use super::{Draws, PATIENCE, Scenario, pause, udf};

/// What the faults of a scenario are drawn from and act with.
pub struct Strikes {
    /// Which faults.
    pub scenario: Scenario,
    /// Decides which process is hit when.
    pub draws: Draws,
    /// Makes clients, for faults that are queries.
    pub clients: Clients,
    /// Judges them.
    pub oracle: Arc<Oracle>,
    /// Counts them.
    pub tally: Arc<Tally>,
    /// Those of the scheduler, so far.
    pub restarts: Vec<Restart>,
    /// For [`Scenario::Matrix`].
    pub matrix: Option<Matrix>,
    /// For [`Scenario::Full`].
    pub disk: Option<Disk>,
}

impl Strikes {
    /// Does what the `number`-th fault is, and puts things right again. How many processes it hit.
    ///
    /// # Errors
    /// If a fault did not fire, did other harm than it should, or a process cannot be replaced.
    pub async fn strike(&mut self, fleet: &mut Fleet, number: u64) -> Result<u64> {
        let draws = &mut self.draws;
        let victim = draws.below(fleet.executors() as u64) as usize;
        let other = (victim + 1) % fleet.executors();
        match self.scenario {
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
                self.restarts.push(fleet.restart_scheduler(&early)?);
                Ok(1 + early.len() as u64)
            }
            Scenario::Both => {
                fleet.signal(victim, Signal::Kill)?;
                self.restarts.push(fleet.restart_scheduler(&[])?);
                fleet.replace(victim)?;
                Ok(2)
            }
            Scenario::Cut => damage(fleet, victim, Damage::CutAfter(draws.below(200_000)), 0).await,
            Scenario::Flip => damage(fleet, victim, Damage::FlipAfter(draws.below(200_000)), 0).await,
            Scenario::Partition => damage(fleet, victim, Damage::Refuse, 1_000 + draws.below(3_000)).await,
            Scenario::Stall => damage(fleet, victim, Damage::Stall, 1_000 + draws.below(3_000)).await,
            Scenario::Link => {
                let millis = if number % 3 == 2 { 2_500 } else { draws.below(1_000) };
                break_link(fleet, victim, millis).await
            }
            Scenario::Late => break_link(fleet, victim, draws.below(900)).await,
            Scenario::Slow => {
                for _ in 0..20 {
                    fleet.signal(victim, Signal::Stop)?;
                    tokio::time::sleep(Duration::from_millis(190)).await;
                    fleet.signal(victim, Signal::Continue)?;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(1)
            }
            Scenario::Udf => udf::strike(fleet, &self.clients, number).await,
            Scenario::Matrix => {
                let matrix = self.matrix.as_mut().ok_or_else(|| Error::other("there is no matrix"))?;
                matrix.strike(fleet, &self.oracle, &self.tally).await
            }
            Scenario::Full => {
                let disk = self.disk.as_ref().ok_or_else(|| Error::other("there is no disk to fill"))?;
                disk.strike(fleet, draws).await
            }
        }
    }
}

/// Breaks an executor's connection to the scheduler, and lets it come back after so many milliseconds.
async fn break_link(fleet: &Fleet, executor: usize, millis: u64) -> Result<u64> {
    let link = fleet.link(executor);
    let before = link.fired();
    link.set(Damage::Refuse);
    tokio::time::sleep(Duration::from_millis(millis + 50)).await;
    // After a break just before, the executor may be about to connect again.
    let start = Instant::now();
    while start.elapsed() < PATIENCE && link.fired() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    link.set(Damage::None);
    match link.fired() > before {
        true => Ok(1),
        false => Err(Error::other("no connection to the scheduler broke")),
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
