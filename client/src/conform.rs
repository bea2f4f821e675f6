// SPDX-License-Identifier: Apache-2.0
//! Makes batches have exactly the schema that a plan promised.
//!
//! Rewrites on the scheduler keep names and values, but a field's metadata or nullability may come back different;
//! operators above compare schemas strictly.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};

/// `batch` with `schema`; columns go by position.
pub(crate) fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(DataFusionError::Internal(format!(
            "the cluster returned {} columns, expected {}",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(column.clone()) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    #[test]
    fn metadata_nullability_and_types_follow_the_schema() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let batch = RecordBatch::try_from_iter_with_nullable([("a", column, false)]).unwrap();
        let field = Field::new("a", DataType::Utf8View, true).with_metadata([("k".into(), "v".into())].into());
        let schema = Arc::new(Schema::new(vec![field]));
        assert_eq!(conform(batch, &schema).unwrap().schema(), schema);
    }

    #[test]
    fn rows_without_columns_keep_their_number() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let received = Schema::new_with_metadata(Vec::<Field>::new(), [("k".into(), "v".into())].into());
        let batch = RecordBatch::try_new_with_options(Arc::new(received), vec![], &options).unwrap();
        assert_eq!(conform(batch, &Arc::new(Schema::empty())).unwrap().num_rows(), 3);
    }

    #[test]
    fn a_wrong_number_of_columns_is_an_error() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        assert!(conform(batch, &Arc::new(Schema::empty())).is_err());
    }
}
