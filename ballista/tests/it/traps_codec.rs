// SPDX-License-Identifier: Apache-2.0
//! What `datafusion-proto` loses on the way of a plan, and what does not fit into a message: each must arrive.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions};

use crate::pair::{Pair, broadcasting, run, shuffling};

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn write_gzip(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut gzip = Command::new("gzip").stdin(Stdio::piped()).stdout(File::create(path).unwrap()).spawn().unwrap();
    gzip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(gzip.wait().unwrap().success());
}

#[tokio::test]
async fn options_of_csv_files_reach_the_tasks() {
    let pair = Pair::new().await;
    for number in 0..3 {
        let n = number * 10;
        write(&pair.path(&format!("odd/{number}.csv")), &format!("a;b;c\n{n};'x;\\'y';1\n# no row\n{};'',;\n", n + 1));
        write(&pair.path(&format!("lines/{number}.csv")), &format!("{n}|x${}|z$", n + 1));
        write(&pair.path(&format!("broken/{number}.csv")), &format!("a,b\n{n},\"two\nlines\"\n{},x\n", n + 1));
        write(&pair.path(&format!("short/{number}.csv")), &format!("a,b,c\n{n},1,2\n{},\n", n + 1));
        write_gzip(&pair.path(&format!("zipped/{number}.csv.gz")), &format!("a,b\n{n},x\n{},\n", n + 1));
    }
    let folder = |name: &str| format!("{}/", pair.path(name).display());
    let columns = Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
    for context in pair.all() {
        let odd = CsvReadOptions::new().delimiter(b';').quote(b'\'').escape(b'\\').comment(b'#');
        context.register_csv("odd", &folder("odd"), odd).await.unwrap();
        // DataFusion does not look for the terminator when it infers a schema.
        let lines = CsvReadOptions::new().has_header(false).delimiter(b'|').terminator(Some(b'$')).schema(&columns);
        context.register_csv("lines", &folder("lines"), lines).await.unwrap();
        let broken = CsvReadOptions::new().newlines_in_values(true);
        context.register_csv("broken", &folder("broken"), broken).await.unwrap();
        let short = CsvReadOptions::new().truncated_rows(true);
        context.register_csv("short", &folder("short"), short).await.unwrap();
        let zipped = CsvReadOptions::new().file_extension(".csv.gz").file_compression_type(FileCompressionType::GZIP);
        context.register_csv("zipped", &folder("zipped"), zipped).await.unwrap();
    }
    for table in ["odd", "lines", "broken", "short", "zipped"] {
        pair.check_spread(&format!("SELECT * FROM {table}")).await;
    }
    pair.check("SELECT odd.a, zipped.b FROM odd JOIN zipped ON odd.a = zipped.a").await;
}

#[tokio::test]
async fn options_of_json_files_reach_the_tasks() {
    let pair = Pair::new().await;
    for number in 0..3 {
        let rows = format!("{{\"a\":{number},\"b\":[1,null]}}\n{{\"b\":[],\"c\":\"x\"}}\n");
        write_gzip(&pair.path(&format!("zipped/{number}.json.gz")), &rows);
        let array = format!("[{{\"a\":{number},\"b\":\"x\"}}, {{\"a\":null}}]");
        write(&pair.path(&format!("arrays/{number}.json")), &array);
    }
    for context in pair.all() {
        let zipped =
            JsonReadOptions::default().file_extension(".json.gz").file_compression_type(FileCompressionType::GZIP);
        context.register_json("zipped", format!("{}/", pair.path("zipped").display()), zipped).await.unwrap();
        let arrays = JsonReadOptions::default().newline_delimited(false);
        context.register_json("arrays", format!("{}/", pair.path("arrays").display()), arrays).await.unwrap();
    }
    pair.check_spread("SELECT a, b, c FROM zipped").await;
    pair.check_spread("SELECT a, b FROM arrays").await;
    pair.check("SELECT arrays.b, count(*) FROM arrays JOIN zipped USING (a) GROUP BY arrays.b").await;
}

/// Files that are sorted are not sorted again, so they must be read in their order.
#[tokio::test]
async fn sorted_files_are_read_in_their_order() {
    let pair = Pair::new().await;
    pair.parquet("rows", "SELECT x AS id, x % 7 AS k FROM generate_series(1, 2000) AS t(x)", 5).await;
    let location = pair.path("rows");
    let columns = "(id BIGINT NOT NULL, k BIGINT NOT NULL)";
    pair.run(&format!(
        "CREATE EXTERNAL TABLE sorted {columns} STORED AS PARQUET WITH ORDER (id ASC) LOCATION '{}/'",
        location.display()
    ))
    .await;
    for sql in [
        "SELECT id, k FROM sorted ORDER BY id",
        "SELECT id FROM sorted ORDER BY id LIMIT 7 OFFSET 1000",
        "SELECT id FROM sorted WHERE k = 3 ORDER BY id LIMIT 30",
        "SELECT id, row_number() OVER (ORDER BY id) AS n FROM sorted ORDER BY n DESC LIMIT 9",
        "SELECT a.id FROM sorted a JOIN sorted b ON a.id = b.id AND b.k = 2 ORDER BY a.id",
    ] {
        pair.check_ordered(sql).await;
    }
    for sql in ["SELECT id, count(*) FROM sorted GROUP BY id", "SELECT id, lag(k) OVER (ORDER BY id) FROM sorted"] {
        pair.check(sql).await;
    }
}

/// Names of columns and files, values of partition columns: text that a codec might take apart.
#[tokio::test]
async fn unusual_names_arrive_as_they_are() {
    let pair = Pair::new().await;
    for (number, part) in ["a b", "50%25", "ä;?#"].into_iter().enumerate() {
        write(&pair.path(&format!("odd names/p={part}/f {number}%.csv")), "\"x.y\",\"A b\"\n1,2\n3,4\n");
    }
    let location = format!("{}/", pair.path("odd names").display());
    pair.run(&format!("CREATE EXTERNAL TABLE odd STORED AS CSV PARTITIONED BY (p) LOCATION '{location}'")).await;
    pair.check_spread("SELECT * FROM odd").await;
    pair.check("SELECT p, sum(\"x.y\" + \"A b\") FROM odd GROUP BY p").await;
    pair.check("SELECT \"A b\" FROM odd WHERE p = '50%25'").await;
}

/// `datafusion-proto` keeps 32 bits of most limits.
#[tokio::test]
async fn limits_beyond_32_bits_are_kept() {
    let pair = Pair::new().await;
    pair.parquet("t", "SELECT x AS id, x % 3 AS k FROM generate_series(1, 500) AS t(x)", 4).await;
    for context in pair.all() {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50));
        context.register_batch("m", RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
    }
    let (full, plus) = (1_u64 << 32, (1_u64 << 32) + 3);
    for limit in [full, plus, i64::MAX as u64] {
        for sql in [
            "SELECT id FROM t",
            "SELECT id FROM m",
            "SELECT id FROM t WHERE k = 1",
            "SELECT id FROM t UNION ALL SELECT id FROM m",
            "SELECT k, count(*) FROM t GROUP BY k",
            "SELECT a.id FROM t a JOIN t b ON a.id = b.k",
        ] {
            pair.check(&format!("{sql} LIMIT {limit}")).await;
        }
        pair.check(&format!("SELECT count(*) FROM (SELECT id FROM t LIMIT {limit})")).await;
        pair.check_ordered(&format!("SELECT id FROM t ORDER BY k, id LIMIT {limit}")).await;
    }
    for skipped in [full, plus] {
        pair.check(&format!("SELECT id FROM t OFFSET {skipped}")).await;
        pair.check(&format!("SELECT id FROM t ORDER BY id LIMIT 10 OFFSET {skipped}")).await;
    }
}

/// Protocol buffers refuse what is nested more than 100 deep, and recursion needs stack: DataFusion's planning in the
/// client more than a test's thread has.
#[test]
fn deep_expressions_and_deep_plans_run() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(32 << 20).build();
    let run = move || runtime().unwrap().block_on(deep_expressions_and_deep_plans());
    std::thread::Builder::new().stack_size(32 << 20).spawn(run).unwrap().join().unwrap();
}

async fn deep_expressions_and_deep_plans() {
    let deep = || broadcasting().set_usize("datafusion.sql_parser.recursion_limit", 2000);
    let pair = Pair::with_sessions([("deep", deep())]).await;
    pair.plain.sql("SET datafusion.sql_parser.recursion_limit = 2000").await.unwrap();
    pair.parquet("t", "SELECT x AS id, x % 3 AS k FROM generate_series(1, 300) AS t(x)", 4).await;

    // Operators that take turns cannot be written as one list of operands.
    let mut alternating = "id".to_owned();
    let mut nested = "id".to_owned();
    for number in 0..300 {
        write!(alternating, " {} {}", if number % 2 == 0 { "+ k -" } else { "- k +" }, number % 5).unwrap();
        nested = format!("abs({nested} - k)");
    }
    pair.check_spread(&format!("SELECT {alternating} FROM t")).await;
    pair.check_spread(&format!("SELECT k, sum({nested}) FROM t GROUP BY k")).await;
    let either: Vec<_> = (0..400).map(|n| format!("(id = {n} AND k <> {})", n % 4)).collect();
    pair.check_spread(&format!("SELECT id FROM t WHERE {}", either.join(" OR "))).await;
    let mut cases = "0".to_owned();
    for number in 0..100 {
        cases = format!("CASE WHEN id = {number} THEN k ELSE {cases} END");
    }
    pair.check_spread(&format!("SELECT id, {cases} FROM t")).await;

    let mut plan = "SELECT id, k FROM t".to_owned();
    for level in 0..30 {
        plan = format!("SELECT id, max(k) + {level} AS k FROM ({plan}) GROUP BY id");
    }
    pair.check(&plan).await;
    let mut joins = "SELECT a0.id FROM t a0".to_owned();
    for level in 1..12 {
        write!(joins, " JOIN t a{level} ON a{level}.id = a{}.id", level - 1).unwrap();
    }
    pair.check_spread(&joins).await;
}

/// gRPC refuses messages of more than 4 MiB unless told otherwise, DESIGN knows a cap of 16 MiB.
#[tokio::test]
async fn plans_may_be_larger_than_a_message() {
    let pair = Pair::with_sessions([("broadcasting", broadcasting()), ("shuffling", shuffling())]).await;
    let rows = 40_000_i64;
    let text = |id: i64| format!("{:0>1000}", id.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64));
    let batches: Vec<_> = (0..4)
        .map(|part| {
            let ids = part * rows / 4..(part + 1) * rows / 4;
            let texts: StringArray = ids.clone().map(|id| Some(text(id))).collect();
            let ids: ArrayRef = Arc::new(ids.collect::<Int64Array>());
            RecordBatch::try_from_iter([("id", ids), ("v", Arc::new(texts))]).unwrap()
        })
        .collect();
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(bytes > 32 << 20);
    for context in pair.all() {
        let partitions = batches.iter().map(|batch| vec![batch.clone()]).collect();
        let table = MemTable::try_new(batches[0].schema(), partitions).unwrap();
        context.register_table("large", Arc::new(table)).unwrap();
    }
    pair.check_spread("SELECT count(*), max(v), sum(length(v)) FROM large WHERE id % 2 = 0").await;

    pair.parquet("t", "SELECT 'key ' || x AS id FROM generate_series(1, 1000) AS t(x)", 4).await;
    let keys: Vec<_> = (0..20_000).map(|n| format!("'key {}{}'", n * 7, " ".repeat(1000))).collect();
    let sql = format!("SELECT count(*) FROM t WHERE id NOT IN ({})", keys.join(", "));
    assert!(sql.len() > 17 << 20);
    let (name, session) = &pair.sessions[0];
    let (rows, summary) = run(session, &sql).await.unwrap();
    let count = rows[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0);
    assert_eq!(count, 1000, "{name}");
    assert!(summary.is_some(), "it ran in the client");
}

/// Keys and rows of types with values that a codec may narrow.
#[tokio::test]
async fn values_in_plans_arrive_exactly() {
    let pair = Pair::new().await;
    pair.parquet("t", "SELECT x AS id FROM generate_series(1, 40) AS t(x)", 4).await;
    for value in [
        "CAST('NaN' AS DOUBLE)",
        "CAST('-Infinity' AS FLOAT)",
        "CAST(0.1 AS FLOAT)",
        "1.7976931348623157e308",
        "CAST('99999999999999999999999999999999999.999' AS DECIMAL(38, 3))",
        "CAST('-0.0000000001' AS DECIMAL(20, 10))",
        "TIMESTAMP '2024-02-29T23:59:59.123456789'",
        "arrow_cast('2024-02-29T23:59:59.123', 'Timestamp(Millisecond, Some(\"+05:45\"))')",
        "INTERVAL '1 month 3 days 4 hours 0.000007 seconds'",
        "arrow_cast(X'00ff80', 'BinaryView')",
        "arrow_cast('text that is longer than a view holds', 'Utf8View')",
        "arrow_cast('x', 'Dictionary(Int8, Utf8)')",
        "arrow_cast(9223372036854775807, 'UInt64') + CAST(1 AS BIGINT UNSIGNED)",
        "make_array(make_array(1, NULL), NULL, make_array())",
        "named_struct('a', 1, 'b', named_struct('c', NULL, 'd', 'x'))",
        "MAP {'a': 1, 'b': NULL}",
        "CAST(NULL AS DATE)",
        "''",
    ] {
        pair.check_spread(&format!("SELECT id, {value} AS v FROM t")).await;
    }
}
