// SPDX-License-Identifier: Apache-2.0
//! Runs statements and commands one after the other, from scripts and as they are typed.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_client::detached::DetachedExt;
use clap::ValueEnum;
use datafusion::common::config::Dialect as DialectName;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use futures::{FutureExt, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::args::Format;
use crate::cluster;
use crate::commands::{self, Command};
use crate::diagnose::{self, Origin};
use crate::output::{Printer, ResultPrinter};
use crate::progress::{self, Heard, StatusLine};
use crate::session::{Runner, Session};
use crate::statements::{Piece, Script, Statement};

/// How long a cancelled query may take to hand its cancellation on.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

/// Files that include each other.
const INCLUDE_DEPTH: usize = 16;

/// Why nothing more of a script is run. What failed has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A statement or command failed.
    Failed,
    /// Ctrl-C.
    Cancelled,
    /// `\q`.
    Quit,
    /// Whoever read our output has seen enough.
    OutputClosed,
}

/// Ok to go on.
pub(crate) type Step = std::result::Result<(), Stop>;

/// What `\d` runs.
const TABLES: &str = "SELECT table_schema AS \"schema\", table_name AS \"table\", table_type AS \"type\" \
    FROM information_schema.tables WHERE table_schema <> 'information_schema' ORDER BY 1, 2";

/// A session and the place where its rows go.
pub(crate) struct Shell {
    session: Session,
    heard: Heard,
    printer: Printer,
    /// Ctrl-C.
    interrupts: Signal,
    /// Files that are being run.
    depth: usize,
}

/// What a running statement sends.
enum Event {
    Schema(SchemaRef),
    Rows(RecordBatch),
    End,
}

impl Shell {
    /// `heard` is the progress listener of the session.
    pub(crate) fn new(session: Session, heard: Heard, printer: Printer) -> io::Result<Self> {
        let interrupts = signal(SignalKind::interrupt())?;
        Ok(Self { session, heard, printer, interrupts, depth: 0 })
    }

    /// Ends the session.
    pub(crate) async fn close(self) {
        self.session.close().await;
    }

    /// Where queries run, for people.
    pub(crate) fn place(&self) -> String {
        match (self.session.cluster.name(), &self.session.server) {
            ("standalone", _) => "a cluster inside this process".to_owned(),
            (name, None) => format!("the cluster at {name}"),
            (name, Some(_)) => format!("the scheduler at {name}"),
        }
    }

    pub(crate) fn context(&self) -> &SessionContext {
        &self.session.context
    }

    /// Runs everything in `text`, up to the first failure. Errors name `source`.
    pub(crate) async fn run_script(&mut self, text: &str, source: &str) -> Step {
        let dialect = self.dialect();
        let mut number = 0;
        for piece in Script::split(text, dialect.as_ref()).all() {
            match piece {
                Piece::Sql(Statement { text, line }) => {
                    number += 1;
                    self.statement(text, Origin { source: Some(source), line, number }).await?;
                }
                Piece::Command(text, line) => {
                    let place = format!("{source}:{}", line + 1);
                    self.command(text, Some(&place)).await?;
                }
            }
        }
        Ok(())
    }

    /// Runs a file.
    pub(crate) async fn run_file(&mut self, path: &Path) -> Step {
        let text = if path == Path::new("-") { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
        let name = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
        match text {
            Ok(text) if self.depth < INCLUDE_DEPTH => {
                self.depth += 1;
                let step = Box::pin(self.run_script(&text, &name)).await;
                self.depth -= 1;
                step
            }
            Ok(_) => self.fail(format!("error: {name} is included by itself, or files are included too deeply")),
            Err(error) => self.fail(format!("error: cannot read {name}: {error}")),
        }
    }

    /// Runs rows-only, as a file that is to prepare something does.
    pub(crate) async fn run_quietly(&mut self, path: &Path) -> Step {
        let quiet = std::mem::replace(&mut self.printer.settings.quiet, true);
        let step = self.run_file(path).await;
        self.printer.settings.quiet = quiet;
        step
    }

    /// Runs the complete pieces of what was typed and returns what is left of it.
    pub(crate) async fn run_typed(&mut self, text: &str) -> std::result::Result<String, Stop> {
        // What was meant for something else, long ago.
        while self.interrupts.recv().now_or_never().flatten().is_some() {}
        let dialect = self.dialect();
        let script = Script::split(text, dialect.as_ref());
        for piece in script.complete {
            match piece {
                // Lines are counted from the start of the statement.
                Piece::Sql(Statement { text, .. }) => {
                    self.statement(text, Origin { source: None, line: 0, number: 1 }).await?;
                }
                Piece::Command(text, _) => self.command(text, None).await?,
            }
        }
        Ok(script.rest.map(|rest| format!("{}\n", rest.text)).unwrap_or_default())
    }

    /// Runs a statement.
    pub(crate) async fn statement(&mut self, sql: &str, origin: Origin<'_>) -> Step {
        self.run(self.session.runner(), sql, origin).await
    }

    /// Prints the rows of a job that was submitted before.
    pub(crate) async fn attach(&mut self, job: &str) -> Step {
        let runner = Runner::Attached(Arc::clone(&self.session.cluster));
        self.run(runner, job, Origin { source: None, line: 0, number: 1 }).await
    }

    /// Submits a query that goes on by itself, and prints the id of its job.
    pub(crate) async fn submit(&mut self, sql: &str) -> Step {
        let submitted = async { self.context().sql(sql).await?.submit_detached().await };
        match submitted.await {
            Ok(job) => self.say(&job),
            Err(error) => self.fail(diagnose::with_place(&error, sql, Origin { source: None, line: 0, number: 1 })),
        }
    }

    async fn run(&mut self, runner: Runner, sql: &str, origin: Origin<'_>) -> Step {
        let start = Instant::now();
        let (sender, mut events) = mpsc::channel(1);
        // A task of its own, so that neither planning nor a local operator keeps Ctrl-C and the progress waiting.
        let mut query = tokio::spawn(execute(runner, sql.to_owned(), sender));
        let wanted = !self.printer.settings.quiet;
        let mut status = StatusLine::new(self.heard.clone(), Arc::clone(&self.session.cluster), start, wanted);
        let shown = self.show(&mut events, &mut status, start).await;
        status.clear();
        drop(events);
        match shown {
            Ok(true) => {}
            Ok(false) => {
                query.abort();
                // That it ends is what counts, not how.
                let _ = tokio::time::timeout(CANCEL_WAIT, &mut query).await;
                let _ = self.printer.flush();
                eprintln!("cancelled after {:.3} seconds", start.elapsed().as_secs_f64());
                return Err(Stop::Cancelled);
            }
            Err(error) => {
                query.abort();
                return self.fail(diagnose::with_place(&error, sql, origin));
            }
        }
        match query.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.fail(diagnose::with_place(&error, sql, origin)),
            Err(panic) => self.fail(format!("error: the statement ended unexpectedly: {panic}")),
        }
    }

    /// Prints what comes. `false` if Ctrl-C was pressed. A query that fails sends no end.
    async fn show(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        status: &mut StatusLine,
        start: Instant,
    ) -> Result<bool> {
        let texts = self.context().state().config_options().format.clone();
        let on_terminal = self.printer.is_terminal();
        let mut ticks = tokio::time::interval(progress::INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut result: Option<ResultPrinter> = None;
        loop {
            tokio::select! {
                biased;
                _ = self.interrupts.recv() => return Ok(false),
                _ = ticks.tick() => status.draw(result.as_ref().map_or(0, ResultPrinter::rows)).await,
                event = events.recv() => match (event, &mut result) {
                    (Some(Event::Schema(schema)), _) => result = Some(self.printer.start(schema, texts.clone())),
                    (Some(Event::Rows(batch)), Some(result)) => {
                        if on_terminal && result.shows_more() {
                            status.clear();
                        }
                        result.add(&batch)?;
                    }
                    (Some(Event::End), _) => {
                        status.clear();
                        if let Some(result) = result.take() {
                            result.finish(start.elapsed())?;
                        }
                    }
                    (Some(Event::Rows(_)), None) => {}
                    (None, _) => return Ok(true),
                }
            }
        }
    }

    /// Carries out a command. Errors name its place, if it has one.
    async fn command(&mut self, text: &str, place: Option<&str>) -> Step {
        let command = match Command::parse(text) {
            Ok(command) => command,
            Err(error) => {
                let place = place.map(|place| format!("\n  --> {place}")).unwrap_or_default();
                return self.fail(format!("error: {error}{place}"));
            }
        };
        match command {
            Command::Quit => return Err(Stop::Quit),
            Command::Reset => {}
            Command::Include(file) => return self.run_file(&file).await,
            Command::Describe(table) => {
                let sql = table.map_or_else(|| TABLES.to_owned(), |table| format!("DESCRIBE {table}"));
                return self.statement(&sql, Origin { source: None, line: 0, number: 1 }).await;
            }
            Command::Output(file) => {
                if let Err(error) = self.printer.redirect(file.as_deref()) {
                    let file = file.unwrap_or_default();
                    return self.fail(format!("error: cannot write {}: {error}", file.display()));
                }
            }
            Command::Jobs | Command::Executors => return self.overview(command == Command::Executors).await,
            Command::Cancel(job) => return self.cancel(&job).await,
            Command::Help => return self.say(&commands::help()),
            Command::ShowSettings => {
                let settings = &self.printer.settings;
                let format = settings.format.to_possible_value().map(|value| value.get_name().to_owned());
                let rows = settings.max_rows.map_or("automatic".to_owned(), |rows| rows.to_string());
                let (expanded, timing) = (on_off(settings.expanded), on_off(settings.timing));
                let format = format.unwrap_or_default();
                return self.say(&format!("format {format}\nmaxrows {rows}\nexpanded {expanded}\ntiming {timing}"));
            }
            Command::Expanded(value) => {
                let value = value.unwrap_or(!self.printer.settings.expanded);
                self.printer.settings.expanded = value;
                return self.note(&format!("expanded is {}", on_off(value)));
            }
            Command::Timing(value) => {
                let value = value.unwrap_or(!self.printer.settings.timing);
                self.printer.settings.timing = value;
                return self.note(&format!("timing is {}", on_off(value)));
            }
            Command::Format(format) => match format {
                Some(format) => self.printer.settings.format = format,
                None => return Box::pin(self.command("\\pset", place)).await,
            },
            Command::MaxRows(rows) => self.printer.settings.max_rows = Some(rows),
        }
        Ok(())
    }

    /// Prints what the cluster has or does.
    pub(crate) async fn overview(&mut self, executors: bool) -> Step {
        let start = Instant::now();
        let rows = match self.session.cluster.overview().await {
            Ok(overview) if executors => cluster::executors(&overview.executors),
            Ok(overview) if self.printer.format() == Format::Table => cluster::jobs_for_people(&overview.jobs),
            Ok(overview) => cluster::jobs(&overview.jobs),
            Err(error) => return self.fail(format!("error: {error}")),
        };
        let printed = rows.and_then(|rows| self.printer.print(&rows, start));
        printed.or_else(|error| self.fail(diagnose::plain(&error)))
    }

    /// Cancels a job of the cluster.
    pub(crate) async fn cancel(&mut self, job: &str) -> Step {
        match self.session.cluster.cancel_job(job).await {
            Ok(true) => self.say(&format!("job {job} is cancelled")),
            Ok(false) => self.fail(format!("error: no job {job} is running")),
            Err(error) => self.fail(format!("error: {error}")),
        }
    }

    /// Prints a text that was asked for.
    fn say(&mut self, text: &str) -> Step {
        self.printer.say(text).or_else(|error| self.fail(diagnose::plain(&error)))
    }

    /// Prints a text that only tells what happened.
    fn note(&mut self, text: &str) -> Step {
        if self.printer.settings.quiet { Ok(()) } else { self.say(text) }
    }

    fn fail(&mut self, text: String) -> Step {
        if self.printer.is_closed() {
            return Err(Stop::OutputClosed);
        }
        // Rows that came before are seen before.
        let _ = self.printer.flush();
        complain(&text);
        Err(Stop::Failed)
    }

    fn dialect(&self) -> Box<dyn Dialect> {
        let state = self.context().state();
        let name: &DialectName = &state.config_options().sql_parser.dialect;
        dialect_from_str(name.as_ref()).unwrap_or_else(|| Box::new(GenericDialect {}))
    }
}

/// Writes to standard error. Nobody is left to tell if this fails.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

async fn execute(runner: Runner, sql: String, events: mpsc::Sender<Event>) -> Result<()> {
    let mut rows = runner.rows(&sql).await?;
    // Nobody listens any more only after Ctrl-C or an error of the output.
    let _ = events.send(Event::Schema(rows.schema())).await;
    while let Some(batch) = rows.next().await {
        if events.send(Event::Rows(batch?)).await.is_err() {
            return Ok(());
        }
    }
    let _ = events.send(Event::End).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ballista::prelude::*;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionConfig;

    use super::*;
    use crate::output::Destination;
    use crate::output::tests::{Paper, settings};

    async fn shell(paper: &Paper) -> Shell {
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(2);
        let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
        let context = SessionContext::standalone_with_state(state).await.unwrap();
        let cluster = cluster::of_session(&context).unwrap();
        let printer = Printer::new(Destination::of(paper.clone(), None), settings(Format::Csv, true));
        Shell::new(Session { context, cluster, server: None }, Heard::default(), printer).unwrap()
    }

    #[tokio::test]
    async fn a_script_runs_up_to_its_first_error() {
        let paper = Paper::default();
        let script = "CREATE TABLE t AS VALUES (1), (2); SELECT sum(column1) AS s FROM t; SELECT nope; SELECT 7";
        assert_eq!(shell(&paper).await.run_script(script, "test").await, Err(Stop::Failed));
        assert_eq!(paper.text(), "s\n3\n");
    }

    #[tokio::test]
    async fn what_is_typed_runs_when_it_is_complete() {
        let paper = Paper::default();
        let mut shell = shell(&paper).await;
        assert_eq!(shell.run_typed("SELECT 1 AS a; SELECT\n").await.unwrap(), "SELECT\n");
        assert_eq!(shell.run_typed("SELECT\n 2 AS b;\n").await.unwrap(), "");
        assert_eq!(shell.run_typed("SELECT nope; SELECT 3;").await, Err(Stop::Failed));
        assert_eq!(shell.run_typed("\\q\n").await, Err(Stop::Quit));
        assert_eq!(paper.text(), "a\n1\nb\n2\n");
    }

    #[tokio::test]
    async fn commands_change_how_rows_are_printed_and_show_the_cluster() {
        let paper = Paper::default();
        let mut shell = shell(&paper).await;
        let script = "CREATE TABLE t AS SELECT 1 AS a;\n\\format tsv\n\\d\n\\d t\n\\format csv\n\\executors\n\\pset\n";
        shell.run_script(script, "test").await.unwrap();
        let text = paper.text();
        assert!(text.contains("\npublic\tt\tBASE TABLE\n"), "{text}");
        assert!(
            text.contains("a\tInt64\tNO") && text.contains("executor,address,slots,slots_used,memory_used,disk_used\n"),
            "{text}"
        );
        assert!(text.ends_with("format csv\nmaxrows automatic\nexpanded off\ntiming on\n"), "{text}");
        assert_eq!(shell.run_script("\\cancel nope", "test").await, Err(Stop::Failed));
    }

    #[tokio::test]
    async fn files_include_files_but_not_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let inner = file("inner.sql", "SELECT 1 AS a;".into());
        let outer = file("outer.sql", format!("\\i {}\nSELECT 2 AS b", inner.display()));
        let paper = Paper::default();
        let mut shell = shell(&paper).await;
        shell.run_file(&outer).await.unwrap();
        assert_eq!(paper.text(), "a\n1\nb\n2\n");
        let itself = folder.path().join("itself.sql");
        file("itself.sql", format!("\\i {}", itself.display()));
        assert_eq!(shell.run_file(&itself).await, Err(Stop::Failed));
        assert_eq!(shell.run_file(Path::new("/no/such.sql")).await, Err(Stop::Failed));
    }
}
