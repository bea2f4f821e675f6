// SPDX-License-Identifier: Apache-2.0
//! What the JVM sends as bytes: protobuf messages of our own, few and flat.
//!
//! Schemas are Arrow's: `ArrowUtils.toArrowSchema(…).serializeAsMessage()` on one side, [`schema`] on the other. So the
//! list of types exists once, in Spark.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use prost::Message;

use crate::block::Codec;
use crate::checksum::ChecksumAlgorithm;
use crate::error::{ArrowContext, Result, SparkError};
use crate::writer::WriterConfig;

/// Argument of `createShuffleWriter`.
#[derive(Clone, PartialEq, Message)]
pub struct ShuffleWriterMessage {
    /// Arrow IPC schema message of the rows.
    #[prost(bytes = "vec", tag = "1")]
    pub schema: Vec<u8>,
    /// Number of partitions.
    #[prost(uint32, tag = "2")]
    pub partitions: u32,
    /// `spark.comet.shuffle.compression.codec`, or `none` if `spark.shuffle.compress` is off.
    #[prost(string, tag = "3")]
    pub codec: String,
    /// `spark.comet.shuffle.compression.zstd.level`.
    #[prost(int32, tag = "4")]
    pub zstd_level: i32,
    /// `spark.comet.shuffle.jvm.batchSize`.
    #[prost(uint32, tag = "5")]
    pub batch_rows: u32,
    /// `spark.shuffle.checksum.algorithm`, or nothing if `spark.shuffle.checksum.enabled` is off or I/O encryption is on
    /// (checksums cover what is in the file, which then is not what native code writes).
    #[prost(string, tag = "6")]
    pub checksum: String,
}

impl ShuffleWriterMessage {
    /// The configuration in `bytes`.
    pub fn read(bytes: &[u8]) -> Result<WriterConfig> {
        let message: Self = decode(bytes)?;
        Ok(WriterConfig {
            schema: schema(&message.schema)?,
            partitions: message.partitions,
            codec: Codec::parse(&message.codec, message.zstd_level)?,
            batch_rows: message.batch_rows as usize,
            checksum: match message.checksum.as_str() {
                "" => None,
                name => Some(ChecksumAlgorithm::parse(name)?),
            },
        })
    }
}

/// The message in `bytes`.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|error| SparkError::Invalid(format!("configuration: {error}")))
}

/// The schema in an Arrow IPC schema message, with its length prefix.
pub fn schema(message: &[u8]) -> Result<SchemaRef> {
    Ok(Arc::new(try_schema_from_ipc_buffer(message).context("read a schema")?))
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};

    use super::*;
    use crate::testing::every_type;

    /// As Java's `serializeAsMessage`.
    pub(crate) fn schema_message(schema: &Schema) -> Vec<u8> {
        let options = IpcWriteOptions::default();
        let tracker = &mut DictionaryTracker::new(true);
        let data = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, tracker, &options);
        let mut bytes = Vec::new();
        write_message(&mut bytes, data, &options).unwrap();
        bytes
    }

    #[test]
    fn a_writer_is_configured_by_bytes() {
        let fields = every_type().into_iter().enumerate();
        let fields: Fields = fields.map(|(i, one)| Field::new(format!("c{i}"), one, true)).collect();
        let declared = Schema::new(fields);
        let message = ShuffleWriterMessage {
            schema: schema_message(&declared),
            partitions: 2001,
            codec: "zstd".into(),
            zstd_level: 1,
            batch_rows: 8192,
            checksum: "ADLER32".into(),
        };
        let config = ShuffleWriterMessage::read(&message.encode_to_vec()).unwrap();
        assert_eq!(*config.schema, declared);
        assert_eq!((config.partitions, config.codec, config.batch_rows), (2001, Codec::Zstd(1), 8192));
        assert_eq!(config.checksum, Some(ChecksumAlgorithm::Adler32));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(ShuffleWriterMessage::read(b"\xff\xff\xff").is_err());
        let one = Schema::new(vec![Field::new("a", DataType::Int32, true)]);
        let whole = schema_message(&one);
        for length in 0..whole.len() {
            // The last bytes are padding.
            if let Ok(read) = schema(&whole[..length]) {
                assert_eq!(*read, one, "{length} bytes");
            }
        }
        let message = ShuffleWriterMessage { codec: "lzo".into(), schema: whole, ..Default::default() };
        assert!(ShuffleWriterMessage::read(&message.encode_to_vec()).is_err());
    }
}
