// SPDX-License-Identifier: Apache-2.0
//! Compression of blocks.

use crate::error::{Result, SparkError};

/// Contents below this stay as they are: what could be saved is less than a packet's header.
const MIN_COMPRESSED_BYTES: usize = 64;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard of this level.
    Zstd(i32),
    /// Snappy.
    Snappy,
}

impl Codec {
    /// The codec of a name in Spark's configuration; an unknown name is an error. `level` is for zstd.
    pub fn parse(name: &str, level: i32) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" if zstd::compression_level_range().contains(&level) => Ok(Self::Zstd(level)),
            "zstd" => Err(SparkError::Unsupported(format!("level {level} of zstd"))),
            "snappy" => Ok(Self::Snappy),
            other => Err(SparkError::Unsupported(format!("shuffle compression codec `{other}`"))),
        }
    }

    pub(super) fn tag(self) -> &'static [u8; 4] {
        match self {
            Self::None => b"NONE",
            Self::Lz4 => b"LZ4_",
            Self::Zstd(_) => b"ZSTD",
            Self::Snappy => b"SNAP",
        }
    }
}

/// Compresses contents, keeping what can be kept from one to the next.
pub(super) enum Compressor {
    None,
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>, i32),
    Snappy(Box<snap::raw::Encoder>),
}

impl Compressor {
    pub(super) fn try_new(codec: Codec) -> Result<Self> {
        Ok(match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd(level) => {
                let compressor = zstd::bulk::Compressor::new(level);
                let compressor =
                    compressor.map_err(|error| SparkError::Invalid(format!("level {level} of zstd: {error}")))?;
                Self::Zstd(compressor, level)
            }
            Codec::Snappy => Self::Snappy(Box::new(snap::raw::Encoder::new())),
        })
    }

    /// Appends `content`, compressed if that makes it smaller, and says how.
    pub(super) fn append(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<Codec> {
        let start = out.len();
        if content.len() < MIN_COMPRESSED_BYTES {
            out.extend_from_slice(content);
            return Ok(Codec::None);
        }
        let failed = |error: &dyn std::fmt::Display| SparkError::Invalid(format!("compression of a block: {error}"));
        let (codec, length) = match self {
            Self::None => {
                out.extend_from_slice(content);
                return Ok(Codec::None);
            }
            Self::Lz4 => {
                out.resize(start + lz4_flex::block::get_maximum_output_size(content.len()), 0);
                let length = lz4_flex::block::compress_into(content, &mut out[start..]);
                (Codec::Lz4, length.map_err(|error| failed(&error))?)
            }
            Self::Zstd(compressor, level) => {
                out.resize(start + zstd::zstd_safe::compress_bound(content.len()), 0);
                let length = compressor.compress_to_buffer(content, &mut out[start..]);
                (Codec::Zstd(*level), length.map_err(|error| failed(&error))?)
            }
            Self::Snappy(encoder) => {
                out.resize(start + snap::raw::max_compress_len(content.len()), 0);
                let length = encoder.compress(content, &mut out[start..]);
                (Codec::Snappy, length.map_err(|error| failed(&error))?)
            }
        };
        out.truncate(start + length);
        if length < content.len() {
            return Ok(codec);
        }
        out.truncate(start);
        out.extend_from_slice(content);
        Ok(Codec::None)
    }
}
