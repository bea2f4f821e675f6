// SPDX-License-Identifier: Apache-2.0
//! Random tables: Parquet and CSV files in a folder, or rows in memory.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext, col};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::values::{Kind, array, data_type, fits_csv, special_floats, wide_ints};

/// How far the values of an expression may be trusted to be the same in every plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Equal but for rounding: must not decide which rows there are.
    Fuzzy,
    /// The same bits, but sums of it depend on their order or overflow.
    Exact,
    /// Small, and adds up exactly in any order.
    Tame,
}

/// A column of a table, or of a part of a query.
#[derive(Debug, Clone)]
pub struct Column {
    /// As it is written in SQL.
    pub sql: String,
    pub kind: Kind,
    pub trust: Trust,
    /// How likely two rows are to have the same value: the sum of the squared frequencies.
    pub clash: f64,
}

/// Where a table's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Parquet { partitioned: bool },
    Csv,
    Memory,
}

/// A random table.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub rows: usize,
    storage: Storage,
    sorted: bool,
    schema: Arc<Schema>,
    /// One or more per file or partition in memory.
    parts: Vec<RecordBatch>,
}

/// Two to four tables, whose key columns have `domain` values each.
pub fn tables(seed: u64) -> Vec<Table> {
    let mut rng = StdRng::seed_from_u64(seed);
    let domain = [3, 10, 50, 300][rng.random_range(0..4)];
    (0..rng.random_range(2..=4)).map(|number| table(&mut rng, number, domain)).collect()
}

fn table(rng: &mut StdRng, number: usize, domain: i64) -> Table {
    let rows = match rng.random_range(0..20) {
        0 => 0,
        1 => 1,
        2..6 => rng.random_range(2..20),
        6..14 => rng.random_range(20..200),
        _ => rng.random_range(200..=2000),
    };
    let storage = match rng.random_range(0..8) {
        0 => Storage::Csv,
        1..3 => Storage::Memory,
        3 => Storage::Parquet { partitioned: true },
        _ => Storage::Parquet { partitioned: false },
    };
    let mut cuts: Vec<usize> = (0..rng.random_range(0..5)).map(|_| rng.random_range(0..=rows)).collect();
    cuts.extend([0, rows]);
    cuts.sort_unstable();
    let mut maker = Maker { rng, rows, storage, fields: vec![], arrays: vec![], columns: vec![] };
    let sorted = maker.rng.random_bool(0.3);
    maker.id(sorted, &cuts);
    maker.random_column("k", Kind::Int, domain);
    maker.random_column("s", Kind::Text, domain);
    for extra in 0..maker.rng.random_range(2..=5) {
        let kind = Kind::ALL[maker.rng.random_range(0..Kind::ALL.len())];
        let values = [2, domain, 100][maker.rng.random_range(0..3)];
        let name = if maker.rng.random_bool(0.1) { format!("An odd.{extra}") } else { format!("c{extra}") };
        maker.random_column(&name, kind, values);
    }
    let Maker { fields, arrays, mut columns, .. } = maker;
    let schema = Arc::new(Schema::new(fields));
    let all = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    let parts: Vec<_> = cuts.windows(2).map(|cut| all.slice(cut[0], cut[1] - cut[0])).collect();
    if storage == (Storage::Parquet { partitioned: true }) {
        let clash = 1.0 / parts.len() as f64;
        columns.push(Column { sql: "\"part\"".to_owned(), kind: Kind::Int, trust: Trust::Tame, clash });
    }
    Table { name: format!("t{number}"), columns, rows, storage, sorted, schema, parts }
}

struct Maker<'a> {
    rng: &'a mut StdRng,
    rows: usize,
    storage: Storage,
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
    columns: Vec<Column>,
}

impl Maker<'_> {
    /// `sorted`: within each of the parts between `cuts`, which may overlap.
    fn id(&mut self, sorted: bool, cuts: &[usize]) {
        let mut ids: Vec<i64> = (0..self.rows as i64).collect();
        if !sorted || self.rng.random_bool(0.5) {
            ids.shuffle(self.rng);
        }
        if sorted {
            cuts.windows(2).for_each(|cut| ids[cut[0]..cut[1]].sort_unstable());
        }
        let clash = 1.0 / self.rows.max(1) as f64;
        self.add("id", Arc::new(Int64Array::from(ids)), false, Kind::Int, Trust::Tame, clash);
    }

    fn random_column(&mut self, name: &str, mut kind: Kind, domain: i64) {
        let mut of = data_type(kind, self.rng);
        while self.storage == Storage::Csv && !fits_csv(&of) {
            if kind != Kind::Text {
                kind = Kind::ALL[self.rng.random_range(0..Kind::ALL.len())];
            }
            of = data_type(kind, self.rng);
        }
        let nulls = [0.0, 0.1, 0.1, 0.4, 1.0][if self.rng.random_bool(0.03) { 4 } else { self.rng.random_range(0..4) }];
        let hot = [0.0, 0.0, 0.3, 0.8][self.rng.random_range(0..4)];
        let rng = &mut *self.rng;
        let values: Vec<Option<i64>> = (0..self.rows)
            .map(|_| {
                let value = if rng.random_bool(hot) { 1 } else { rng.random_range(0..domain) };
                (!rng.random_bool(nulls)).then_some(value)
            })
            .collect();
        let distinct = if kind == Kind::Bool { 2 } else { domain };
        let clash = f64::max(hot * hot + (1.0 - hot) * (1.0 - hot) / distinct as f64, nulls * nulls);
        let wild = self.rng.random_bool(0.1);
        let (values, trust, clash) = match kind {
            Kind::Int if wild => (wide_ints(&of, &values), Trust::Exact, clash.max(0.2)),
            Kind::Float if wild => (special_floats(&values), Trust::Exact, clash.max(0.2)),
            _ => (array(&of, &values), Trust::Tame, clash),
        };
        self.add(name, values, true, kind, trust, clash);
    }

    fn add(&mut self, name: &str, values: ArrayRef, nullable: bool, kind: Kind, trust: Trust, clash: f64) {
        self.fields.push(Field::new(name, values.data_type().clone(), nullable));
        self.arrays.push(values);
        self.columns.push(Column { sql: format!("\"{name}\""), kind, trust, clash });
    }
}

impl Table {
    /// Writes the table's files, if it has any, and registers it.
    pub async fn register(&self, folder: &Path, contexts: &[&SessionContext]) -> Result<()> {
        let folder = folder.join(&self.name);
        let order = if self.sorted { vec![vec![col("id").sort(true, false)]] } else { vec![] };
        match self.storage {
            Storage::Memory => {
                let partitions = self.parts.iter().map(|part| vec![part.clone()]).collect();
                let table = Arc::new(MemTable::try_new(self.schema.clone(), partitions)?.with_sort_order(order));
                for context in contexts {
                    context.register_table(self.name.as_str(), table.clone())?;
                }
            }
            Storage::Csv => {
                self.write_files(&folder, "csv", write_csv)?;
                for context in contexts {
                    let options = CsvReadOptions::new().schema(&self.schema).file_sort_order(order.clone());
                    context.register_csv(self.name.as_str(), &location(&folder), options).await?;
                }
            }
            Storage::Parquet { partitioned } => {
                self.write_files(&folder, "parquet", write_parquet)?;
                for context in contexts {
                    let mut options = ParquetReadOptions::default().file_sort_order(order.clone());
                    if partitioned {
                        options = options.table_partition_cols(vec![("part".to_owned(), DataType::Int32)]);
                    }
                    context.register_parquet(self.name.as_str(), location(&folder), options).await?;
                }
            }
        }
        Ok(())
    }

    fn write_files(&self, folder: &Path, extension: &str, write: fn(&Path, &RecordBatch) -> Result<()>) -> Result<()> {
        for (number, part) in self.parts.iter().enumerate() {
            let folder = match self.storage {
                Storage::Parquet { partitioned: true } => folder.join(format!("part={number}")),
                _ => folder.to_owned(),
            };
            fs::create_dir_all(&folder)?;
            write(&folder.join(format!("{number}.{extension}")), part)?;
        }
        Ok(())
    }

    /// For the report of a failure.
    pub fn describe(&self) -> String {
        let fields = self.schema.fields().iter().map(|field| format!("\"{}\" {}", field.name(), field.data_type()));
        let parts = self.parts.iter().map(|part| part.num_rows().to_string()).collect::<Vec<_>>().join("+");
        let sorted = if self.sorted { ", sorted by id" } else { "" };
        let fields = fields.collect::<Vec<_>>().join(", ");
        format!("{} ({fields}): {:?}, {parts} rows{sorted}", self.name, self.storage)
    }
}

fn location(folder: &Path) -> String {
    format!("{}/", folder.display())
}

fn write_csv(path: &Path, rows: &RecordBatch) -> Result<()> {
    csv::WriterBuilder::new().build(File::create(path)?).write(rows)?;
    Ok(())
}

fn write_parquet(path: &Path, rows: &RecordBatch) -> Result<()> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(150)).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, rows.schema(), Some(properties))?;
    writer.write(rows)?;
    writer.close()?;
    Ok(())
}
