// SPDX-License-Identifier: Apache-2.0
//! The directory that holds an executor's shuffle files.
//!
//! ```text
//! work_dir/
//! ├── .ballista-work-dir               marker: this directory is Ballista's; locked while the layout changes
//! └── 00c0ffee00c0ffee/                one life of one executor (incarnation, 16 hex digits)
//!     ├── .ballista-work-dir           marker, locked for as long as that executor lives
//!     └── <job>/<stage>.<stage attempt>/
//!         ├── <task>.<attempt>.arrow   a finished output
//!         └── <task>.<attempt>.<n>.segment   a part that an unfinished output spilled
//! ```
//!
//! **Only marked directories are ever deleted.** A directory that is not empty and has no marker is refused, so that a
//! mistyped path never costs anybody's data. On opening, directories of earlier lives are removed if nobody holds the
//! lock on their marker; the operating system drops that lock when a process dies, however it dies. So two executors
//! may share a work directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ballista_core::{Incarnation, JobId, StageId, TaskKey};
use tokio::runtime::Handle;

use crate::error::{ExchangeError, Result};

const MARKER: &str = ".ballista-work-dir";

/// An executor's own directory below the work directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct WorkDir {
    own: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes `root` ready, and the directory of this life in it.
    pub(crate) fn open(root: &Path, incarnation: Incarnation) -> Result<Self> {
        let context = || format!("cannot set up work directory {}", root.display());
        let _layout_lock = lock_and_sweep(root)?;
        let name = format!("{:016x}", incarnation.0);
        let own = root.join(name);
        fs::create_dir(&own).map_err(ExchangeError::io(context()))?;
        let lock = open_marker(&own).map_err(ExchangeError::io(context()))?;
        lock.lock().map_err(ExchangeError::io(context()))?;
        Ok(Self { own, _lock: lock })
    }

    fn job_dir(&self, job: &JobId) -> PathBuf {
        self.own.join(job.as_str())
    }

    fn stage_dir(&self, job: &JobId, stage: StageId, stage_attempt: u32) -> PathBuf {
        self.job_dir(job).join(format!("{stage}.{stage_attempt}"))
    }

    /// Where the finished output of a task lies.
    pub(crate) fn output_path(&self, key: &TaskKey) -> PathBuf {
        self.stage_dir(&key.job, key.stage, key.stage_attempt).join(format!("{}.{}.arrow", key.task, key.attempt))
    }

    /// Where the `index`-th spilled segment of a task's output lies.
    pub(crate) fn segment_path(&self, key: &TaskKey, index: usize) -> PathBuf {
        self.stage_dir(&key.job, key.stage, key.stage_attempt)
            .join(format!("{}.{}.{index}.segment", key.task, key.attempt))
    }

    /// Removes everything of a job. Blocks.
    pub(crate) fn remove_job(&self, job: &JobId) {
        remove_tree(&self.job_dir(job));
    }

    /// Removes everything of an attempt of a stage, and of earlier ones. Blocks.
    pub(crate) fn remove_stage(&self, job: &JobId, stage: StageId, last_attempt: u32) {
        let prefix = format!("{stage}.");
        let Ok(entries) = fs::read_dir(self.job_dir(job)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let attempt = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
            if attempt.is_some_and(|attempt| attempt <= last_attempt) {
                remove_tree(&entry.path());
            }
        }
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove_tree(&self.own);
    }
}

/// Marks a work directory, and removes what dead executors have left there. Blocks.
///
/// Errors: it cannot be made, or is not empty and not one of Ballista's.
pub fn prepare_work_dir(root: &Path) -> Result<()> {
    lock_and_sweep(root).map(drop)
}

/// The same; nobody else changes the layout while the result lives.
fn lock_and_sweep(root: &Path) -> Result<File> {
    let context = || format!("cannot set up work directory {}", root.display());
    fs::create_dir_all(root).map_err(ExchangeError::io(context()))?;
    if !root.join(MARKER).exists() && !is_empty(root).map_err(ExchangeError::io(context()))? {
        return Err(ExchangeError::WorkDir(format!(
            "{} is not empty and not one of Ballista's; choose an empty directory",
            root.display()
        )));
    }
    let layout_lock = open_marker(root).map_err(ExchangeError::io(context()))?;
    layout_lock.lock().map_err(ExchangeError::io(context()))?;
    sweep(root);
    Ok(layout_lock)
}

/// A file that is removed when nobody needs it any longer.
#[derive(Debug)]
pub(crate) struct OwnedFile(pub(crate) PathBuf);

impl Drop for OwnedFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a shuffle file");
            }
        };
        off_reactor(remove);
    }
}

/// Runs file system work on a blocking thread if the caller is in a runtime, else right here.
pub(crate) fn off_reactor(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn_blocking(work);
        }
        Err(_) => work(),
    }
}

fn open_marker(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(MARKER))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        // A freshly made file system has one of these.
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_incarnation_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Removes the directories of lives that are over. Leaves alone what it does not understand or may not touch.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        if !is_dir || !is_incarnation_name(&entry.file_name().to_string_lossy()) || !path.join(MARKER).is_file() {
            continue;
        }
        let Ok(marker) = open_marker(&path) else { continue };
        match marker.try_lock() {
            Ok(()) => {
                tracing::info!(path = %path.display(), "removing the shuffle files of an executor that is gone");
                remove_tree(&path);
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "cannot tell whether this directory is in use");
            }
        }
    }
}

fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a directory of shuffle files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_dead_are_swept_and_of_the_living_kept() {
        let root = tempfile::tempdir().unwrap();
        let living = WorkDir::open(root.path(), Incarnation(1)).unwrap();
        fs::write(living.own.join("data"), b"x").unwrap();
        // A dead executor leaves a marked directory without a lock.
        let dead = root.path().join("00000000000000aa");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(MARKER), b"").unwrap();
        fs::write(dead.join("data"), b"x").unwrap();
        // Neither of these is ours to delete.
        let unmarked = root.path().join("00000000000000bb");
        fs::create_dir(&unmarked).unwrap();
        fs::create_dir(root.path().join("photos")).unwrap();

        let second = WorkDir::open(root.path(), Incarnation(2)).unwrap();
        assert!(living.own.join("data").exists());
        assert!(!dead.exists());
        assert!(unmarked.exists());
        assert!(root.path().join("photos").exists());
        let own = second.own.clone();
        drop(second);
        assert!(!own.exists());
    }

    #[test]
    fn a_directory_with_other_contents_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), b"x").unwrap();
        assert!(matches!(WorkDir::open(root.path(), Incarnation(1)), Err(ExchangeError::WorkDir(_))));
    }
}
