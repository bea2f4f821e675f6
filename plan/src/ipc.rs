// SPDX-License-Identifier: Apache-2.0
//! A schema as an Arrow IPC message, without rows.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::root_as_message;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use datafusion::error::{DataFusionError, Result};
use prost::bytes::Bytes;

/// The schema message of `schema`.
pub fn encode_schema(schema: &Schema) -> Bytes {
    let mut dictionaries = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let message =
        IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &options);
    message.ipc_message.into()
}

/// The schema of a schema message.
pub fn decode_schema(message: &[u8]) -> Result<SchemaRef> {
    let corrupt = |reason: String| DataFusionError::Internal(format!("decoding a schema: {reason}"));
    let message = root_as_message(message).map_err(|error| corrupt(error.to_string()))?;
    let schema = message.header_as_schema().ok_or_else(|| corrupt("another message".to_owned()))?;
    Ok(Arc::new(fb_to_schema(schema)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn a_schema_comes_back_as_it_went() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let fields = vec![
            field("d", dictionary).with_metadata([("k".into(), "v".into())].into()),
            field("v", DataType::Utf8View).with_nullable(false),
        ];
        let schema = Schema::new_with_metadata(fields, [("of".into(), "schema".into())].into());
        assert_eq!(decode_schema(&encode_schema(&schema)).unwrap().as_ref(), &schema);
        assert!(decode_schema(b"no message").is_err());
        assert!(decode_schema(b"").is_err());
    }
}
