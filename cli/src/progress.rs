// SPDX-License-Identifier: Apache-2.0
//! The line that shows how far a query is. It is on standard error, only if that is a terminal, and gone when the query
//! is over; a short query never shows it.
//!
//! ```text
//! [#########-----------] stage 3/4, tasks 29/64 (8 running, 27 waiting), 1.2 GiB exchanged, 12.3 s
//! ```

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_client::{ClientError, Cluster, ClusterOverview, JobProgress, ProgressListener};
use console::Term;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// How often the line is drawn.
pub(crate) const INTERVAL: Duration = Duration::from_millis(150);

/// A query that is shorter shows no line.
const PATIENCE: Duration = Duration::from_millis(400);

/// How often the cluster is asked what a job waits for that does not go on.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

const BAR: usize = 20;

/// The newest progress of the session's job.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<JobProgress>>);

impl ProgressListener for Heard {
    fn progress(&self, progress: &JobProgress) {
        *self.0.lock() = progress.clone();
    }
}

/// The line of one query.
pub(crate) struct StatusLine {
    heard: Heard,
    cluster: Arc<Cluster>,
    start: Instant,
    enabled: bool,
    drawn: bool,
    /// When the job last went on, or the cluster was last asked.
    asked: Instant,
    asking: Option<JoinHandle<Result<ClusterOverview, ClientError>>>,
    waits_for: Option<String>,
}

impl StatusLine {
    pub(crate) fn new(heard: Heard, cluster: Arc<Cluster>, start: Instant, wanted: bool) -> Self {
        *heard.0.lock() = JobProgress::default();
        let enabled =
            wanted && io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { heard, cluster, start, enabled, drawn: false, asked: start, asking: None, waits_for: None }
    }

    /// Draws the line anew. `rows` have been read so far.
    pub(crate) async fn draw(&mut self, rows: usize) {
        if !self.enabled || self.start.elapsed() < PATIENCE {
            return;
        }
        let progress = self.heard.0.lock().clone();
        self.ask(&progress).await;
        let line = line(&progress, rows, self.waits_for.as_deref(), self.start.elapsed());
        let width = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let line = console::truncate_str(&line, width.saturating_sub(1), "…");
        // A line that cannot be shown is not missed.
        let _ = write!(io::stderr(), "\r\x1b[2K{line}");
        let _ = io::stderr().flush();
        self.drawn = true;
    }

    /// Removes the line.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
            let _ = io::stderr().flush();
        }
    }

    /// Finds out why nothing runs. The answer is shown some time later.
    async fn ask(&mut self, progress: &JobProgress) {
        if progress.tasks_running > 0 {
            self.asked = Instant::now();
            self.waits_for = None;
        }
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished()) {
            // Whoever cannot tell why has said so where the query is.
            let overview = asking.await.ok().and_then(Result::ok);
            self.waits_for = overview.and_then(|overview| waits_for(&overview, &progress.job_id));
        }
        if self.asking.is_none() && self.asked.elapsed() >= ASK_INTERVAL {
            self.asked = Instant::now();
            let cluster = Arc::clone(&self.cluster);
            self.asking = Some(tokio::spawn(async move { cluster.overview().await }));
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

fn line(progress: &JobProgress, rows: usize, waits_for: Option<&str>, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let planned = progress.tasks_planned;
    let waiting = planned.saturating_sub(progress.tasks_done + progress.tasks_running);
    let read = if rows > 0 { format!(", {} rows read", count(rows as u64)) } else { String::new() };
    let why = waits_for.map(|reason| format!(", {reason}")).unwrap_or_default();
    if planned == 0 {
        return format!("planning{why}{read}, {seconds:.1} s, Ctrl-C cancels");
    }
    let done = BAR * progress.tasks_done.min(planned) as usize / planned as usize;
    let bar = format!("[{}{}]", "#".repeat(done), "-".repeat(BAR - done));
    // Of the stages that are not done, one is worked on.
    let stage = (progress.stages_done + 1).min(progress.stages_planned);
    let mut tasks = format!("tasks {}/{planned}", progress.tasks_done);
    let running = (progress.tasks_running > 0).then(|| format!("{} running", progress.tasks_running));
    let waiting = (waiting > 0).then(|| format!("{waiting} waiting"));
    let states: Vec<_> = running.into_iter().chain(waiting).collect();
    if !states.is_empty() {
        tasks = format!("{tasks} ({})", states.join(", "));
    }
    let exchanged = if progress.bytes > 0 { format!(", {} exchanged", bytes(progress.bytes)) } else { String::new() };
    let produced = if progress.rows > 0 { format!(", {} rows produced", count(progress.rows)) } else { String::new() };
    let stages = progress.stages_planned;
    format!("{bar} stage {stage}/{stages}, {tasks}{why}{exchanged}{produced}{read}, {seconds:.1} s")
}

/// Why no task of the job runs, if the cluster tells.
fn waits_for(overview: &ClusterOverview, job: &str) -> Option<String> {
    if overview.executors.is_empty() {
        return Some("waiting for a first executor".to_owned());
    }
    let slots: u32 = overview.executors.iter().map(|executor| executor.slots).sum();
    let used: u32 = overview.executors.iter().map(|executor| executor.slots_used).sum();
    let lives = |state: &str| matches!(state, "queued" | "planning" | "running");
    let others = overview.jobs.iter().filter(|other| lives(&other.state) && other.progress.job_id != job).count();
    (used >= slots).then(|| format!("waiting for one of {slots} slots, all are in use ({others} other jobs)"))
}

/// A number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", " k", " M", " G", " T"])
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while scaled >= base
        && let Some(next) = units.next()
    {
        scaled /= base;
        unit = next;
    }
    if value < base as u64 { format!("{value}{unit}") } else { format!("{scaled:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use ballista_client::{ExecutorOverview, JobOverview};

    use super::*;

    #[test]
    fn the_line_tells_what_is_done_runs_and_waits() {
        let progress = JobProgress {
            stages_done: 2,
            stages_planned: 4,
            tasks_done: 32,
            tasks_running: 8,
            tasks_planned: 64,
            bytes: 3 << 29,
            ..Default::default()
        };
        let text = line(&progress, 12_345, None, Duration::from_millis(12_340));
        assert_eq!(
            text,
            "[##########----------] stage 3/4, tasks 32/64 (8 running, 24 waiting), 1.5 GiB exchanged, 12.3 k rows read, \
             12.3 s"
        );
        let text = line(&JobProgress::default(), 0, Some("waiting for a first executor"), Duration::from_secs(3));
        assert_eq!(text, "planning, waiting for a first executor, 3.0 s, Ctrl-C cancels");
        let done = JobProgress { stages_done: 1, stages_planned: 1, tasks_done: 2, tasks_planned: 2, ..progress };
        assert!(
            line(&done, 0, None, Duration::ZERO)
                .starts_with("[####################] stage 1/1, tasks 2/2 (8 running), ")
        );
    }

    #[test]
    fn what_a_job_waits_for_is_found() {
        assert_eq!(waits_for(&ClusterOverview::default(), "").unwrap(), "waiting for a first executor");
        let executor = ExecutorOverview { slots: 4, slots_used: 4, ..Default::default() };
        let job = |id: &str, state: &str| JobOverview {
            state: state.into(),
            progress: JobProgress { job_id: id.into(), ..Default::default() },
            ..Default::default()
        };
        let jobs = vec![job("a", "running"), job("b", "finished"), job("c", "running")];
        let mut overview = ClusterOverview { executors: vec![executor], jobs, ..Default::default() };
        assert_eq!(waits_for(&overview, "c").unwrap(), "waiting for one of 4 slots, all are in use (1 other jobs)");
        overview.executors[0].slots_used = 3;
        assert_eq!(waits_for(&overview, "c"), None);
    }
}
