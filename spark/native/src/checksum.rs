// SPDX-License-Identifier: Apache-2.0
//! Spark's checksums of shuffle partitions (`spark.shuffle.checksum.*`), equal to the JDK's.
//!
//! Spark keeps one per partition beside the data file and, when a reducer stumbles, computes it again to tell a bad
//! disk from a bad network. It covers the bytes of the partition as they are in the file. All three algorithms go on
//! from their value, which is all that has to be kept between spills.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Result, SparkError};

/// An algorithm of `spark.shuffle.checksum.algorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// `java.util.zip.CRC32`.
    Crc32,
    /// `java.util.zip.Adler32`, Spark's default.
    Adler32,
    /// `java.util.zip.CRC32C`.
    Crc32c,
}

impl ChecksumAlgorithm {
    /// The algorithm of a name in Spark's configuration.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_uppercase().as_str() {
            "CRC32" => Ok(Self::Crc32),
            "ADLER32" => Ok(Self::Adler32),
            "CRC32C" => Ok(Self::Crc32c),
            other => Err(SparkError::Unsupported(format!("shuffle checksum algorithm `{other}`"))),
        }
    }

    /// The checksum of no bytes.
    pub fn start(self) -> u32 {
        match self {
            Self::Adler32 => 1,
            Self::Crc32 | Self::Crc32c => 0,
        }
    }

    /// The checksum of the bytes that led to `value`, followed by `bytes`.
    pub fn update(self, value: u32, bytes: &[u8]) -> u32 {
        match self {
            Self::Crc32 => {
                let mut hasher = crc32fast::Hasher::new_with_initial(value);
                hasher.update(bytes);
                hasher.finalize()
            }
            Self::Adler32 => {
                let mut hasher = adler2::Adler32::from_checksum(value);
                hasher.write_slice(bytes);
                hasher.checksum()
            }
            Self::Crc32c => crc32c::crc32c_append(value, bytes),
        }
    }
}

/// The checksums of all partitions of a map task.
///
/// Partitions may be updated by several threads, each partition by one at a time: by whoever appends its bytes.
#[derive(Debug)]
pub struct PartitionChecksums {
    algorithm: ChecksumAlgorithm,
    values: Vec<AtomicU32>,
}

impl PartitionChecksums {
    /// Of partitions that are all empty.
    pub fn new(algorithm: ChecksumAlgorithm, partitions: usize) -> Self {
        Self { algorithm, values: (0..partitions).map(|_| AtomicU32::new(algorithm.start())).collect() }
    }

    /// Goes on with `bytes` in `partition`; nothing if there is no such partition.
    pub fn update(&self, partition: usize, bytes: &[u8]) {
        if let Some(value) = self.values.get(partition) {
            // The order among threads comes from whatever hands the partition from one to the next.
            value.store(self.algorithm.update(value.load(Ordering::Acquire), bytes), Ordering::Release);
        }
    }

    /// The values as Spark wants them.
    pub fn values(&self) -> Vec<i64> {
        self.values.iter().map(|value| i64::from(value.load(Ordering::Acquire))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_jdks() {
        // The check values of the algorithms' definitions: of the digits 1 to 9.
        let digits = b"123456789";
        for (algorithm, expected) in [
            (ChecksumAlgorithm::Crc32, 0xcbf4_3926),
            (ChecksumAlgorithm::Adler32, 0x091e_01de),
            (ChecksumAlgorithm::Crc32c, 0xe306_9283),
        ] {
            assert_eq!(algorithm.update(algorithm.start(), digits), expected, "{algorithm:?}");
            for cut in 0..digits.len() {
                let first = algorithm.update(algorithm.start(), &digits[..cut]);
                assert_eq!(algorithm.update(first, &digits[cut..]), expected, "{algorithm:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn names_are_those_of_sparks_configuration() {
        assert_eq!(ChecksumAlgorithm::parse("adler32").unwrap(), ChecksumAlgorithm::Adler32);
        assert_eq!(ChecksumAlgorithm::parse("CRC32C").unwrap(), ChecksumAlgorithm::Crc32c);
        assert!(ChecksumAlgorithm::parse("MD5").is_err());
    }
}
