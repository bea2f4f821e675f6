// SPDX-License-Identifier: Apache-2.0
//! The journal's records in sled, in a directory of our own.
//!
//! ```text
//!   state-dir/
//!     ballista-state   marks the directory as ours; format version
//!     LOCK             held while a scheduler uses it
//!     CURRENT          name of the generation in use
//!     journal-7/       a sled database
//!     damaged-…/       what an operator had moved aside
//! ```
//!
//! sled 0.34 is kept at arm's length: it is only appended to, by one thread, and read at the start. Records are
//! checksummed here, as are the keys of each write, so that half a write is noticed; `sync_all` on descriptors of our own
//! makes a write durable, which sled's flush alone does not. Nodes of its tree that are large it puts into files of their
//! own (*blobs*), which it never syncs: so values are cut into pieces that keep nodes small, and blobs are synced all the
//! same. What a kill during its own start leaves behind is removed first. It does not give space back, so a generation
//! that has grown is copied into a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::recovered::Recovered;
use super::{Op, Store};
use crate::error::{Result, SchedulerError};
use crate::shell::pool::catch;

const MARKER: &str = "ballista-state";
const VERSION: &str = "1\n";
const LOCK: &str = "LOCK";
const CURRENT: &str = "CURRENT";

/// Values are cut into pieces of this size. A leaf has up to 16 of them, 10 more before it is written anew, and becomes a
/// blob at 128 KiB.
const PIECE: usize = 2 << 10;

/// In front of every piece: checksum of all that follows and of the key, and the number of pieces.
const HEADER: usize = 8;

/// Begins the keys of the pieces that name those which the last write has changed, with their checksums. Alone it was
/// the only piece once, and counts as the first one until there is a newer.
const LAST: &[u8] = b"\x00last";

/// Opening takes at most this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lock that is held is asked for again so long. One whose holder is gone may be held a little longer: by threads of
/// sled that end, or by a child process between its fork and its exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A generation is copied when it is larger than this, and than [`GROWTH`] times its records.
const LARGE: u64 = 64 << 20;
const GROWTH: u64 = 4;

/// Writes between two looks at the size.
const LOOK: u32 = 1000;

/// See the module's documentation.
pub(crate) struct SledStore {
    dir: PathBuf,
    generation: Generation,
    /// Records as they were written; what is copied into a new generation.
    records: BTreeMap<String, Vec<u8>>,
    /// A generation that is smaller is not copied.
    large: u64,
    writes: u32,
    _lock: File,
}

/// An open database.
struct Generation {
    number: u64,
    path: PathBuf,
    db: sled::Db,
    /// Opened once, so that the system tells us of pages that could not be written.
    file: File,
    /// Blobs that are durable.
    blobs: BTreeSet<OsString>,
}

impl SledStore {
    /// Opens or makes the state in `dir`. With `discard`, state that is damaged is moved aside; otherwise it is an error.
    pub(crate) fn open(dir: &Path, discard: bool) -> Result<(Self, Recovered)> {
        let refused = |problem: String| SchedulerError::State { dir: dir.display().to_string(), problem };
        let failed = |action: &str, error: io::Error| refused(format!("cannot {action}: {error}"));
        make(dir).map_err(|error| failed("make the directory", error))?;
        let lock = lock(dir).map_err(refused)?;
        claim(dir).map_err(refused)?;
        let number = current(dir).map_err(|error| failed("read CURRENT", error))?;
        let opened = match number {
            None => Generation::make(dir, 1).map(|generation| (generation, BTreeMap::new())),
            Some(number) => Generation::open(dir, number),
        };
        let read = opened.and_then(|(generation, records)| {
            let recovered = Recovered::new(records.clone())?;
            Ok((generation, records, recovered))
        });
        let (generation, records, recovered) = match (read, number) {
            (Ok(read), _) => read,
            (Err(problem), Some(number)) if discard => {
                let aside = move_aside(dir, number).map_err(|error| failed("move damaged state aside", error))?;
                warn!(problem, aside = %aside.display(), "the state is damaged: starting without it");
                let generation = Generation::make(dir, number + 1).map_err(refused)?;
                (generation, BTreeMap::new(), Recovered::default())
            }
            (Err(problem), _) => {
                return Err(refused(format!(
                    "{problem}; keep a copy of the directory, then start with --discard-damaged-state, which moves the \
                     damaged part aside and starts without the jobs it knew"
                )));
            }
        };
        info!(dir = %dir.display(), generation = generation.number, records = records.len(), "journal opened");
        let mut store = Self { dir: dir.to_owned(), generation, records, large: LARGE, writes: 0, _lock: lock };
        store.compact_if_large().map_err(refused)?;
        Ok((store, recovered))
    }

    /// Copies generations that are larger than this, and than their records.
    #[cfg(test)]
    pub(super) fn copy_above(&mut self, large: u64) {
        self.large = large;
    }

    /// Copies the records into a new generation if the present one is much larger than they are.
    fn compact_if_large(&mut self) -> Result<(), String> {
        let size = self.generation.db.size_on_disk().map_err(|error| error.to_string())?;
        let live: u64 = self.records.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        if size <= self.large.max(GROWTH * live) {
            return Ok(());
        }
        let started = Instant::now();
        let mut next = Generation::make_uncommitted(&self.dir, self.generation.number + 1)?;
        let puts = self.records.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        next.apply(&puts, &BTreeMap::new())?;
        next.sync().map_err(|error| format!("cannot sync a new generation: {error}"))?;
        next.make_current(&self.dir).map_err(|error| format!("cannot switch to a new generation: {error}"))?;
        let old = std::mem::replace(&mut self.generation, next);
        let path = old.path.clone();
        drop(old);
        if let Err(error) = std::fs::remove_dir_all(&path) {
            warn!(path = %path.display(), %error, "an old generation of the journal stays behind");
        }
        info!(
            from = size,
            to = live,
            millis = started.elapsed().as_millis() as u64,
            "journal copied into a new generation"
        );
        Ok(())
    }
}

impl Store for SledStore {
    fn write(&mut self, batches: &[Vec<Op>]) -> Result<(), String> {
        let mut changes: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for op in batches.iter().flatten() {
            match op {
                Op::Put(key, value) => drop(changes.insert(key.clone(), Some(value.clone()))),
                Op::Delete(key) => drop(changes.insert(key.clone(), None)),
                Op::DeleteAll(prefix) => {
                    let under = self.records.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
                    changes.retain(|key, _| !key.starts_with(prefix));
                    changes.extend(under.map(|(key, _)| (key.clone(), None)));
                }
            }
        }
        changes.retain(|key, value| value.is_some() || self.records.contains_key(key));
        if changes.is_empty() {
            return Ok(());
        }
        catch(|| self.generation.apply(&changes, &self.records))??;
        catch(|| self.generation.sync())?.map_err(|error| format!("cannot sync: {error}"))?;
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        self.writes += 1;
        if self.writes.is_multiple_of(LOOK) {
            catch(|| self.compact_if_large())??;
        }
        Ok(())
    }
}

impl Generation {
    fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("journal-{number}"))
    }

    /// An empty generation that counts from now on.
    fn make(dir: &Path, number: u64) -> Result<Self, String> {
        let mut generation = Self::make_uncommitted(dir, number)?;
        generation.sync().and_then(|()| generation.make_current(dir)).map_err(|error| error.to_string())?;
        Ok(generation)
    }

    /// An empty generation. One that was begun before and never counted is replaced.
    fn make_uncommitted(dir: &Path, number: u64) -> Result<Self, String> {
        let path = Self::path(dir, number);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", path.display()))
            }
            _ => Self::open_at(path, number),
        }
    }

    /// A generation that counts, with its records.
    fn open(dir: &Path, number: u64) -> Result<(Self, BTreeMap<String, Vec<u8>>), String> {
        let path = Self::path(dir, number);
        if !path.is_dir() {
            return Err(format!("{} is missing", path.display()));
        }
        // A snapshot that sled was making when it was killed is taken for a whole one by the next start.
        for entry in std::fs::read_dir(&path).map_err(|error| error.to_string())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                std::fs::remove_file(entry.path()).map_err(|error| error.to_string())?;
            }
        }
        let generation = Self::open_at(path, number)?;
        let records = generation.read()?;
        Ok((generation, records))
    }

    /// Opens on a thread of its own: sled may panic, or never return, if its files are damaged.
    fn open_at(path: PathBuf, number: u64) -> Result<Self, String> {
        let (sender, receiver) = channel();
        let at = path.clone();
        let open = move || {
            let config = sled::Config::new().path(&at).cache_capacity(16 << 20).flush_every_ms(Some(500));
            // The directory is locked, so nobody who stays has this lock, of which sled tells by its message only.
            let is_locked = |opened: &Result<_, String>| {
                opened.as_ref().is_err_and(|problem| problem.contains("could not acquire lock"))
            };
            let open = || catch(|| config.open().map_err(|error| error.to_string())).and_then(|opened| opened);
            // Whoever waited may have given up.
            let _ = sender.send(patiently(open, is_locked));
        };
        let spawned = thread::Builder::new().name("ballista-journal-open".to_owned()).spawn(open);
        spawned.map_err(|error| format!("cannot start a thread: {error}"))?;
        let opened = receiver.recv_timeout(PATIENCE);
        let db = opened.map_err(|_| format!("{} cannot be opened within {PATIENCE:?}", path.display()))?;
        let db = db.map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        let file =
            OpenOptions::new().read(true).write(true).open(path.join("db")).map_err(|error| error.to_string())?;
        Ok(Self { number, path, db, file, blobs: BTreeSet::new() })
    }

    /// All records; every checksum must be right, and the last write whole.
    fn read(&self) -> Result<BTreeMap<String, Vec<u8>>, String> {
        catch(|| self.read_unguarded())?
    }

    fn read_unguarded(&self) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let at = self.path.display();
        let mut pieces: BTreeMap<String, BTreeMap<u32, (u32, Vec<u8>)>> = BTreeMap::new();
        let mut sums = BTreeMap::new();
        let mut last: BTreeMap<u32, (u32, Vec<u8>)> = BTreeMap::new();
        for entry in self.db.iter() {
            let (key, value) = entry.map_err(|error| format!("{at} cannot be read: {error}"))?;
            let (sum, count, payload) = open_piece(&key, &value).map_err(|what| format!("{at}: {what}"))?;
            sums.insert(key.to_vec(), sum);
            if let Some(number) = key.strip_prefix(LAST) {
                let number = number.try_into().map_or(0, u32::from_be_bytes);
                last.insert(number, (count, payload.to_vec()));
                continue;
            }
            let (name, number) = split_key(&key).ok_or_else(|| format!("{at}: a key makes no sense"))?;
            pieces.entry(name).or_default().insert(number, (count, payload.to_vec()));
        }
        // Beyond as many as there are now, they are of an earlier write.
        let count = last.get(&0).map_or(0, |(count, _)| *count);
        let piece =
            |number: u32| last.get(&number).filter(|(of, _)| *of == count).map(|(_, payload)| payload.as_slice());
        let last: Option<Vec<&[u8]>> = (0..count).map(piece).collect();
        let last = last.ok_or_else(|| format!("{at}: half of a write is there"))?.concat();
        check_last(&last, &sums).map_err(|what| format!("{at}: {what}"))?;
        let mut records = BTreeMap::new();
        for (name, pieces) in pieces {
            let count = pieces.values().next().map_or(0, |(count, _)| *count);
            let is_whole = pieces.len() == count as usize
                && pieces.iter().enumerate().all(|(at, (number, (of, _)))| at == *number as usize && *of == count);
            if !is_whole {
                return Err(format!("{at}: {} of {count} pieces of record {name} are there", pieces.len()));
            }
            records.insert(name, pieces.into_values().flat_map(|(_, payload)| payload).collect());
        }
        Ok(records)
    }

    /// Writes changes as one atomic batch; `before` are the records so far.
    fn apply(
        &mut self,
        changes: &BTreeMap<String, Option<Vec<u8>>>,
        before: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        let mut last = Vec::new();
        for (name, value) in changes {
            let count = value.as_ref().map_or(0, |value| pieces_of(value));
            for number in 0..count {
                let value = value.as_deref().unwrap_or_default();
                let start = number as usize * PIECE;
                let payload = &value[start..(start + PIECE).min(value.len())];
                let key = piece_key(name, number);
                let piece = seal_piece(&key, count, payload);
                note(&mut last, &key, Some(&piece));
                batch.insert(key, piece);
            }
            for number in count..before.get(name).map_or(0, |value| pieces_of(value)) {
                let key = piece_key(name, number);
                note(&mut last, &key, None);
                batch.remove(key);
            }
        }
        let count = pieces_of(&last);
        for (number, payload) in (0..count).zip(last.chunks(PIECE)) {
            let key = [LAST, &number.to_be_bytes()].concat();
            let piece = seal_piece(&key, count, payload);
            batch.insert(key, piece);
        }
        self.db.apply_batch(batch).map_err(|error| format!("cannot write: {error}"))
    }

    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()> {
        self.db.flush().map_err(|error| io::Error::other(error.to_string()))?;
        self.sync_blobs()?;
        self.file.sync_all()?;
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "conf" || (name.starts_with("snap.") && !name.ends_with(".generating")) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // sled has replaced it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        File::open(&self.path)?.sync_all()
    }

    /// Blobs first: what names one must not be there without it.
    fn sync_blobs(&mut self) -> io::Result<()> {
        let dir = self.path.join("blobs");
        let mut blobs = BTreeSet::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if !self.blobs.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // sled needs it no more.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            blobs.insert(entry.file_name());
        }
        if blobs.iter().any(|blob| !self.blobs.contains(blob)) {
            File::open(&dir)?.sync_all()?;
        }
        self.blobs = blobs;
        Ok(())
    }

    fn make_current(&self, dir: &Path) -> io::Result<()> {
        write_whole(dir, CURRENT, format!("{}\n", self.number).as_bytes())
    }
}

/// Keys have no zeros, so what follows one is the number of the piece.
fn piece_key(name: &str, number: u32) -> Vec<u8> {
    [name.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

fn split_key(key: &[u8]) -> Option<(String, u32)> {
    let at = key.len().checked_sub(5)?;
    let (name, rest) = key.split_at(at);
    let (zero, number) = rest.split_first()?;
    let name = String::from_utf8(name.to_vec()).ok().filter(|_| *zero == 0)?;
    Some((name, u32::from_be_bytes(number.try_into().ok()?)))
}

fn pieces_of(value: &[u8]) -> u32 {
    u32::try_from(value.len().div_ceil(PIECE)).unwrap_or(u32::MAX).max(1)
}

fn seal_piece(key: &[u8], count: u32, payload: &[u8]) -> Vec<u8> {
    let mut piece = vec![0; HEADER];
    piece[4..].copy_from_slice(&count.to_be_bytes());
    piece.extend_from_slice(payload);
    let sum = checksum(key, &piece[4..]);
    piece[..4].copy_from_slice(&sum.to_be_bytes());
    piece
}

/// Checksum, number of pieces, payload.
fn open_piece<'a>(key: &[u8], piece: &'a [u8]) -> Result<(u32, u32, &'a [u8]), String> {
    let name = String::from_utf8_lossy(key).replace('\0', "#");
    let damaged = || format!("record {name} is damaged");
    let sum = piece.get(..4).and_then(|sum| sum.try_into().ok()).map(u32::from_be_bytes).ok_or_else(damaged)?;
    let count = piece.get(4..HEADER).and_then(|count| count.try_into().ok()).map(u32::from_be_bytes);
    let count = count.ok_or_else(damaged)?;
    if sum != checksum(key, &piece[4..]) {
        return Err(damaged());
    }
    Ok((sum, count, &piece[HEADER..]))
}

fn checksum(key: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), rest)
}

/// Adds a changed piece to what [`LAST`] says: length and bytes of the key, then the checksum, or that it is gone.
fn note(last: &mut Vec<u8>, key: &[u8], piece: Option<&[u8]>) {
    last.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    last.extend_from_slice(key);
    last.push(u8::from(piece.is_some()));
    last.extend_from_slice(piece.map_or(&[0; 4], |piece| &piece[..4]));
}

fn check_last(mut last: &[u8], sums: &BTreeMap<Vec<u8>, u32>) -> Result<(), String> {
    let half = || "half of a write is there".to_owned();
    while !last.is_empty() {
        let length = take(&mut last, 4).ok_or_else(half)?;
        let length = u32::from_be_bytes(length.try_into().map_err(|_| half())?) as usize;
        let key = take(&mut last, length).ok_or_else(half)?;
        let is_there = take(&mut last, 1).ok_or_else(half)? == [1];
        let sum = take(&mut last, 4).ok_or_else(half)?;
        let sum = u32::from_be_bytes(sum.try_into().map_err(|_| half())?);
        if sums.get(key).copied() != is_there.then_some(sum) {
            return Err(half());
        }
    }
    Ok(())
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

/// Makes the directory, for its owner's eyes only.
fn make(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// What `attempt` gives, tried again for [`LOCK_PATIENCE`] while `is_held`.
fn patiently<T>(mut attempt: impl FnMut() -> T, is_held: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let outcome = attempt();
        if !is_held(&outcome) || start.elapsed() > LOCK_PATIENCE {
            return outcome;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn lock(dir: &Path) -> Result<File, String> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| format!("cannot open its lock: {error}"))?;
    match patiently(|| file.try_lock(), |locked| matches!(locked, Err(TryLockError::WouldBlock))) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err("another scheduler uses it; one scheduler owns a state directory, so stop that one first".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(format!("cannot lock it: {error}")),
    }
}

/// Marks the directory as ours; refuses one that holds something else.
fn claim(dir: &Path) -> Result<(), String> {
    match std::fs::read_to_string(dir.join(MARKER)) {
        Ok(version) if version == VERSION => return Ok(()),
        Ok(version) => return Err(format!("its format is {}, this version reads {}", version.trim(), VERSION.trim())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(format!("cannot read its mark: {error}")),
        Err(_) => {}
    }
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let stranger =
        entries.flatten().map(|entry| entry.file_name()).find(|name| name != LOCK && name != "ballista-state.tmp");
    if let Some(stranger) = stranger {
        let stranger = stranger.to_string_lossy();
        return Err(format!("it holds {stranger}, and no state of a scheduler; name an empty or a new directory"));
    }
    write_whole(dir, MARKER, VERSION.as_bytes()).map_err(|error| format!("cannot mark it: {error}"))
}

fn current(dir: &Path) -> io::Result<Option<u64>> {
    match std::fs::read_to_string(dir.join(CURRENT)) {
        Ok(number) => {
            let number = number.trim().parse();
            number.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no number"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn move_aside(dir: &Path, number: u64) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let aside = dir.join(format!("damaged-{number}-{seconds}"));
    let path = Generation::path(dir, number);
    if path.exists() {
        std::fs::rename(path, &aside)?;
    }
    Ok(aside)
}

/// A small file, whole or as before.
fn write_whole(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}
