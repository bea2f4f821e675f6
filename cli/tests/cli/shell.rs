// SPDX-License-Identifier: Apache-2.0
//! The shell at a terminal.

use crate::cluster::Cluster;
use crate::common::{ENDLESS, Home};
use crate::terminal::Terminal;

const PROMPT: &str = "ballista> ";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";

fn shell(home: &Home, arguments: &[&str], columns: u16) -> Terminal {
    let mut terminal = Terminal::start(home.command(arguments), columns);
    terminal.wait(PROMPT);
    terminal
}

#[test]
fn statements_are_edited_completed_and_remembered() {
    let home = Home::new();
    let mut terminal = shell(&home, &[], 100);
    terminal.press("CREATE TABLE weather AS SELECT 20 AS temperature;\r");
    terminal.wait("Elapsed ");
    terminal.wait(PROMPT);
    // A missing letter in the middle, keywords and names completed, over two lines.
    terminal.press("SELEC\t tempe\t +1 AS warmr");
    terminal.press(&format!("{LEFT}e\r"));
    terminal.wait("-> ");
    terminal.press("FROM wea\t;\r");
    terminal.wait("| warmer |");
    terminal.wait("|     21 |");
    terminal.wait(PROMPT);
    // What was typed is there again, as one line.
    terminal.press(&format!("{UP}\r"));
    terminal.wait("|     21 |");
    terminal.wait(PROMPT);
    // Ctrl-C forgets the line, Ctrl-D leaves.
    terminal.press(&format!("SELECT nonsense{CTRL_C}"));
    terminal.wait("^C");
    terminal.wait(PROMPT);
    terminal.press("nope\x7f\x7f\x7f\x7f\\d\r");
    terminal.wait("weather");
    terminal.wait(PROMPT);
    terminal.press(CTRL_D);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    assert!(!shown.contains("error"), "{shown}");
    let history = std::fs::read_to_string(home.path(".local/state/ballista/cli_history")).unwrap();
    assert!(history.contains("SELECT  temperature  +1 AS warmer FROM weather ;\n"), "{history}");
    assert!(!history.contains("nonsense"));
    // The next shell knows it too.
    let mut terminal = shell(&home, &[], 100);
    terminal.press("\x12CREATE\r");
    terminal.wait("Elapsed ");
    terminal.press("\\q\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn an_error_does_not_end_the_shell() {
    let home = Home::new();
    home.file(".ballistarc", "\\nope\n");
    let mut terminal = Terminal::start(home.command(&["-q"]), 100);
    assert!(terminal.wait(PROMPT).contains("unknown command \\nope"));
    terminal.press("SELECT *\rFROM nowhere;\r");
    terminal.wait("2 | FROM nowhere\r\n  |      ^^^^^^^ table 'nowhere' not found");
    terminal.wait(PROMPT);
    terminal.press("SELECT 6 * 7 AS answer;\r");
    terminal.wait("|     42 |");
    terminal.wait(PROMPT);
    terminal.press("quit\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn ctrl_c_cancels_the_query_and_not_the_shell() {
    let cluster = Cluster::start();
    let mut terminal = shell(&cluster.home, &cluster.arguments(&[]), 150);
    terminal.press(&format!("{ENDLESS};\r"));
    // The progress is shown while it runs.
    terminal.wait("tasks ");
    terminal.wait(" running");
    cluster.job("running");
    terminal.press(CTRL_C);
    terminal.wait("cancelled after ");
    terminal.wait(PROMPT);
    cluster.job("cancelled");
    terminal.press("SELECT 6 * 7 AS answer;\r");
    terminal.wait("|     42 |");
    terminal.wait(PROMPT);
    terminal.press("\\jobs\r");
    terminal.wait("cancelled");
    terminal.wait(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn ctrl_c_cancels_a_query_inside_the_process_too() {
    let mut terminal = shell(&Home::new(), &[], 150);
    terminal.press(&format!("{ENDLESS};\r"));
    terminal.wait(" running");
    terminal.press(CTRL_C);
    terminal.wait("cancelled after ");
    terminal.wait(PROMPT);
    terminal.press("SELECT 6 * 7 AS answer;\r");
    terminal.wait("|     42 |");
    terminal.press(CTRL_D);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn large_and_wide_results_are_cut_with_a_word_on_it() {
    let home = Home::new();
    let mut terminal = shell(&home, &[], 60);
    terminal.press("SELECT x, repeat('y', 100) AS y FROM generate_series(1, 1000) AS t(x);\r");
    let shown = terminal.wait("(the first 40 of 1000 rows are shown, 960 are not;");
    assert_eq!(shown.matches("yyy… |").count(), 40, "{shown}");
    assert!(shown.lines().filter(|line| line.starts_with('|')).all(|line| line.chars().count() <= 60), "{shown}");
    terminal.wait("(values are cut to the width of the terminal; whole: \\x)");
    terminal.wait(PROMPT);
    terminal.press("\\pset maxrows 0\r");
    terminal.wait(PROMPT);
    terminal.press("\\x\r");
    terminal.wait("expanded is on");
    terminal.press("SELECT x, repeat('y', 100) AS y FROM generate_series(1, 50) AS t(x);\r");
    terminal.wait("-[ row 50 ]");
    terminal.wait(&"y".repeat(100));
    terminal.wait("50 row(s) fetched.");
    terminal.wait(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn pasted_text_runs_as_it_is() {
    let mut terminal = shell(&Home::new(), &["-q"], 100);
    terminal.press("\x1b[200~SELECT\n\t1 AS a,\n\t2 AS b;\nSELECT 3 AS \x1b[201~");
    terminal.wait("| 1 | 2 |");
    // The last line waits to be edited.
    terminal.press("c;\r");
    terminal.wait("| 3 |");
    terminal.wait(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_still_works() {
    let home = Home::new();
    let mut command = home.command(&["-q"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command, 80);
    terminal.wait(PROMPT);
    terminal.press("SELECT 6 * 7 AS answer;\n");
    terminal.wait("|     42 |");
    terminal.press("\\q\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    assert!(!shown.contains('\x1b'), "{shown:?}");
}
