// SPDX-License-Identifier: Apache-2.0
//! Random settings of a session on the cluster.

use std::fmt;

use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Values to choose from, and how often the default stays.
type Choice = (&'static str, &'static [&'static str], f64);

const CHOICES: &[Choice] = &[
    ("ballista.shuffle.memory_tier", &["false"], 0.5),
    ("ballista.planner.broadcast_bytes", &["0", "3000"], 0.4),
    ("ballista.planner.adaptive", &["false"], 0.8),
    ("ballista.planner.range_sort_bytes", &["0"], 0.4),
    ("ballista.shuffle.bucket_bytes", &["300", "5000"], 0.4),
    ("ballista.shuffle.read_bytes", &["100", "2000"], 0.3),
    ("ballista.shuffle.compression", &["none", "zstd"], 0.5),
    ("ballista.client.inline_result_bytes", &["0", "1000"], 0.5),
    ("datafusion.execution.batch_size", &["64", "7"], 0.3),
    ("datafusion.execution.parquet.pushdown_filters", &["true"], 0.7),
    ("datafusion.execution.skip_partial_aggregation_probe_rows_threshold", &["10"], 0.8),
    ("datafusion.execution.collect_statistics", &["false"], 0.8),
    ("datafusion.optimizer.prefer_hash_join", &["false"], 0.85),
    ("datafusion.optimizer.prefer_existing_sort", &["true"], 0.85),
    ("datafusion.optimizer.prefer_existing_union", &["true"], 0.85),
    ("datafusion.optimizer.repartition_file_min_size", &["100"], 0.7),
    ("datafusion.optimizer.enable_dynamic_filter_pushdown", &["false"], 0.8),
    ("datafusion.optimizer.enable_window_topn", &["true"], 0.85),
    ("datafusion.optimizer.preserve_file_partitions", &["1"], 0.9),
];

/// Keys and values, beside that everything is distributed.
#[derive(Debug)]
pub struct Settings(Vec<(&'static str, &'static str)>);

/// The settings that belong to `seed`.
pub fn settings(seed: u64) -> Settings {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut chosen = vec![("ballista.planner.single_task_bytes", "0")];
    for (key, values, default) in CHOICES {
        if !rng.random_bool(*default) {
            chosen.push((*key, values[rng.random_range(0..values.len())]));
        }
    }
    Settings(chosen)
}

impl Settings {
    /// Sets all of them in `context`.
    pub async fn apply(&self, context: &SessionContext) -> Result<()> {
        self.set("", context).await
    }

    /// Sets those that bare DataFusion knows.
    pub async fn apply_to_bare(&self, context: &SessionContext) -> Result<()> {
        self.set("datafusion.", context).await
    }

    async fn set(&self, prefix: &str, context: &SessionContext) -> Result<()> {
        for (key, value) in self.0.iter().filter(|(key, _)| key.starts_with(prefix)) {
            context.sql(&format!("SET {key} = '{value}'")).await?;
        }
        Ok(())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        write!(f, "{}", pairs.join(" "))
    }
}
