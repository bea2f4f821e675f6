// SPDX-License-Identifier: Apache-2.0
//! How much memory the executor may use: as configured, or a share of what the container or host has.
//!
//! Control groups nest and every level may have a limit, so the smallest from the process's own group up to the root
//! counts. What cannot be read is no limit: a kernel without control groups, another operating system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::ExecutorError;

/// What is assumed where the operating system does not tell.
const UNKNOWN_HOST_BYTES: u64 = 4 << 30;

/// Less than this is a mistake in the configuration: no query runs in it.
const LEAST_BYTES: u64 = 16 << 20;

/// An amount of memory, absolute or relative to what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySize {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the container's limit or the host's memory.
    Percent(u8),
}

impl Default for MemorySize {
    /// 70 %: operators and libraries allocate more than they account for.
    fn default() -> Self {
        Self::Percent(70)
    }
}

impl MemorySize {
    /// The amount in bytes on this host; an error if no query could run in it.
    pub fn resolve(self) -> Result<u64, ExecutorError> {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => available_bytes() / 100 * u64::from(percent),
        };
        if bytes < LEAST_BYTES {
            let least = Self::Bytes(LEAST_BYTES);
            return Err(ExecutorError::Config(format!("{self} of memory is too little; give at least {least}")));
        }
        Ok(bytes)
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

impl FromStr for MemorySize {
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

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
            Self::Bytes(bytes) if bytes >= 1 << 20 => write!(f, "{:.0} MiB", bytes as f64 / (1u64 << 20) as f64),
            Self::Bytes(bytes) => write!(f, "{bytes} B"),
        }
    }
}

/// Bytes this process may use at most: the smallest limit of its control groups, or the host's memory.
pub fn available_bytes() -> u64 {
    let host = host_bytes().unwrap_or(UNKNOWN_HOST_BYTES);
    group_limit().map_or(host, |limit| limit.min(host))
}

fn host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        smallest_limit(Path::new(root), path, file)
    });
    limits.min()
}

/// The smallest limit from the group `path` up to `root`. Inside a container the path may be the host's, and only the
/// root is there.
fn smallest_limit(root: &Path, path: &str, file: &str) -> Option<u64> {
    let own: PathBuf = root.join(path.trim_start_matches('/'));
    let limits = own.ancestors().take_while(|dir| dir.starts_with(root)).filter_map(|dir| {
        // "max" does not parse, and is no limit.
        std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<MemorySize>().unwrap();
        assert_eq!(bytes("512MiB"), MemorySize::Bytes(512 << 20));
        assert_eq!(bytes("4GiB"), MemorySize::Bytes(4 << 30));
        assert_eq!(bytes("1.5 GiB"), MemorySize::Bytes(3 << 29));
        assert_eq!(bytes("2GB"), MemorySize::Bytes(2_000_000_000));
        assert_eq!(bytes("1048576"), MemorySize::Bytes(1 << 20));
        assert_eq!(bytes("70%"), MemorySize::Percent(70));
        for bad in ["", "much", "-1GiB", "0%", "101%", "1XiB", "NaN"] {
            assert!(bad.parse::<MemorySize>().is_err(), "{bad:?} accepted");
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/b");
        std::fs::create_dir_all(&leaf).unwrap();
        std::fs::write(leaf.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("a/memory.max"), "1000\n").unwrap();
        std::fs::write(root.path().join("memory.max"), "2000\n").unwrap();
        assert_eq!(smallest_limit(root.path(), "/a/b", "memory.max"), Some(1000));
        assert_eq!(smallest_limit(root.path(), "/elsewhere", "memory.max"), Some(2000));
    }

    #[test]
    fn a_share_of_the_host_is_less_than_the_host() {
        let half = MemorySize::Percent(50).resolve().unwrap();
        assert!(half > 0 && half <= available_bytes());
        assert!(MemorySize::Bytes(1).resolve().is_err());
    }
}
