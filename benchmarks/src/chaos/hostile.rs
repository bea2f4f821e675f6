// SPDX-License-Identifier: Apache-2.0
//! Functions that harm the process they are called in, each in a way that a real function might.

use std::hint::black_box;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

/// What a hostile function says when it panics, to be found in the error of the query.
pub const PANIC: &str = "on purpose";

/// More than a process can address, so that no machine hands it out, however freely it promises memory.
const ALL_MEMORY: usize = 1 << 47;

/// The functions, of an `Int64` to an `Int64`. Each acts as soon as it is given a row, whatever is in it.
pub fn functions() -> Vec<ScalarUDF> {
    vec![
        function("panics", || panic!("{PANIC}")),
        function("aborts", || std::process::abort()),
        function("eats_stack", || {
            black_box(deeper(0));
        }),
        function("eats_memory", eat_memory),
        function("endless", || {
            let mut turns = 0_u64;
            loop {
                turns = black_box(turns.wrapping_add(1));
            }
        }),
    ]
}

/// A function that acts, and is volatile, so that no planner calls it.
fn function(name: &str, act: fn()) -> ScalarUDF {
    let body = move |arguments: &[ColumnarValue]| -> Result<ColumnarValue> {
        let is_called = match &arguments[0] {
            ColumnarValue::Array(values) => !values.is_empty(),
            ColumnarValue::Scalar(_) => true,
        };
        if is_called {
            act();
        }
        Ok(arguments[0].clone())
    };
    create_udf(name, vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(body))
}

/// Calls itself until the stack is full: the depth that would end it is never reached.
fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 512]);
    if frame[0] == u64::MAX {
        return 0;
    }
    // The frame is used after the call, which is therefore no loop.
    deeper(black_box(depth + 1)).wrapping_add(black_box(&frame)[511])
}

fn eat_memory() {
    let mut bytes = Vec::<u8>::with_capacity(black_box(ALL_MEMORY));
    bytes.push(1);
    black_box(bytes);
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_function_is_called_for_rows_and_by_no_planner() {
        let context = SessionContext::new();
        functions().into_iter().for_each(|function| context.register_udf(function));
        let text = "SELECT sum(aborts(a)) AS a, sum(endless(a)) AS b FROM (SELECT 1 AS a) AS t WHERE a > 1";
        let batches = context.sql(text).await.unwrap().collect().await.unwrap();
        assert_eq!(batches[0].num_rows(), 1);
        let frame = context.sql("SELECT panics(a) FROM (VALUES (1), (2)) AS t (a)").await.unwrap();
        assert!(tokio::spawn(frame.collect()).await.unwrap_err().is_panic());
    }
}
