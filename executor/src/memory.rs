// SPDX-License-Identifier: Apache-2.0
//! How much memory the executor may use: as configured, or a share of what the container or host has.
//!
//! Control groups nest and every level may have a limit, so the smallest from the process's own group up to the root
//! counts. What cannot be read is no limit: a kernel without control groups, another operating system.

use std::path::{Path, PathBuf};

use crate::error::{ExecutorError, Result};
use crate::size::Size;

/// What is assumed where the operating system does not tell.
const UNKNOWN_HOST_BYTES: u64 = 4 << 30;

/// Less than this is a mistake in the configuration: no query runs in it.
const LEAST_BYTES: u64 = 16 << 20;

/// The amount of memory in bytes on this host; an error if no query could run in it.
pub(crate) fn resolve(size: Size) -> Result<u64> {
    let bytes = size.of(available_bytes());
    if bytes < LEAST_BYTES {
        let least = Size::Bytes(LEAST_BYTES);
        return Err(ExecutorError::Config(format!("{size} of memory is too little; give at least {least}")));
    }
    Ok(bytes)
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
        let half = resolve(Size::Percent(50)).unwrap();
        assert!(half > 0 && half <= available_bytes());
        assert!(resolve(Size::Bytes(1)).is_err());
    }
}
