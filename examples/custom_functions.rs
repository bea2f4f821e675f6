// SPDX-License-Identifier: Apache-2.0
//! Functions of the application: registered on the context, found by the in-process cluster.
//!
//! `cargo run -p ballista-examples --example custom_functions`

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use ballista::prelude::*;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udaf, create_udf};
use datafusion::physical_plan::Accumulator;
use datafusion::prelude::*;
use datafusion::scalar::ScalarValue;

/// `square(x)`: one value from one value.
fn square(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    let values = arrays[0].as_primitive::<Int64Type>();
    let squares: Int64Array = values.iter().map(|value| value.map(|x| x * x)).collect();
    Ok(ColumnarValue::Array(Arc::new(squares)))
}

/// `product(x)`: one value from many. Partial products travel between executors as its state.
#[derive(Debug)]
struct Product(i64);

impl Accumulator for Product {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0 *= values[0].as_primitive::<Int64Type>().iter().flatten().product::<i64>();
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
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

#[tokio::main]
async fn main() -> Result<()> {
    let ctx = SessionContext::standalone().await?;
    let int = DataType::Int64;
    ctx.register_udf(create_udf("square", vec![int.clone()], int.clone(), Volatility::Immutable, Arc::new(square)));
    ctx.register_udaf(create_udaf(
        "product",
        vec![int.clone()],
        Arc::new(int.clone()),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Product(1)))),
        Arc::new(vec![int]),
    ));
    ctx.sql("SELECT x % 2 AS odd, product(square(x)) FROM generate_series(1, 6) AS t(x) GROUP BY odd ORDER BY odd")
        .await?
        .show()
        .await
}
