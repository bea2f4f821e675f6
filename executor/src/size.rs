// SPDX-License-Identifier: Apache-2.0
//! Amounts of memory and disk space, as people write them.

use std::fmt;
use std::str::FromStr;

/// An amount of memory or disk space, absolute or relative to what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many percent: of the memory of the container or host, or of the disk space that is free.
    Percent(u8),
}

impl Size {
    /// Memory for an executor unless configured: operators and libraries allocate more than they account for.
    pub const MEMORY: Self = Self::Percent(70);
    /// Disk space for an executor unless configured.
    pub const DISK: Self = Self::Percent(90);

    /// The amount in bytes, where there are `all`.
    pub(crate) fn of(self, all: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => all / 100 * u64::from(percent),
        }
    }
}

const UNITS: [(&str, u64); 12] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected a size such as 512MiB, 4GiB or 70%, got \"{text}\"");
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim().parse().map_err(|_| refused())?;
            return if (1..=100).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(refused()) };
        }
        let (number, factor) =
            UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor))).unwrap_or((text, 1));
        let number: f64 = number.trim().parse().map_err(|_| refused())?;
        let bytes = number * factor as f64;
        if bytes.is_finite() && bytes >= 0.0 { Ok(Self::Bytes(bytes as u64)) } else { Err(refused()) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
            Self::Bytes(bytes) if bytes >= 1 << 20 => write!(f, "{:.0} MiB", bytes as f64 / (1u64 << 20) as f64),
            Self::Bytes(bytes) => write!(f, "{bytes} B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<Size>().unwrap();
        assert_eq!(bytes("512MiB"), Size::Bytes(512 << 20));
        assert_eq!(bytes("4GiB"), Size::Bytes(4 << 30));
        assert_eq!(bytes("1.5 GiB"), Size::Bytes(3 << 29));
        assert_eq!(bytes("2GB"), Size::Bytes(2_000_000_000));
        assert_eq!(bytes("1048576"), Size::Bytes(1 << 20));
        assert_eq!(bytes("70%"), Size::Percent(70));
        for bad in ["", "much", "-1GiB", "0%", "101%", "1XiB", "NaN"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?} accepted");
        }
    }
}
