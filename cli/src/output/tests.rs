// SPDX-License-Identifier: Apache-2.0

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;

/// What was printed.
#[derive(Clone, Default)]
pub(crate) struct Paper(Rc<RefCell<Vec<u8>>>);

impl Paper {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn settings(format: Format, quiet: bool) -> Settings {
    Settings { format, max_rows: None, expanded: false, quiet, timing: true }
}

/// Prints batches, to a terminal if there is a width.
fn print(settings: Settings, width: Option<usize>, batches: &[RecordBatch]) -> String {
    let paper = Paper::default();
    let mut printer = Printer::new(Destination::of(paper.clone(), width), settings);
    let mut result = printer.start(batches[0].schema(), FormatSettings::default());
    for batch in batches {
        result.add(batch).unwrap();
    }
    result.finish(Duration::from_millis(1500)).unwrap();
    paper.text()
}

/// Batches of one row each: null, 1, 2, …
fn numbers(rows: usize) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let batch = |values: Vec<Option<i64>>| {
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values))]).unwrap()
    };
    let rows = (0..rows).map(|row| batch(vec![(row > 0).then_some(row as i64)]));
    std::iter::once(batch(vec![])).chain(rows).collect()
}

fn texts(columns: &[(&str, &[&str])]) -> Vec<RecordBatch> {
    let column = |(name, values): &(&str, &[&str])| {
        ((*name).to_owned(), Arc::new(StringArray::from(values.to_vec())) as arrow::array::ArrayRef)
    };
    vec![RecordBatch::try_from_iter(columns.iter().map(column)).unwrap()]
}

#[test]
fn every_format_prints_rows_and_no_rows() {
    let print = |format, rows| print(settings(format, true), None, &numbers(rows));
    assert_eq!(print(Format::Csv, 2), "n\n\"\"\n1\n");
    assert_eq!(print(Format::Csv, 0), "n\n");
    assert_eq!(print(Format::Automatic, 2), "n\n\"\"\n1\n");
    assert_eq!(print(Format::Json, 2), "[{\"n\":null},{\"n\":1}]\n");
    assert_eq!(print(Format::Json, 0), "[]\n");
    assert_eq!(print(Format::NdJson, 2), "{\"n\":null}\n{\"n\":1}\n");
    assert_eq!(print(Format::NdJson, 0), "");
    assert_eq!(print(Format::Table, 1), "+---+\n| n |\n+---+\n|   |\n+---+\n");
    assert_eq!(print(Format::Table, 0), "+---+\n| n |\n+---+\n+---+\n");
    let tsv = texts(&[("a", &["x\ty"]), ("b", &["z"])]);
    assert_eq!(super::tests::print(settings(Format::Tsv, true), None, &tsv), "a\tb\n\"x\ty\"\tz\n");
}

#[test]
fn the_time_is_told_unless_quiet_or_turned_off() {
    let text = print(settings(Format::Tsv, false), None, &numbers(2));
    assert!(text.ends_with("2 row(s) fetched.\nElapsed 1.500 seconds.\n\n"), "{text}");
    let text = print(Settings { timing: false, ..settings(Format::Tsv, false) }, None, &numbers(2));
    assert!(text.ends_with("1\n2 row(s) fetched.\n\n"), "{text}");
}

#[test]
fn a_table_on_a_terminal_shows_its_first_rows_and_says_how_many_there_are() {
    let text = print(settings(Format::Automatic, false), Some(80), &numbers(100));
    assert!(text.contains("| 39 |\n+----+\n(the first 40 of 100 rows are shown, 60 are not; all: "), "{text}");
    assert!(text.contains("100 row(s) fetched"), "{text}");
    let all = print(Settings { max_rows: Some(0), ..settings(Format::Table, false) }, Some(80), &numbers(100));
    assert!(all.contains("| 99 |\n+----+\n100 row(s)"), "{all}");
    let exact = print(settings(Format::Table, true), Some(80), &numbers(40));
    assert!(exact.ends_with("| 39 |\n+----+\n"), "{exact}");
    let asked = print(Settings { max_rows: Some(3), ..settings(Format::Table, true) }, None, &numbers(9));
    assert!(asked.ends_with(
        "| 2 |\n+---+\n(the first 3 of 9 rows are shown, 6 are not; all: --max-rows 0, \\pset maxrows 0)\n"
    ));
}

#[test]
fn a_long_table_is_whole_where_nobody_looks() {
    let text = print(settings(Format::Table, true), None, &numbers(10_000));
    assert_eq!(text.lines().count(), 10_000 + 4);
    assert!(text.ends_with("| 9999 |\n+------+\n"), "{}", &text[text.len() - 50..]);
}

#[test]
fn values_are_cut_to_the_terminal() {
    let long = "x".repeat(100);
    let batches = texts(&[("short", &["a", "b"]), ("long", &[&long, "ö"]), ("more", &[&long, ""])]);
    let text = print(settings(Format::Table, true), Some(60), &batches);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().take(lines.len() - 1).all(|line| console::measure_text_width(line) <= 60), "{text}");
    assert!(console::measure_text_width(lines[0]) >= 57, "{text}");
    assert!(text.contains("xx… |") && text.contains("| a     |"), "{text}");
    assert!(text.ends_with("(values are cut to the width of the terminal; whole: \\x)\n"), "{text}");
    assert!(print(settings(Format::Table, true), None, &batches).contains(&long));
}

#[test]
fn columns_that_do_not_fit_are_left_out() {
    let names: Vec<_> = (0..30).map(|number| format!("column{number}")).collect();
    let columns: Vec<_> = names.iter().map(|name| (name.as_str(), &["value"][..])).collect();
    let text = print(settings(Format::Table, true), Some(80), &texts(&columns));
    assert!(text.lines().take(5).all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("| colum… | colum…") && text.contains("| … |") && !text.contains("column29"), "{text}");
    assert!(text.contains(" of 30 columns are shown"), "{text}");
    let expanded = Settings { expanded: true, ..settings(Format::Table, true) };
    let text = print(expanded, Some(80), &texts(&columns));
    assert!(text.starts_with("-[ row 1 ]-----") && text.contains("\ncolumn29 | value\n"), "{text}");
}

#[test]
fn lines_and_control_characters_of_a_value_do_not_break_the_table() {
    let batches = texts(&[("t", &["a\n\u{1b}[2Jb\tc"]), ("日本", &["語"])]);
    let text = print(settings(Format::Table, true), None, &batches);
    let widths: Vec<_> = text.lines().map(console::measure_text_width).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    assert!(text.contains("\\u{1b}[2Jb    c"), "{text}");
    let expanded = Settings { expanded: true, ..settings(Format::Table, true) };
    assert!(print(expanded, None, &batches).contains("t    | a\n     | \\u{1b}"));
}

#[test]
fn a_plan_is_shown_whole() {
    let long = "Exec\n".repeat(100) + &"x".repeat(300);
    let long = long.as_str();
    let text =
        print(settings(Format::Table, true), Some(60), &texts(&[("plan_type", &["p"; 50]), ("plan", &[long; 50])]));
    assert!(text.contains(&"x".repeat(300)) && !text.contains("(the first"));
}

#[test]
fn rows_can_go_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv");
    let paper = Paper::default();
    let mut printer = Printer::new(Destination::of(paper.clone(), Some(80)), settings(Format::Automatic, false));
    printer.redirect(Some(&file)).unwrap();
    for redirected in [true, false] {
        let batches = numbers(2);
        let mut result = printer.start(batches[0].schema(), FormatSettings::default());
        batches.iter().for_each(|batch| result.add(batch).unwrap());
        result.finish(Duration::ZERO).unwrap();
        assert_eq!(paper.text().contains("| n |"), !redirected);
        printer.redirect(None).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "n\n\"\"\n1\n");
    assert!(paper.text().starts_with("2 row(s) fetched."));
    assert!(printer.redirect(Some(folder.path())).is_err());
}
