// SPDX-License-Identifier: Apache-2.0
//! The one registry of `ballista.*` session keys: name, type, unit, default, documentation.
//!
//! [`BallistaConfig`] is a typed struct; the text form (`SET ballista.… = …`, settings sent with a job) goes through
//! [`BallistaConfig::set`] and [`BallistaConfig::entries`]. An unknown key is an error.

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key in the registry.
    #[error("unknown setting \"{0}\"; docs/configuration.md lists the keys")]
    UnknownKey(String),
    /// The value does not parse as the key's type.
    #[error("invalid value \"{value}\" for setting \"{key}\": expected {expected}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The refused text.
        value: String,
        /// What the key takes.
        expected: &'static str,
    },
}

/// One key as text, for `SHOW`, `information_schema` and the generated page of the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Full name, `ballista.` included.
    pub key: &'static str,
    /// Type of the value, with its unit.
    pub kind: &'static str,
    /// Value as text.
    pub value: String,
    /// What it does.
    pub doc: &'static str,
}

/// Compression of blocks that leave the executor's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Bytes as they are.
    None,
    /// LZ4 frames.
    #[default]
    Lz4,
    /// Zstandard, level 1.
    Zstd,
}

trait Setting: Sized {
    const KIND: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    const KIND: &'static str = "a whole number ≥ 0";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const KIND: &'static str = "text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for Compression {
    const KIND: &'static str = "none, lz4 or zstd";
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Some(Self::None),
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
    fn show(&self) -> String {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
        .to_owned()
    }
}

macro_rules! registry {
    ($($field:ident: $kind:ty = $default:expr, $key:literal, $doc:literal;)*) => {
        /// The session's `ballista.*` settings.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct BallistaConfig {
            $(#[doc = $doc] pub $field: $kind,)*
        }

        impl Default for BallistaConfig {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl BallistaConfig {
            /// Sets `key` (full name) from text.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
                match key {
                    $($key => {
                        self.$field = <$kind as Setting>::parse(value).ok_or_else(|| {
                            ConfigError::InvalidValue {
                                key: $key,
                                value: value.to_owned(),
                                expected: <$kind as Setting>::KIND,
                            }
                        })?;
                        Ok(())
                    })*
                    _ => Err(ConfigError::UnknownKey(key.to_owned())),
                }
            }

            /// Every key with its present value, in the order of the registry.
            pub fn entries(&self) -> Vec<ConfigEntry> {
                vec![$(ConfigEntry {
                    key: $key,
                    kind: <$kind as Setting>::KIND,
                    value: self.$field.show(),
                    doc: $doc,
                },)*]
            }
        }
    };
}

registry! {
    job_name: String = String::new(), "ballista.job.name",
        "Name of the jobs of this session, for people who watch the cluster.";
    job_weight: u64 = 1, "ballista.job.weight",
        "Share of the cluster's slots relative to other jobs; at least 1.";
    idempotency_key: String = String::new(), "ballista.job.idempotency_key",
        "A name for the next query, of your choice: sent again under the same name, even by another client, it is not run again while it runs or its result is kept (15 minutes after its end), but gives that; after an error it is run again. For writes that must happen once. Reset it after that query.";
    spark_functions: bool = false, "ballista.functions.spark",
        "Spark's functions take the place of DataFusion's own of the same names (`abs`, `avg`, `date_add`, `length`, …), and those that only Spark has are added. Must be set when the session is made. Functions of the application stay.";
    single_task_bytes: u64 = 64 << 20, "ballista.planner.single_task_bytes",
        "A query whose input is at most this many bytes runs as one task, without an exchange; so does any query when one executor owns all slots. 0 = a query that can be distributed always is.";
    adaptive: bool = true, "ballista.planner.adaptive",
        "Plan each fragment again with exact statistics once its inputs are complete.";
    broadcast_bytes: u64 = 64 << 20, "ballista.planner.broadcast_bytes",
        "A join input of at most this many bytes (and an eighth of an executor's memory) is broadcast instead of shuffling the other input; up to four times as many if the other input is far larger. 0 = never.";
    range_sort_bytes: u64 = 64 << 20, "ballista.planner.range_sort_bytes",
        "A global ORDER BY over more than this many bytes is sorted in parallel through a range exchange.";
    bucket_bytes: u64 = 64 << 20, "ballista.shuffle.bucket_bytes",
        "Size in bytes that a bucket of an exchange should have at most; more buckets are written for more data.";
    read_bytes: u64 = 32 << 20, "ballista.shuffle.read_bytes",
        "Neighbouring buckets are read by one partition up to this many bytes, while every slot keeps one.";
    memory_tier: bool = true, "ballista.shuffle.memory_tier",
        "Keep shuffle output in the executor's memory while it fits. false = everything through disk files and Flight, local reads too.";
    compression: Compression = Compression::Lz4, "ballista.shuffle.compression",
        "Compression of shuffle blocks on disk and between hosts.";
    inline_result_bytes: u64 = 256 << 10, "ballista.client.inline_result_bytes",
        "Results up to this many bytes reach the client through the scheduler; larger ones are streamed from the executors.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_can_be_set_to_its_own_text() {
        let mut config = BallistaConfig::default();
        for entry in BallistaConfig::default().entries() {
            config.set(entry.key, &entry.value).unwrap();
        }
        assert_eq!(config, BallistaConfig::default());
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        let mut config = BallistaConfig::default();
        assert!(matches!(config.set("ballista.nope", "1"), Err(ConfigError::UnknownKey(_))));
        let error = config.set("ballista.shuffle.memory_tier", "maybe").unwrap_err();
        assert!(error.to_string().contains("true or false"), "{error}");
        assert!(config.memory_tier);
    }
}
