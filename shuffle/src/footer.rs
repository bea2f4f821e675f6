// SPDX-License-Identifier: Apache-2.0
//! Head and footer of a shuffle file: the parts around the blocks.
//!
//! Both are plain Arrow IPC. The one peculiarity: the checksum of the footer is inside the footer, as the last thing
//! of it, because nothing else may stand between the footer and the end of a valid IPC file:
//!
//! ```text
//!   head     "ARROW1" pad(64) │ prefix, Schema message, pad(64)
//!   tail     end-of-stream marker FFFFFFFF 00000000
//!            ┌ flatbuffer Footer ─────────────────────────────────────────────────────┐
//!            │ schema, recordBatches[], custom_metadata {                             │
//!            │   ballista.shuffle.index      → hexadecimal, see `index`               │
//!            │   ballista.shuffle.footer_crc → "crc32c:89abcdef" ┐                    │
//!            │ }                                                 └─▶ …"crc32c:89abcdef\0"
//!            └────────────────────────────────────────────────────────────────────────┘
//!            footer length (i32 LE) │ "ARROW1"
//! ```
//!
//! A flatbuffer is built from its end: the string that is created first stands last. So the checksum has a fixed
//! distance from the end of the file and is verified before any of the flatbuffer is parsed. It covers the whole
//! tail except its own eight digits, and those are compared digit by digit.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_ipc::convert::{IpcSchemaEncoder, fb_to_schema};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{FooterBuilder, KeyValueBuilder, MetadataVersion};

use crate::block::BODY_ALIGNMENT;
use crate::error::{ArrowContext, Result, ShuffleError};
use crate::index::ShuffleFileIndex;

const MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
const INDEX_KEY: &str = "ballista.shuffle.index";
const CRC_KEY: &str = "ballista.shuffle.footer_crc";
const CRC_PREFIX: &str = "crc32c:";
const CRC_DIGITS: usize = 8;

/// Bytes of the end-of-stream marker.
pub(crate) const EOS_BYTES: usize = 8;
/// Bytes of footer length and magic, the last of the file.
pub(crate) const TRAILER_BYTES: usize = 4 + MAGIC.len();
/// From the first digit of the footer's checksum to the end of the file: digits, final zero, trailer.
const CRC_FROM_END: usize = CRC_DIGITS + 1 + TRAILER_BYTES;

/// The first bytes of a file whose blocks are of the schema `wire`.
pub(crate) fn encode_head(wire: &Schema) -> Result<Vec<u8>> {
    const ACTION: &str = "encode the schema";
    let options = IpcWriteOptions::try_new(BODY_ALIGNMENT, false, MetadataVersion::V5).context(ACTION)?;
    let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        wire,
        &mut DictionaryTracker::new(true),
        &options,
    );
    let mut head = MAGIC.to_vec();
    head.resize(BODY_ALIGNMENT, 0);
    write_message(&mut head, message, &options).context(ACTION)?;
    Ok(head)
}

/// Prefix, header and padding of a block; its body follows.
pub(crate) fn block_metadata(header: &[u8], metadata_len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(metadata_len);
    bytes.extend_from_slice(&block_prefix(metadata_len)?);
    bytes.extend_from_slice(header);
    bytes.resize(metadata_len, 0);
    Ok(bytes)
}

/// The prefix of a block whose prefix, header and padding have `metadata_len` bytes.
pub(crate) fn block_prefix(metadata_len: usize) -> Result<[u8; 8]> {
    let len = metadata_len.checked_sub(8).and_then(|len| i32::try_from(len).ok());
    let len = len.ok_or_else(|| ShuffleError::Invalid(format!("block header of {metadata_len} bytes")))?;
    let mut prefix = [0xff; 8];
    prefix[4..].copy_from_slice(&len.to_le_bytes());
    Ok(prefix)
}

/// Everything after the last block.
pub(crate) fn encode_tail(wire: &Schema, index: &ShuffleFileIndex) -> Result<Vec<u8>> {
    let blocks: Vec<arrow_ipc::Block> = index
        .all_blocks()
        .iter()
        .map(|block| arrow_ipc::Block::new(block.offset as i64, block.metadata_len() as i32, block.body_len as i64))
        .collect();
    // The only way to a builder without naming its crate, of which arrow-ipc decides the version.
    let mut builder = IpcSchemaEncoder::new().schema_to_fb(&Schema::empty());
    builder.reset();
    // First in, last in the bytes: see the module's documentation.
    let crc_text = format!("{CRC_PREFIX}{:0width$}", 0, width = CRC_DIGITS);
    let crc_value = builder.create_string(&crc_text);
    let crc_key = builder.create_string(CRC_KEY);
    let index_value = builder.create_string(&index.to_text());
    let index_key = builder.create_string(INDEX_KEY);
    let mut entries = Vec::with_capacity(2);
    for (key, value) in [(index_key, index_value), (crc_key, crc_value)] {
        let mut entry = KeyValueBuilder::new(&mut builder);
        entry.add_key(key);
        entry.add_value(value);
        entries.push(entry.finish());
    }
    let metadata = builder.create_vector(&entries);
    let schema = IpcSchemaEncoder::new().schema_to_fb_offset(&mut builder, wire);
    let record_batches = builder.create_vector(&blocks);
    let dictionaries = builder.create_vector::<arrow_ipc::Block>(&[]);
    let mut footer = FooterBuilder::new(&mut builder);
    footer.add_version(MetadataVersion::V5);
    footer.add_schema(schema);
    footer.add_dictionaries(dictionaries);
    footer.add_recordBatches(record_batches);
    footer.add_custom_metadata(metadata);
    let root = footer.finish();
    builder.finish(root, None);
    let footer = builder.finished_data();

    let footer_len = i32::try_from(footer.len());
    let footer_len = footer_len.map_err(|_| ShuffleError::Invalid(format!("footer of {} bytes", footer.len())))?;
    let mut tail = Vec::with_capacity(EOS_BYTES + footer.len() + TRAILER_BYTES);
    tail.extend_from_slice(&CONTINUATION);
    tail.extend_from_slice(&[0; 4]);
    tail.extend_from_slice(footer);
    tail.extend_from_slice(&footer_len.to_le_bytes());
    tail.extend_from_slice(MAGIC);

    let digits = tail.len() - CRC_FROM_END;
    if !tail[..digits + CRC_DIGITS].ends_with(crc_text.as_bytes()) {
        return Err(ShuffleError::Invalid("flatbuffers no longer put the first string last".to_owned()));
    }
    let crc = tail_crc(&tail, digits);
    tail[digits..digits + CRC_DIGITS].copy_from_slice(format!("{crc:08x}").as_bytes());
    Ok(tail)
}

/// crc32c of a tail without the digits of the checksum itself.
fn tail_crc(tail: &[u8], digits: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&tail[..digits]), &tail[digits + CRC_DIGITS..])
}

/// Bytes of the tail, marker included, of the file that ends with `trailer`.
pub(crate) fn tail_len(trailer: &[u8; TRAILER_BYTES]) -> Result<usize> {
    let (len, magic) = trailer.split_at(4);
    if magic != MAGIC {
        return Err(ShuffleError::truncated("file trailer", "the file does not end with the Arrow magic"));
    }
    let mut bytes = [0; 4];
    bytes.copy_from_slice(len);
    let footer_len = usize::try_from(i32::from_le_bytes(bytes))
        .map_err(|_| ShuffleError::corrupt("file trailer", "negative footer length"))?;
    Ok(EOS_BYTES + footer_len + TRAILER_BYTES)
}

/// Verifies a tail, all of it, then reads schema and index from it.
pub(crate) fn decode_tail(tail: &[u8]) -> Result<(SchemaRef, ShuffleFileIndex)> {
    let corrupt = |detail: String| ShuffleError::corrupt("file footer", detail);
    let digits = tail.len().checked_sub(CRC_FROM_END).filter(|digits| *digits > EOS_BYTES);
    let digits = digits.ok_or_else(|| corrupt("too short".to_owned()))?;
    let crc = format!("{:08x}", tail_crc(tail, digits));
    if &tail[digits..digits + CRC_DIGITS] != crc.as_bytes() {
        return Err(corrupt(format!("crc32c is {crc}, the footer says otherwise")));
    }
    // From here on the bytes are those of the writer.
    let footer = &tail[EOS_BYTES..tail.len() - TRAILER_BYTES];
    let footer = arrow_ipc::root_as_footer(footer).map_err(|error| corrupt(error.to_string()))?;
    let index = footer
        .custom_metadata()
        .into_iter()
        .flatten()
        .find(|entry| entry.key() == Some(INDEX_KEY))
        .and_then(|entry| entry.value())
        .ok_or_else(|| corrupt("no shuffle index: an Arrow file, but not one of ours".to_owned()))?;
    let schema = footer.schema().ok_or_else(|| corrupt("no schema".to_owned()))?;
    Ok((Arc::new(fb_to_schema(schema)), ShuffleFileIndex::from_text(index)?))
}
