// SPDX-License-Identifier: Apache-2.0
//! The program `tpch` as a process of its own: what it prints and writes, and its exit codes.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use ballista_benchmarks::data::tpch_dir;
use ballista_benchmarks::queries::Suite;
use serde_json::Value;

/// Exit code, standard output and standard error of a run to the end.
fn tpch(data: &Path, arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpch"));
    command.arg("--data").arg(data).args(arguments.split_whitespace());
    let output = command.env_remove("BALLISTA_SCHEDULER").env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn engines_run_side_by_side_and_every_counted_run_is_a_json_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runs.json");
    let arguments = format!(
        "--engine datafusion,standalone --query 1,6 --iterations 2 --verify --output {} \
         --set ballista.planner.single_task_bytes=0",
        file.display()
    );
    let (code, out, err) = tpch(&tpch_dir(0.01).unwrap(), &arguments);
    assert_eq!(code, Some(0), "{out}{err}");
    for text in ["2 queries, 2 runs each after 1 for warm-up", "datafusion [s]", "standalone [s]", "ratio", "total"] {
        assert!(out.contains(text), "{text} is not in {out}");
    }
    assert!(out.ends_with("all answers are right\n"), "{out}");

    let text = std::fs::read_to_string(&file).unwrap();
    let mut runs = vec![];
    for line in text.lines() {
        let run: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&run["suite"], run.get("error")), (&Value::from("tpch"), None), "{line}");
        assert!(run["seconds"].as_f64().unwrap() > 0.0, "{line}");
        let figures = ["query", "iteration", "rows"].map(|field| run[field].as_u64().unwrap());
        let engine = run["engine"].as_str().unwrap().to_owned();
        let work = ["bytes_exchanged", "stages", "tasks"].map(|field| run[field].as_u64().unwrap());
        assert_eq!(work.map(|figure| figure > 0), [engine == "standalone"; 3], "{line}");
        runs.push((figures, engine));
    }
    runs.sort();
    let expected = |query, iteration, rows| {
        ["datafusion", "standalone"].map(|engine| ([query, iteration, rows], engine.to_owned()))
    };
    assert_eq!(runs, [expected(1, 1, 4), expected(1, 2, 4), expected(6, 1, 1), expected(6, 2, 1)].concat());
}

#[test]
fn a_query_that_fails_is_told_and_written_down_and_the_others_run() {
    let good = tpch_dir(0.01).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for table in Suite::Tpch.tables() {
        // Without its columns, lineitem cannot be queried.
        let source = if *table == "lineitem" { "region" } else { table };
        let link = folder.path().join(format!("{table}.parquet"));
        symlink(good.join(format!("{source}.parquet")), link).unwrap();
    }
    let file = folder.path().join("runs.json");
    for (warmup, first) in [(1, 0), (0, 1)] {
        let arguments = format!("--query 2,6 --iterations 2 --warmup {warmup} --output {}", file.display());
        let (code, out, err) = tpch(folder.path(), &arguments);
        assert_eq!(code, Some(1), "{out}{err}");
        let failed = out.lines().find(|line| line.starts_with("FAILED q6 datafusion: ")).unwrap();
        assert!(failed.contains("l_shipdate") && out.ends_with("\n1 failed\n"), "{out}");
        let text = std::fs::read_to_string(&file).unwrap();
        let runs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let numbers: Vec<_> = runs.iter().map(|run| (run["query"].as_u64(), run["iteration"].as_u64())).collect();
        assert_eq!(numbers, [(2, 1), (2, 2), (6, first)].map(|(query, iteration)| (Some(query), Some(iteration))));
        assert_eq!((&runs[2]["seconds"], &runs[2]["rows"]), (&Value::Null, &Value::Null));
        assert!(runs[2]["error"].as_str().unwrap().contains("l_shipdate"), "{text}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_a_message() {
    let data = tpch_dir(0.01).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let cases = [
        (&*data, "--query 23", "tpch has no query 23"),
        (&*data, "--query 30-40", "no query of tpch is selected"),
        (&*data, "--query five", "\"five\" is not a query"),
        (&*data, "--engine standalone --timeout 0", "engine standalone cannot be used"),
        (&*data, "--engine remote", "engine remote needs --scheduler df://HOST:PORT"),
        (&*data, "--iterations 0", "--iterations"),
        (&*data, "--set spark.x=1", "\"spark.x\" is not a session key"),
        (&*data, "--engine standalone --set ballista.no.such=1", "ballista.no.such"),
        (&*data, "--output /no/such/folder/runs.json", "/no/such/folder/runs.json"),
        (empty.path(), "", "table \"region\" is missing"),
        (Path::new("/no/such/folder"), "", "data directory /no/such/folder cannot be opened"),
    ];
    for (data, arguments, message) in cases {
        let (code, out, err) = tpch(data, arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments}: {err}");
        // A cluster that is given up may have logged something before.
        assert!(err.lines().any(|line| line.starts_with("error: ")) && err.contains(message), "{arguments}: {err}");
    }
}
