// SPDX-License-Identifier: Apache-2.0
//! Makes a data set appear complete or not at all.
//!
//! ```text
//! DIR.partial/   being written; left behind by an interrupted run, replaced by the next one
//! DIR.old/       a data set of an older layout, on its way out
//! DIR/           complete: renamed from DIR.partial after the last byte
//! ```
//!
//! Each of them holds the marker [`MARKER`], written first; a directory without it is never removed. One process at
//! a time writes data sets below the same parent directory: it holds an advisory lock on that directory, which the
//! operating system releases if the process dies.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use datafusion::error::{DataFusionError, Result};
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::{Dataset, io_error, write};
use crate::queries::Suite;

/// Name of the file that makes a directory a data set.
pub const MARKER: &str = "dataset.json";

/// Grows whenever the same generator writes other files than before: splitting, compression, types.
const LAYOUT: u32 = 1;

/// What [`publish`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The data set was there already.
    Present,
    /// It was made now.
    Made,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker {
    suite: String,
    scale_factor: f64,
    generator: String,
    layout: u32,
}

impl Marker {
    fn of(dataset: &Dataset) -> Self {
        let generator = match dataset.suite {
            Suite::Tpch => "tpchgen 4",
            Suite::Tpcds => "tpcdsgen 4",
        };
        Self {
            suite: dataset.suite.name().to_owned(),
            scale_factor: dataset.scale_factor,
            generator: generator.to_owned(),
            layout: LAYOUT,
        }
    }
}

/// Makes `dataset` in `dir`, unless it is there.
///
/// # Errors
/// If `dir` is something else than a data set, or holds another suite or scale, or if a file cannot be written.
pub fn publish(dataset: &Dataset, dir: &Path, threads: usize, progress: &Progress) -> Result<Outcome> {
    if is_present(dataset, dir)? {
        return Ok(Outcome::Present);
    }
    let parts = dataset.parts()?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|error| io_error("create", parent, &error))?;
    let _lock = lock(parent, || progress.waiting(dataset))?;
    if is_present(dataset, dir)? {
        progress.finish();
        return Ok(Outcome::Present);
    }

    let partial = sibling(dir, ".partial");
    remove(&partial)?;
    fs::create_dir(&partial).map_err(|error| io_error("create", &partial, &error))?;
    write_marker(dataset, &partial)?;
    progress.start(dataset, parts.iter().map(|part| part.estimated_rows).sum());
    write::write_parts(parts, &partial, threads, progress)?;
    progress.finish();

    let old = sibling(dir, ".old");
    remove(&old)?;
    if dir.exists() {
        rename(dir, &old)?;
    }
    rename(&partial, dir)?;
    remove(&old)?;
    Ok(Outcome::Made)
}

/// Whether `dir` is the complete data set; an outdated one, an empty directory or nothing is `false`.
fn is_present(dataset: &Dataset, dir: &Path) -> Result<bool> {
    let occupied = |by: &str| {
        let dir = dir.display();
        DataFusionError::Configuration(format!("{dir} holds {by}; choose another --output or remove it"))
    };
    let Some(found) = read_marker(dir)? else {
        return if is_empty_or_missing(dir)? { Ok(false) } else { Err(occupied("files that datagen did not write")) };
    };
    let wanted = Marker::of(dataset);
    if (&found.suite, found.scale_factor) != (&wanted.suite, wanted.scale_factor) {
        return Err(occupied(&format!("{} at scale factor {}", found.suite, found.scale_factor)));
    }
    Ok(found == wanted)
}

/// The marker of `dir`; `None` if there is none that can be read as such.
fn read_marker(dir: &Path) -> Result<Option<Marker>> {
    let path = dir.join(MARKER);
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path, &error)),
    }
}

fn write_marker(dataset: &Dataset, dir: &Path) -> Result<()> {
    let path = dir.join(MARKER);
    let text = serde_json::to_vec(&Marker::of(dataset)).map_err(|error| DataFusionError::External(error.into()))?;
    fs::write(&path, text).map_err(|error| io_error("write", &path, &error))
}

fn is_empty_or_missing(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("read", dir, &error)),
    }
}

/// Removes `dir` if it carries a marker or is empty; anything else is not ours.
fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join(MARKER).is_file() && !is_empty_or_missing(dir)? {
        let dir = dir.display();
        return Err(DataFusionError::Configuration(format!("{dir} is in the way, and datagen did not make it")));
    }
    fs::remove_dir_all(dir).map_err(|error| io_error("remove", dir, &error))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| io_error(&format!("rename {} to", from.display()), to, &error))
}

fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(suffix);
    PathBuf::from(name)
}

/// Locks directory `parent` against other processes and threads until the result is dropped.
fn lock(parent: &Path, waiting: impl FnOnce()) -> Result<File> {
    let handle = File::open(parent).map_err(|error| io_error("open", parent, &error))?;
    match handle.try_lock() {
        Ok(()) => return Ok(handle),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(error)) => return Err(io_error("lock", parent, &error)),
    }
    handle.lock().map_err(|error| io_error("lock", parent, &error))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Dataset = Dataset { suite: Suite::Tpch, scale_factor: 0.001 };

    /// A fresh directory of this test's own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("ballista-datagen-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn make(dataset: &Dataset, dir: &Path) -> Result<Outcome> {
        publish(dataset, dir, 2, &Progress::silent())
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_second_run_finds_the_data_and_writes_nothing() {
        let scratch = Scratch::new("twice");
        let dir = scratch.0.join("tpch");
        assert_eq!(make(&TINY, &dir).unwrap(), Outcome::Made);
        let written = fs::metadata(dir.join("lineitem.parquet")).unwrap().modified().unwrap();
        assert_eq!(make(&TINY, &dir).unwrap(), Outcome::Present);
        assert_eq!(fs::metadata(dir.join("lineitem.parquet")).unwrap().modified().unwrap(), written);
        assert_eq!(names(&scratch.0), ["tpch"]);
    }

    #[test]
    fn what_an_interrupted_run_left_is_replaced() {
        let scratch = Scratch::new("interrupted");
        let dir = scratch.0.join("tpch");
        let partial = scratch.0.join("tpch.partial");
        fs::create_dir(&partial).unwrap();
        write_marker(&TINY, &partial).unwrap();
        fs::write(partial.join("lineitem.parquet"), "half").unwrap();
        assert!(!is_present(&TINY, &dir).unwrap());
        assert_eq!(make(&TINY, &dir).unwrap(), Outcome::Made);
        assert!(fs::metadata(dir.join("lineitem.parquet")).unwrap().len() > 1000);
        assert_eq!(names(&scratch.0), ["tpch"]);
    }

    #[test]
    fn an_outdated_data_set_is_replaced_and_another_one_is_kept() {
        let scratch = Scratch::new("outdated");
        let dir = scratch.0.join("tpch");
        make(&TINY, &dir).unwrap();
        let outdated = Marker { layout: LAYOUT - 1, ..Marker::of(&TINY) };
        fs::write(dir.join(MARKER), serde_json::to_vec(&outdated).unwrap()).unwrap();
        assert_eq!(make(&TINY, &dir).unwrap(), Outcome::Made);
        assert_eq!(names(&scratch.0), ["tpch"]);

        let other = Dataset { scale_factor: 0.002, ..TINY };
        let error = make(&other, &dir).unwrap_err().to_string();
        assert!(error.contains("holds tpch at scale factor 0.001"), "{error}");
    }

    #[test]
    fn directories_of_others_are_never_touched() {
        let scratch = Scratch::new("foreign");
        for name in ["tpch", "tpch.partial"] {
            let foreign = scratch.0.join(name);
            fs::create_dir(&foreign).unwrap();
            fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
            assert!(make(&TINY, &scratch.0.join("tpch")).is_err(), "{name}");
            assert!(foreign.join("thesis.txt").is_file());
            fs::remove_dir_all(&foreign).unwrap();
        }
    }

    #[test]
    fn concurrent_makers_agree() {
        let scratch = Scratch::new("concurrent");
        let dir = scratch.0.join("tpch");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| make(&TINY, &dir).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Made).count(), 1);
    }
}
