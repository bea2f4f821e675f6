// SPDX-License-Identifier: Apache-2.0
//! A cluster beside the binary, and the commands that look at it.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ballista::prelude::*;
use ballista::{ExecutorHandle, SchedulerHandle};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::common::{ENDLESS, Home, Ran};

/// A scheduler and two executors with two slots each, and a home of its client.
pub struct Cluster {
    pub home: Home,
    port: String,
    _daemons: (SchedulerHandle, Vec<ExecutorHandle>),
    // Dropped last.
    _runtime: Runtime,
}

impl Cluster {
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let (daemons, port) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let scheduler = SchedulerBuilder::new().build().unwrap().serve(listener).unwrap();
            let mut executors = vec![];
            for _ in 0..2 {
                let executor = ExecutorBuilder::new().with_slots(2).with_scheduler("127.0.0.1", port);
                let executor = executor.start().await.unwrap();
                executor.registered().await.unwrap();
                executors.push(executor);
            }
            ((scheduler, executors), port.to_string())
        });
        Self { home: Home::new(), port, _daemons: daemons, _runtime: runtime }
    }

    /// Arguments of a client of the cluster.
    pub fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--host", "127.0.0.1", "--port", self.port.as_str()], more].concat()
    }

    pub fn port(&self) -> &str {
        &self.port
    }

    pub fn run(&self, more: &[&str]) -> Ran {
        self.home.run(&self.arguments(more))
    }

    fn start_endless(&self) -> Child {
        let mut command = self.home.command(&self.arguments(&["-q", "-c", ENDLESS]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for a job in this state and returns its id.
    pub fn job(&self, state: &str) -> String {
        let start = Instant::now();
        loop {
            let jobs: Value = serde_json::from_str(&self.run(&["jobs", "--format", "json"]).ok()).unwrap();
            let found = jobs.as_array().unwrap().iter().find(|job| job["state"] == state);
            if let Some(job) = found {
                return job["job"].as_str().unwrap().to_owned();
            }
            assert!(start.elapsed() < Duration::from_secs(30), "no {state} job in {jobs}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn statements_run_on_a_cluster_beside() {
    let cluster = Cluster::start();
    let sql = "SET ballista.planner.single_task_bytes = 0; \
               SELECT x % 3 AS k, count(*) AS c FROM generate_series(1, 9) AS t(x) GROUP BY 1 ORDER BY 1";
    assert_eq!(cluster.run(&["-q", "--format", "csv", "-c", sql]).ok(), "k,c\n0,3\n1,3\n2,3\n");
    let executors = cluster.run(&["executors", "--format", "csv"]).ok();
    let lines: Vec<_> = executors.lines().collect();
    assert_eq!((lines[0], lines.len()), ("executor,address,slots,slots_used,memory_used,disk_used", 3), "{executors}");
    let is_idle = |line: &&str| line.contains(",127.0.0.1:") && line.contains(",2,0,") && !line.ends_with(" of 0 B");
    assert!(lines[1..].iter().all(is_idle), "{executors}");
    let jobs = cluster.run(&["jobs"]).ok();
    assert!(jobs.starts_with("+--") && jobs.contains("| finished |"), "{jobs}");
    let inside = cluster.run(&["-q", "--format", "csv", "-c", "\\executors", "-c", "\\jobs"]).ok();
    assert!(inside.contains("finished,"), "{inside}");
}

#[test]
fn a_job_is_seen_and_cancelled_from_beside() {
    let cluster = Cluster::start();
    let client = cluster.start_endless();
    let job = cluster.job("running");
    let cancelled = cluster.run(&["cancel", &job]).ok();
    assert!(cancelled.contains(&job), "{cancelled}");
    let ran = Ran::from(client.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("cancelled"), "{}", ran.err);
    assert_eq!(cluster.job("cancelled"), job);
    let again = cluster.run(&["cancel", &job]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains(&format!("no job {job} is running")), "{}", again.err);
}

#[test]
fn an_interrupted_script_ends_and_its_job_with_it() {
    let cluster = Cluster::start();
    let client = cluster.start_endless();
    cluster.job("running");
    // SAFETY: a signal to a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(client.id() as i32, libc::SIGINT) }, 0);
    let ran = Ran::from(client.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(130), ""));
    // Without a terminal there is no progress.
    assert!(ran.err.starts_with("cancelled after ") && ran.err.lines().count() == 1, "{}", ran.err);
    cluster.job("cancelled");
}

#[test]
fn a_session_on_the_scheduler_runs_scripts_and_says_where_they_fail() {
    let cluster = Cluster::start();
    let script =
        cluster.home.file("s.sql", "CREATE VIEW v AS SELECT 1 AS a;\n\\d\nSELECT a FROM v;\n\nSELECT nope FROM v;");
    let ran = cluster.run(&["--server-session", "-q", "--format", "csv", "-f", script.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "schema,table,type\npublic,v,VIEW\na\n1\n"));
    assert!(ran.err.contains("No field named nope") && ran.err.contains("s.sql:5 (statement 3)"), "{}", ran.err);
    let explain = ["--server-session", "-q", "explain", "SELECT count(*) FROM generate_series(1, 100)"];
    assert!(cluster.run(&explain).ok().contains("stage"));
    let ran = cluster.run(&["--server-session", "--set", "ballista.nope=1", "-c", "SELECT 1"]);
    assert!(ran.code == Some(1) && ran.err.contains("ballista.nope"), "{ran:?}");
    let spark = ["--server-session", "--set", "ballista.functions.spark=true", "-q", "--format", "csv", "-c"];
    let spark = [spark.as_slice(), &["SELECT hex(255) AS h"]].concat();
    assert_eq!(cluster.run(&spark).ok(), "h\nFF\n");
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let ran = Home::new().run(&["jobs", "--port", "1"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("cannot reach the scheduler at df://localhost:1"), "{}", ran.err);
}
