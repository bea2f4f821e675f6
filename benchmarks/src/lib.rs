// SPDX-License-Identifier: Apache-2.0
//! TPC-H and TPC-DS for Ballista: data, queries, comparison of answers, and a runner that times engines side by side.
//!
//! * [`queries`]: the query texts, compiled in, so that a clone needs nothing else.
//! * [`data`]: makes the tables as Parquet, once, in a cache directory that tests and benchmarks share.
//! * [`statements`]: splits a query text that holds several statements.
//! * [`compare`]: says whether two answers are equal, as far as SQL promises equality.
//! * [`engine`]: bare DataFusion, Ballista in-process, Ballista on a cluster, behind one type.
//! * [`bench`]: the runner behind the binaries `tpch` and `tpcds`.
//! * [`chaos`]: faults in a cluster of processes, behind the binary of that name.
//!
//! The binaries are `tpch`, `tpcds`, `datagen`, `copy`, `load` and `chaos`; `README.md` beside this crate tells how to read their figures.
//!
//! ```no_run
//! # async fn example() -> datafusion::error::Result<()> {
//! use ballista_benchmarks::{data, queries::Suite};
//! let dir = data::tpch_dir(0.01)?;
//! let ctx = datafusion::prelude::SessionContext::new();
//! data::register_tables(&ctx, Suite::Tpch, &dir).await?;
//! ctx.sql(ballista_benchmarks::queries::tpch(1).unwrap()).await?.show().await?;
//! # Ok(())
//! # }
//! ```

pub mod bench;
pub mod chaos;
pub mod compare;
pub mod data;
pub mod engine;
pub mod queries;
pub mod statements;
