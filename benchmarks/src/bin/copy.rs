// SPDX-License-Identifier: Apache-2.0
//! `copy`: writes a table as partitioned Parquet with several engines, side by side.

use std::path::{Path, PathBuf};

use ballista_benchmarks::engine::{Engine, EngineKind, SessionOptions, Setting};
use ballista_benchmarks::queries::Suite;
use clap::Parser;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::error::{DataFusionError, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes rows of TPC-H as partitioned Parquet, and compares the time with bare DataFusion's.
///
/// Every run writes a folder of its own below --target, is checked by its row count and by reading it back, and is
/// removed. Example: copy --data tpch-sf10 --engine datafusion,standalone --target /tmp/copies
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Folder with the tables of TPC-H, as `datagen` makes it
    #[arg(long)]
    data: PathBuf,
    /// Existing folder to write to
    #[arg(long)]
    target: PathBuf,
    /// Engines; the first one is what the others are compared with
    #[arg(long, value_delimiter = ',', default_values = ["datafusion", "standalone"])]
    engine: Vec<EngineKind>,
    /// Where the scheduler listens, for engine remote
    #[arg(long)]
    scheduler: Option<String>,
    /// The rows to write
    #[arg(long, default_value = "SELECT * FROM lineitem")]
    query: String,
    /// Columns whose values name the folders; none = not partitioned
    #[arg(long, value_delimiter = ',', default_value = "l_shipmode")]
    partition_by: Vec<String>,
    /// Counted runs of each engine, after one for warm-up
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// Partitions of bare DataFusion
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// Session settings, KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<Setting>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let session = SessionOptions {
        scheduler: options.scheduler.clone(),
        partitions: options.partitions,
        settings: options.settings.clone(),
    };
    let mut engines = Vec::new();
    for kind in &options.engine {
        engines.push((Engine::connect(*kind, &session, Suite::Tpch, &options.data).await?, Vec::new()));
    }
    for iteration in 0..=options.iterations {
        for (engine, seconds) in &mut engines {
            let folder = options.target.join(format!("copy-{}-{iteration}", engine.kind()));
            let outcome = copy(engine, &options, &folder).await;
            // Whatever there is goes; an error of the copy matters more than one of the removal.
            let removed = std::fs::remove_dir_all(&folder);
            let Written { rows, bytes, files, took } = outcome?;
            removed?;
            let mib = bytes >> 20;
            println!(
                "{:<12} run {iteration}: {took:7.3} s  {rows} rows, {mib} MiB in {files} files",
                engine.kind().name()
            );
            if iteration > 0 {
                seconds.push(took);
            }
        }
    }
    let mut base = None;
    for (engine, mut seconds) in engines {
        seconds.sort_by(f64::total_cmp);
        let Some(median) = seconds.get(seconds.len() / 2).copied() else { continue };
        let base = *base.get_or_insert(median);
        println!("{:<12} median {median:.3} s, ratio {:.2}", engine.kind().name(), median / base);
    }
    Ok(())
}

struct Written {
    rows: u64,
    bytes: u64,
    files: usize,
    took: f64,
}

async fn copy(engine: &Engine, options: &Options, folder: &Path) -> Result<Written> {
    let partitioned = match options.partition_by.as_slice() {
        [] => String::new(),
        columns => format!("PARTITIONED BY ({})", columns.join(", ")),
    };
    let target = folder.display();
    let text = format!("COPY ({}) TO '{target}/' STORED AS PARQUET {partitioned}", options.query);
    let run = engine.run(&text, true).await?;
    let rows: u64 = run.answers.iter().flat_map(|(_, answer)| &answer.batches).map(count).sum();
    let (bytes, files) = size(folder)?;
    let back = engine.context().read_parquet(format!("{target}/"), Default::default()).await?.count().await?;
    if back as u64 != rows {
        return Err(DataFusionError::Execution(format!("{back} rows were read back of {rows} that were written")));
    }
    Ok(Written { rows, bytes, files, took: run.seconds })
}

fn count(batch: &datafusion::arrow::array::RecordBatch) -> u64 {
    batch.column(0).as_primitive::<UInt64Type>().iter().flatten().sum()
}

fn size(folder: &Path) -> Result<(u64, usize)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let below = size(&entry.path())?;
            (bytes, files) = (bytes + below.0, files + below.1);
        } else {
            (bytes, files) = (bytes + entry.metadata()?.len(), files + 1);
        }
    }
    Ok((bytes, files))
}
