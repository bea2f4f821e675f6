// SPDX-License-Identifier: Apache-2.0
//! Queries that harm the executors that run them, beside a load that must not notice.

use std::io::{Error, Result};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::fleet::Fleet;
use super::hostile::{PANIC, functions};
use super::load::{Clients, HUNG};
use crate::engine::Engine;

/// The functions, one a strike.
const KINDS: [&str; 5] = ["panics", "aborts", "eats_stack", "eats_memory", "endless"];

/// How often executors are looked after.
const POLL: Duration = Duration::from_millis(100);

/// Executors that a deadly query may kill before it is quarantined.
const DEATHS: usize = 3;

/// What executors of this scenario are started with: those that cannot stop a task end soon.
pub(super) const ARGUMENTS: [&str; 4] = ["--stuck-task-seconds", "2", "--shutdown-grace-seconds", "10"];

/// When all that cannot be stopped have said so.
const STUCK_TOLD: Duration = Duration::from_secs(4);

/// When the first of them has ended, at the latest.
const STUCK_LIMIT: Duration = Duration::from_secs(30);

/// How long after its end a query may still end an executor.
const LAST_DEATHS: Duration = Duration::from_millis(500);

/// Names and ends of processes.
type Ended = Vec<(String, ExitStatus)>;

/// Runs the `number`-th hostile query, in a client of its own, and revives what it kills. How many processes it hit.
///
/// # Errors
/// If it did other harm than it should.
pub(super) async fn strike(fleet: &mut Fleet, clients: &Clients, number: u64) -> Result<u64> {
    let kind = KINDS[(number % KINDS.len() as u64) as usize];
    let client = clients.connect().await.map_err(Error::other)?;
    functions().into_iter().for_each(|function| client.context().register_udf(function));
    let hit = match kind {
        "panics" => panic(fleet, &client, kind).await?,
        "endless" => compute_without_end(fleet, &client, kind).await?,
        _ => die(fleet, &client, kind).await?,
    };
    let start = Instant::now();
    let mut late = Ended::new();
    loop {
        late.extend(fleet.revive()?);
        if fleet.is_complete()? {
            break;
        }
        if start.elapsed() > PATIENCE {
            return Err(Error::other(format!("not all executors live after {kind}")));
        }
        tokio::time::sleep(POLL).await;
    }
    if kind == "panics" && !late.is_empty() {
        return Err(Error::other(format!("a panic ended {late:?}")));
    }
    Ok((hit + late.len()) as u64)
}

/// Runs a function of one row. `Err`: what the client is told.
async fn call(client: &Engine, function: &str) -> std::result::Result<(), String> {
    let text = format!("SELECT sum({function}(l_orderkey)) AS s FROM lineitem WHERE l_orderkey = 1");
    let frame = client.context().sql(&text).await.map_err(|error| error.strip_backtrace())?;
    frame.collect().await.map(drop).map_err(|error| error.strip_backtrace())
}

/// A panic fails its query, soon, and nothing else.
async fn panic(fleet: &mut Fleet, client: &Engine, function: &str) -> Result<usize> {
    let outcome = tokio::time::timeout(PATIENCE, call(client, function)).await;
    match outcome {
        Ok(Err(error)) if error.contains("panic") && error.contains(PANIC) => {}
        Ok(outcome) => return Err(Error::other(format!("a panic is told as {outcome:?}"))),
        Err(_) => return Err(Error::other(format!("a panic is not told within {} s", PATIENCE.as_secs()))),
    }
    let ended = fleet.revive()?;
    if ended.is_empty() { Ok(1) } else { Err(Error::other(format!("a panic ended {ended:?}"))) }
}

/// A query that ends its executors is given up after some of them.
async fn die(fleet: &mut Fleet, client: &Engine, function: &str) -> Result<usize> {
    let mut ended = Ended::new();
    let mut query = pin!(tokio::time::timeout(HUNG, call(client, function)));
    let outcome = loop {
        tokio::select! {
            outcome = &mut query => break outcome,
            () = tokio::time::sleep(POLL) => ended.extend(fleet.revive()?),
        }
    };
    match outcome {
        Ok(Err(error)) if error.contains("quarantined") => {}
        Ok(outcome) => {
            return Err(Error::other(format!("{function} ended {} executors, and then: {outcome:?}", ended.len())));
        }
        Err(_) => return Err(Error::other(format!("{function} ended {} executors and hangs", ended.len()))),
    }
    // Others may have begun with it, and end now.
    tokio::time::sleep(LAST_DEATHS).await;
    ended.extend(fleet.revive()?);
    match ended.len() >= DEATHS {
        true => Ok(ended.len()),
        false => Err(Error::other(format!("{function} was quarantined after {ended:?}"))),
    }
}

/// A query that is cancelled, and computes on: its executors end by themselves.
async fn compute_without_end(fleet: &mut Fleet, client: &Engine, function: &str) -> Result<usize> {
    if let Ok(outcome) = tokio::time::timeout(Duration::from_secs(1), call(client, function)).await {
        return Err(Error::other(format!("{function} ended: {outcome:?}")));
    }
    let cancelled = Instant::now();
    let mut ended = Ended::new();
    loop {
        ended.extend(fleet.revive()?);
        if let Some((name, status)) = ended.iter().find(|(_, status)| status.code().is_none_or(|code| code == 0)) {
            return Err(Error::other(format!("{name} ended with {status} after a task that cannot be stopped")));
        }
        let mut others = 0;
        for executor in 0..fleet.executors() {
            others += usize::from(fleet.executor_log(executor)?.contains("computes on and cannot be stopped"));
        }
        if cancelled.elapsed() > STUCK_TOLD && others == 0 && !ended.is_empty() {
            return Ok(ended.len());
        }
        if cancelled.elapsed() > STUCK_LIMIT {
            let (gone, limit) = (ended.len(), STUCK_LIMIT.as_secs());
            return Err(Error::other(format!(
                "{limit} s after {function} was cancelled, {gone} executors have ended, {others} are about to"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}
