// SPDX-License-Identifier: Apache-2.0
//! The messages of an exchange stream.
//!
//! ```text
//!   FlightData 0      data_header = IPC Schema message (wire schema)       app_metadata empty
//!   FlightData 1..n   data_header, data_body = one block                   app_metadata = FrameMeta { block }
//!   FlightData n+1    data_header = IPC Message without header type        app_metadata = FrameMeta { end }
//! ```
//!
//! Any Arrow Flight client can read it: it ignores the metadata and skips the last message. Our own reader ignores the
//! first, because it knows the schema, and takes a stream without the last for cut short.

use std::sync::LazyLock;

use arrow::datatypes::Schema;
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_ipc::{MessageBuilder, MessageHeader, MetadataVersion};
use ballista_proto::{BlockMeta, EndMeta, FrameMeta, frame_meta};
use ballista_shuffle::{Block, wire_schema};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;
use prost::Message;

use crate::error::{ExchangeError, Result};

/// An IPC message that carries nothing.
static EMPTY_MESSAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut builder = FlatBufferBuilder::new();
    let mut message = MessageBuilder::new(&mut builder);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::NONE);
    message.add_bodyLength(0);
    let message = message.finish();
    builder.finish(message, None);
    Bytes::copy_from_slice(builder.finished_data())
});

/// A message of an exchange stream, as its reader sees it.
#[derive(Debug)]
pub(crate) enum Frame {
    Schema,
    Block { output: u32, block: Block },
    End(EndMeta),
}

/// The first message of a stream of batches of `schema`.
pub(crate) fn schema_frame(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(&wire_schema(schema), &IpcWriteOptions::default()).into()
}

/// The message of one block.
pub(crate) fn block_frame(output: usize, bucket: usize, block: Block) -> FlightData {
    let meta = BlockMeta { output: output as u32, bucket: bucket as u32, rows: block.rows, crc32c: block.crc };
    let meta = FrameMeta { kind: Some(frame_meta::Kind::Block(meta)) };
    FlightData {
        flight_descriptor: None,
        data_header: block.header,
        app_metadata: meta.encode_to_vec().into(),
        data_body: block.body,
    }
}

/// The last message of a stream.
pub(crate) fn end_frame(end: EndMeta) -> FlightData {
    let meta = FrameMeta { kind: Some(frame_meta::Kind::End(end)) };
    FlightData {
        flight_descriptor: None,
        data_header: EMPTY_MESSAGE.clone(),
        app_metadata: meta.encode_to_vec().into(),
        data_body: Bytes::new(),
    }
}

impl Frame {
    /// Reads a message's metadata. Neither header nor body are looked at.
    pub(crate) fn parse(data: FlightData) -> Result<Self> {
        if data.app_metadata.is_empty() {
            return Ok(Self::Schema);
        }
        let meta = FrameMeta::decode(data.app_metadata)
            .map_err(|error| ExchangeError::Protocol(format!("metadata of a frame: {error}")))?;
        match meta.kind {
            Some(frame_meta::Kind::Block(meta)) => {
                let block = Block { header: data.data_header, body: data.data_body, rows: meta.rows, crc: meta.crc32c };
                Ok(Self::Block { output: meta.output, block })
            }
            Some(frame_meta::Kind::End(end)) => Ok(Self::End(end)),
            None => Err(ExchangeError::Protocol("frame of unknown kind".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_is_a_valid_ipc_message_without_content() {
        let end = end_frame(EndMeta { rows: 1, ..EndMeta::default() });
        let message = arrow_ipc::root_as_message(&end.data_header).unwrap();
        assert_eq!(message.header_type(), MessageHeader::NONE);
        assert!(matches!(Frame::parse(end).unwrap(), Frame::End(EndMeta { rows: 1, .. })));
    }
}
