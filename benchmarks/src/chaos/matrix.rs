// SPDX-License-Identifier: Apache-2.0
//! An executor dies at each place of [`fault`](ballista_core::fault) in queries of each shape.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::Draws;
use super::fleet::Fleet;
use super::load::{Clients, ask, write};
use super::oracle::{Oracle, Question};
use super::process::is_killed;
use super::tally::Tally;
use crate::engine::Engine;

/// Where executors die, whatever the query.
const PLACES: [&str; 6] = ["map-batch", "map-end", "status", "acknowledged", "fetch", "result-batch"];

/// Where they die in writes besides.
const WRITE_PLACES: [&str; 3] = ["staged", "commit", "published"];

/// Name and text of each query that reads. After them comes the one that writes.
const SHAPES: [(&str, &str); 6] = [
    ("aggregate", "SELECT l_suppkey, count(*) AS n, sum(l_extendedprice) AS s FROM lineitem GROUP BY l_suppkey"),
    (
        "join",
        "SELECT o_orderkey, o_orderdate, l_linenumber, l_comment FROM orders JOIN lineitem ON o_orderkey = l_orderkey \
         WHERE o_custkey % 20 = 3",
    ),
    (
        "sort",
        "SELECT l_comment, l_orderkey, l_linenumber FROM lineitem WHERE l_orderkey % 20 = 3 \
         ORDER BY l_comment, l_orderkey, l_linenumber",
    ),
    (
        "window",
        "SELECT l_orderkey, l_linenumber, row_number() OVER (PARTITION BY l_suppkey ORDER BY l_orderkey, l_linenumber) \
         AS n FROM lineitem WHERE l_partkey % 20 = 3",
    ),
    (
        "union",
        "SELECT 'lineitem' AS t, l_suppkey AS k, count(*) AS n FROM lineitem GROUP BY l_suppkey \
         UNION ALL SELECT 'orders' AS t, o_custkey AS k, count(*) AS n FROM orders GROUP BY o_custkey",
    ),
    (
        "distinct",
        "SELECT DISTINCT k FROM (SELECT l_partkey % 9973 AS k FROM lineitem UNION ALL SELECT p_partkey AS k FROM part) \
         AS u",
    ),
];

/// Places in all shapes, and those of writes in the one that writes.
const CELLS: u64 = ((SHAPES.len() + 1) * PLACES.len() + WRITE_PLACES.len()) as u64;

/// From a cell to the next: no divisor in common with [`CELLS`], so that all are visited, and large, so that a few are of
/// different shapes and places.
const STRIDE: u64 = 26;

/// How long after its query a process may reach its place.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// The cells, and how far they were tried.
pub struct Matrix {
    client: Engine,
    questions: Vec<Question>,
    /// Where writes go.
    folder: PathBuf,
    deadly: PathBuf,
    first: u64,
    tried: u64,
    fired: u64,
}

impl Matrix {
    /// A walk over the cells that starts at any of them.
    ///
    /// # Errors
    /// If the client cannot connect, or the oracle fails.
    pub async fn new(
        clients: &Clients,
        oracle: &Oracle,
        dir: &Path,
        draws: &mut Draws,
    ) -> datafusion::error::Result<Self> {
        let client = clients.connect().await?;
        let mut questions = Vec::new();
        for (name, text) in SHAPES {
            questions.push(oracle.ask(name.to_owned(), text).await?);
        }
        let (folder, deadly) = (dir.join("copies"), deadly(dir));
        Ok(Self { client, questions, folder, deadly, first: draws.below(CELLS), tried: 0, fired: 0 })
    }

    /// Lets the executor die that comes to the place of the next cell first, and puts another one in its place.
    ///
    /// # Errors
    /// If a process does not start, or ends in another way.
    pub(super) async fn strike(&mut self, fleet: &mut Fleet, oracle: &Oracle, tally: &Tally) -> Result<u64> {
        let (shape, place) = cell(self.first + self.tried * STRIDE);
        let number = self.tried;
        self.tried += 1;
        std::fs::write(&self.deadly, place)?;

        let mut dead = None;
        {
            let mut query = pin!(async {
                match self.questions.get(shape) {
                    Some(question) => ask(&self.client, oracle, question, tally).await,
                    None => {
                        let query = format!("SELECT * FROM lineitem WHERE l_orderkey % 7 = {}", number % 7);
                        write(&self.client, oracle, &query, &self.folder.join(number.to_string()), tally).await;
                    }
                }
            });
            loop {
                tokio::select! {
                    () = &mut query => break,
                    () = tokio::time::sleep(Duration::from_millis(5)), if dead.is_none() => {
                        dead = find_dead(fleet, tally)?;
                    }
                }
            }
        }
        let start = Instant::now();
        while dead.is_none() && start.elapsed() < AFTERWARDS {
            tokio::time::sleep(Duration::from_millis(10)).await;
            dead = find_dead(fleet, tally)?;
        }
        let Some((executor, status)) = dead else {
            std::fs::remove_file(&self.deadly)?;
            let shape = self.questions.get(shape).map_or("copy", |question| &question.name);
            println!("{place} was not reached in {shape}");
            return Ok(0);
        };
        if !is_killed(status) {
            return Err(Error::other(format!("an executor that was to die at {place} ended with {status}")));
        }
        self.fired += 1;
        fleet.replace(executor)?;
        Ok(1)
    }

    /// Tells how many faults fired.
    ///
    /// # Errors
    /// If they are too few to tell anything.
    pub fn finish(&self) -> Result<()> {
        let Self { tried, fired, .. } = self;
        println!("{tried} of {CELLS} places in shapes of queries were tried, at {fired} of them the executor died");
        match fired * 3 >= *tried {
            true => Ok(()),
            false => Err(Error::other(format!("only {fired} of {tried} faults fired"))),
        }
    }
}

/// File that names the place at which the next process dies, in the folder of a run.
pub(super) fn deadly(dir: &Path) -> PathBuf {
    dir.join("deadly")
}

/// The executor that has ended, and how.
fn find_dead(fleet: &mut Fleet, tally: &Tally) -> Result<Option<(usize, ExitStatus)>> {
    for executor in 0..fleet.executors() {
        if let Some(status) = fleet.ended(executor)? {
            tally.fault(Instant::now());
            return Ok(Some((executor, status)));
        }
    }
    Ok(None)
}

/// The shape's number and the place of a cell.
fn cell(number: u64) -> (usize, &'static str) {
    let number = (number % CELLS) as usize;
    match PLACES.get(number % PLACES.len()) {
        Some(place) if number < (SHAPES.len() + 1) * PLACES.len() => (number / PLACES.len(), *place),
        _ => (SHAPES.len(), WRITE_PLACES[number % WRITE_PLACES.len()]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_walk_visits_every_cell_once_and_a_few_steps_see_different_ones() {
        let walk: Vec<_> = (0..CELLS).map(|step| cell(7 + step * STRIDE)).collect();
        assert_eq!(walk.iter().collect::<HashSet<_>>().len() as u64, CELLS);
        for few in walk.windows(3) {
            let shapes: HashSet<_> = few.iter().map(|(shape, _)| shape).collect();
            let places: HashSet<_> = few.iter().map(|(_, place)| place).collect();
            assert!(shapes.len() > 1 && places.len() > 1, "{few:?}");
        }
        let writes = |place: &str| walk.iter().filter(|(_, other)| *other == place).count();
        assert_eq!((writes("commit"), writes("status")), (1, SHAPES.len() + 1));
    }
}
