// SPDX-License-Identifier: Apache-2.0
//! `-c`, `-f` and standard input, with no terminal anywhere.

use std::process::Stdio;

use crate::common::Home;

const ROWS: &str = "SELECT * FROM (VALUES (1, 'a,b'), (2, NULL)) AS t(n, s) ORDER BY n";

#[test]
fn every_format() {
    let home = Home::new();
    for (format, expected) in [
        ("table", "+---+-----+\n| n | s   |\n+---+-----+\n| 1 | a,b |\n| 2 |     |\n+---+-----+\n"),
        ("csv", "n,s\n1,\"a,b\"\n2,\n"),
        ("automatic", "n,s\n1,\"a,b\"\n2,\n"),
        ("tsv", "n\ts\n1\ta,b\n2\t\n"),
        ("json", "[{\"n\":1,\"s\":\"a,b\"},{\"n\":2,\"s\":null}]\n"),
        ("nd-json", "{\"n\":1,\"s\":\"a,b\"}\n{\"n\":2,\"s\":null}\n"),
    ] {
        assert_eq!(home.run(&["-q", "--format", format, "-c", ROWS]).ok(), expected, "{format}");
    }
}

#[test]
fn rows_and_times_are_told_after_each_statement() {
    let out = Home::new().run(&["-c", "SELECT 1 AS a; SELECT 2 AS b"]).ok();
    assert_eq!(out.matches("1 row(s) fetched.\nElapsed ").count(), 2, "{out}");
    assert_eq!(out.matches(" seconds.\n").count(), 2, "{out}");
}

#[test]
fn files_come_first_then_commands_each_in_order() {
    let home = Home::new();
    home.file("a.sql", "CREATE TABLE t AS VALUES (1);\n-- nothing more\n");
    home.file("b.sql", "\\format csv\nSELECT 'b' AS f");
    let out =
        home.run(&["-q", "-c", "SELECT count(*) AS c FROM t", "-f", "a.sql", "-f", "b.sql", "-c", "SELECT 2 AS d"]);
    assert_eq!(out.ok(), "f\nb\nc\n1\nd\n2\n");
}

#[test]
fn standard_input_is_a_script_if_nobody_types_it() {
    let home = Home::new();
    let script = "SELECT 1 AS a;\n\\format nd-json\nSELECT\n 2 AS b;\n\\q\nSELECT 3";
    assert_eq!(home.run_with(&["-q", "--format", "csv"], script).ok(), "a\n1\n{\"b\":2}\n");
    assert_eq!(home.run_with(&["-q", "--format", "csv", "-f", "-"], "SELECT 4 AS c").ok(), "c\n4\n");
}

#[test]
fn the_first_error_ends_a_script_and_says_where_it_is() {
    let home = Home::new();
    home.file(
        "q.sql",
        "SELECT 1 AS one;\n\nSELECT\n  1 AS x,\n  nope\nFROM (VALUES (1)) AS t(no_pe);\nSELECT 3 AS three;\n",
    );
    let ran = home.run(&["-q", "--format", "csv", "-f", "q.sql", "-c", "SELECT 4"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "one\n1\n"));
    assert!(ran.err.contains("\n  --> q.sql:5:3 (statement 2)\n"), "{}", ran.err);
    assert!(ran.err.contains("\n5 |   nope\n  |   ^^^^ column 'nope' not found"), "{}", ran.err);
    assert!(ran.err.contains("no_pe"), "no suggestion: {}", ran.err);

    let ran = home.run(&["-q", "-c", "SELECT 1 AS a; SELECT * FORM t"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: syntax error: ") && ran.err.contains("--> -c:1:"), "{}", ran.err);

    // What the cluster finds has no place, but the statement has.
    let ran = home.run_with(&["-q"], "SELECT 1;\nSELECT 1 / (x - 1) FROM generate_series(1, 3) AS t(x);");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("ivide by zero") && ran.err.contains("--> stdin:2 (statement 2)"), "{}", ran.err);
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let home = Home::new();
    for (arguments, code, part) in [
        (&["-f", "no.sql"][..], 1, "cannot read no.sql"),
        (&["-c", "\\nope"], 1, "unknown command \\nope"),
        (&["--rc", "no.rc", "-c", "SELECT 1"], 1, "cannot read no.rc"),
        (&["--format", "xml", "-c", "SELECT 1"], 2, "nd-json"),
        (&["--host", "127.0.0.1", "--port", "1", "-c", "SELECT 1"], 1, "cannot reach the scheduler"),
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{arguments:?}");
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn the_rc_file_runs_first_and_tells_nothing() {
    let home = Home::new();
    home.file(".ballistarc", "\\format csv\nCREATE TABLE t AS VALUES (7);\n");
    let other = home.file("other.rc", "\\format nd-json\n");
    let sql = "SELECT * FROM t";
    assert_eq!(home.run(&["-q", "-c", sql]).ok(), "column1\n7\n");
    assert!(home.run(&["-c", sql]).ok().starts_with("column1\n7\n1 row(s)"));
    assert_eq!(home.run(&["-q", "--rc", other.to_str().unwrap(), "-c", "SELECT 1 AS a"]).ok(), "{\"a\":1}\n");
    assert!(home.run(&["-q", "--no-rc", "-c", sql]).err.contains("table 't' not found"));
    home.file(".ballistarc", "SELECT nope");
    let ran = home.run(&["-q", "-c", "SELECT 1"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains(".ballistarc:1:8"), "{}", ran.err);
}

#[test]
fn all_rows_are_printed_where_nobody_looks_unless_asked_otherwise() {
    let home = Home::new();
    let sql = "SELECT x FROM generate_series(1, 20000) AS t(x)";
    assert_eq!(home.run(&["-q", "-c", sql]).ok().lines().count(), 20_004);
    assert_eq!(home.run(&["-q", "--format", "csv", "-c", sql]).ok().lines().count(), 20_001);
    let cut = home.run(&["-q", "--max-rows", "5", "-c", sql]).ok();
    assert!(cut.contains("(the first 5 of 20000 rows are shown, 19995 are not; all: "), "{cut}");
    assert_eq!(cut.lines().count(), 5 + 4 + 1);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let sql = "SELECT x FROM generate_series(1, 3000000) AS t(x)";
    let mut command = home.command(&["-q", "--format", "csv", "-c", sql]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn rows_go_to_a_file() {
    let home = Home::new();
    let script = "\\o rows.csv\n\\format csv\nSELECT 1 AS a;\n\\o\nSELECT 2 AS b;\n\\d\n";
    assert!(home.run_with(&["-q"], script).ok().starts_with("b\n2\n"));
    assert_eq!(std::fs::read_to_string(home.path("rows.csv")).unwrap(), "a\n1\n");
}

#[test]
fn a_plan_is_explained() {
    let home = Home::new();
    home.file("t.sql", "CREATE TABLE t AS VALUES (1), (2);");
    let out = home.run(&["-q", "-f", "t.sql", "explain", "SELECT sum(column1) FROM t;"]).ok();
    assert!(out.contains("physical_plan") && out.contains("Aggregate"), "{out}");
    let out = home.run(&["-q", "-f", "t.sql", "explain", "--analyze", "SELECT sum(column1) FROM t"]).ok();
    assert!(out.contains("DistributedQueryExec") && out.contains("output_rows=1"), "{out}");
    let ran = home.run(&["explain", "SELECT * FROM missing"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("^^^^^^^ table 'missing' not found"), "{}", ran.err);
}

#[test]
fn help_shows_how_to_begin() {
    let home = Home::new();
    let out = home.run(&["--help"]).ok();
    for part in ["Examples:", "--max-rows", "jobs", "executors", "cancel", "explain", "130 after Ctrl-C", "automatic"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(home.run(&["-q", "-c", "\\?"]).ok().contains("\\timing"));
}
