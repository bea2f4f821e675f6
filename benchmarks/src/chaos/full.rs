// SPDX-License-Identifier: Apache-2.0
//! A disk that is full for a while: that of one executor, a file system in memory of its own.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::{Draws, PATIENCE};

/// Makes every exchange write files.
pub(super) const SETTING: &str = "ballista.shuffle.memory_tier=false";

/// The executor whose disk it is.
pub(super) const EXECUTOR: usize = 0;

/// How much it takes.
const SIZE: &str = "size=96m";

/// A file system that is unmounted when dropped.
pub struct Disk {
    folder: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = |lazily: &[&str]| Command::new("umount").args(lazily).arg(&self.folder).output();
        let is_done = unmount(&[]).is_ok_and(|output| output.status.success());
        if !is_done {
            // Somebody has a file open; it goes away with that.
            let _ = unmount(&["-l"]);
        }
    }
}

impl Disk {
    /// Mounts it at `folder`, which is made.
    ///
    /// # Errors
    /// Why that cannot be, in words: as a rule it takes root.
    pub fn mount(folder: PathBuf) -> std::result::Result<Self, String> {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&folder).output();
        let output = mount.map_err(|error| format!("mount cannot be run: {error}"))?;
        match output.status.success() {
            true => Ok(Self { folder }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// Where the executor puts its files.
    pub fn work_dir(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Fills it, until the executor has noticed and for a second at least; then there is room again.
    ///
    /// # Errors
    /// If it does not notice, or ends.
    pub(super) async fn strike(&self, fleet: &mut Fleet, draws: &mut Draws) -> Result<u64> {
        let before = complaints(fleet)?;
        let mut ballast = Ballast::new(&self.folder)?;
        let (start, least) = (Instant::now(), Duration::from_millis(1_000 + draws.below(2_000)));
        loop {
            // What was freed meanwhile is taken too.
            ballast.fill()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if start.elapsed() > least && complaints(fleet)? > before {
                break;
            }
            if start.elapsed() > least + PATIENCE {
                return Err(Error::other("the executor did not notice that its disk is full"));
            }
        }
        drop(ballast);
        match fleet.ended(EXECUTOR)? {
            None => Ok(1),
            Some(status) => Err(Error::other(format!("the executor whose disk was full ended with {status}"))),
        }
    }
}

/// How often the executor has logged that there is no space.
fn complaints(fleet: &Fleet) -> Result<usize> {
    let log = fleet.executor_log(EXECUTOR)?;
    // The operating system's words, and those of the kind of error.
    let texts = ["No space left", "StorageFull", "no storage space"];
    Ok(log.lines().filter(|line| texts.iter().any(|text| line.contains(text))).count())
}

/// A file that takes all room, removed when dropped.
struct Ballast {
    path: PathBuf,
    file: File,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // If it stays, the next strike replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Ballast {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("ballast");
        let file = File::create(&path)?;
        Ok(Self { path, file })
    }

    /// Grows until there is no room.
    fn fill(&mut self) -> Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut length = zeros.len();
        loop {
            match self.file.write(&zeros[..length]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A page at a time, to the last one.
                Err(error) if error.kind() == ErrorKind::StorageFull && length > 4096 => length = 4096,
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
