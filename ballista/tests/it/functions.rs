// SPDX-License-Identifier: Apache-2.0
//! Functions of the application, registered on the context after the cluster was started.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, PartitionEvaluator, Volatility, create_udaf, create_udf, create_udwf};
use datafusion::physical_plan::Accumulator;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;

use crate::common::Sessions;

fn plus_one(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    let values = arrays[0].as_primitive::<Int64Type>();
    Ok(ColumnarValue::Array(Arc::new(values.unary::<_, Int64Type>(|value| value + 1))))
}

#[derive(Debug, Default)]
struct SumOfSquares(i64);

impl Accumulator for SumOfSquares {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0 += values[0].as_primitive::<Int64Type>().iter().flatten().map(|value| value * value).sum::<i64>();
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0 += states[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.0.into()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.0.into())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

#[derive(Debug)]
struct Half;

impl PartitionEvaluator for Half {
    fn evaluate_all(&mut self, values: &[ArrayRef], _: usize) -> Result<ArrayRef> {
        let values = values[0].as_primitive::<Int64Type>();
        Ok(Arc::new(values.iter().map(|value| value.map(|value| value / 2)).collect::<Int64Array>()))
    }
}

fn register(context: &SessionContext) {
    let int = DataType::Int64;
    context.register_udf(create_udf(
        "plus_one",
        vec![int.clone()],
        int.clone(),
        Volatility::Immutable,
        Arc::new(plus_one),
    ));
    context.register_udaf(create_udaf(
        "sum_of_squares",
        vec![int.clone()],
        Arc::new(int.clone()),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(SumOfSquares::default()))),
        Arc::new(vec![int.clone()]),
    ));
    context.register_udwf(create_udwf(
        "half",
        int.clone(),
        Arc::new(int),
        Volatility::Immutable,
        Arc::new(|| Ok(Box::new(Half))),
    ));
}

#[tokio::test]
async fn functions_registered_later_are_found_by_the_cluster() {
    let sessions = Sessions::new().await;
    sessions.parquet("t", "SELECT x, x % 3 AS k FROM generate_series(1, 100) AS t(x)", 3).await;
    sessions.check("SELECT count(*) FROM t").await;
    sessions.all().for_each(register);
    for sql in [
        "SELECT plus_one(x) FROM t WHERE plus_one(k) > 1",
        "SELECT k, sum_of_squares(plus_one(x)) FROM t GROUP BY k",
        "SELECT x, half(x) OVER (PARTITION BY k ORDER BY x) FROM t",
    ] {
        sessions.check(sql).await;
    }
}
