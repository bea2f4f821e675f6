// SPDX-License-Identifier: Apache-2.0
//! How much disk space the executor may use: as configured, or a share of what is free when it starts.

use std::path::Path;

use crate::error::{ExecutorError, Result};
use crate::size::Size;

/// The amount in bytes, on the file system of `dir`, which exists.
pub(crate) fn resolve(size: Size, dir: &Path) -> Result<u64> {
    let free = rustix::fs::statvfs(dir)
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        .map_err(|error| ExecutorError::io("ask for the free disk space of the work directory")(error.into()))?;
    Ok(size.of(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let (half, all) =
            (resolve(Size::Percent(50), dir.path()).unwrap(), resolve(Size::Percent(100), dir.path()).unwrap());
        assert!(half > 0 && half < all);
        assert_eq!(resolve(Size::Bytes(7), dir.path()).unwrap(), 7);
        assert!(resolve(Size::DISK, Path::new("/nowhere")).is_err());
    }
}
