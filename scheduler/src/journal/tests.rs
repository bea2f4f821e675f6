// SPDX-License-Identifier: Apache-2.0
//! The store on real files: processes killed while they write and while they open, a disk that is full, bits that flip.
//!
//! A child process (this test binary again) writes batches of records and says which are durable. Whatever happens to it,
//! all of those must be there afterwards, and of every batch all or nothing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ballista_core::JobId;
use ballista_proto::journal as record;

use super::recovered::Recovered;
use super::store::SledStore;
use super::{Bounded, Op, Store, keys};

/// Batches that are not removed by later ones.
const KEPT: u64 = 10;

const DIR: &str = "BALLISTA_JOURNAL_TEST_DIR";
const LIMIT: &str = "BALLISTA_JOURNAL_TEST_LIMIT";

/// Batch `number`: two records that belong together, one of them of several pieces now and then, and the end of an earlier
/// batch.
fn batch(number: u64) -> Vec<Op> {
    let size = if number.is_multiple_of(7) { 600_000 } else { 500 };
    let task = record::Task { task: number as u32, attempt: 0, partitions: vec![number as u32; size / 5] };
    let mut ops = vec![
        Op::put(keys::step(&job(number), 0), &record::Step { reason: None, digest: number, attempt: 0 }),
        Op::put(keys::commit(&job(number), ballista_core::TaskId(0)), &task),
    ];
    if number > KEPT {
        ops.push(Op::DeleteAll(keys::job(&job(number - KEPT))));
    }
    ops
}

fn job(number: u64) -> JobId {
    JobId::new(format!("j{number:08}")).unwrap()
}

/// Batches are whole, and all up to `acknowledged` are there unless a later one has removed them.
fn check(recovered: &Recovered, acknowledged: u64) -> u64 {
    let mut last = 0;
    for (id, job) in &recovered.jobs {
        let number: u64 = id.as_str()[1..].parse().unwrap();
        let step = job.steps.first().unwrap_or_else(|| panic!("half of batch {number}"));
        let commit = job.commits.first().unwrap_or_else(|| panic!("half of batch {number}"));
        assert_eq!((step.digest, u64::from(commit.task)), (number, number));
        assert!(commit.partitions.iter().all(|partition| u64::from(*partition) == number));
        last = last.max(number);
    }
    assert!(last >= acknowledged, "batch {acknowledged} was acknowledged, the last one there is {last}");
    let first = last.saturating_sub(KEPT - 1).max(1);
    let expected: Vec<JobId> = (first..=last).filter(|_| last > 0).map(job).collect();
    assert!(recovered.jobs.keys().eq(&expected), "{:?} are there of {expected:?}", recovered.jobs.keys());
    last
}

/// The process that is killed: opens the store, says so, and writes until it cannot.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn child() {
    let dir = std::env::var(DIR).unwrap();
    if let Ok(limit) = std::env::var(LIMIT) {
        limit_file_size(limit.parse().unwrap());
    }
    let mut out = std::io::stdout();
    writeln!(out, "\nopening").unwrap();
    let (store, recovered) = SledStore::open(Path::new(&dir), false).unwrap();
    let mut store = Bounded::new(store, Duration::from_secs(2)).unwrap();
    let mut number = check(&recovered, 0);
    writeln!(out, "opened {number}").unwrap();
    loop {
        let group: Vec<_> = (1..=1 + number % 3).map(|next| batch(number + next)).collect();
        match store.write(&group) {
            Ok(()) => number += group.len() as u64,
            Err(problem) => {
                writeln!(out, "failed {problem}").unwrap();
                std::process::exit(3);
            }
        }
        writeln!(out, "durable {number}").unwrap();
    }
}

/// As a full disk: no file may become larger.
fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: plain system calls on valid arguments.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

fn spawn(dir: &Path, limit: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "journal::tests::child", "--ignored", "--nocapture"]).env(DIR, dir);
    if let Some(limit) = limit {
        command.env(LIMIT, limit.to_string());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// What a child has said so far.
#[derive(Default)]
struct Heard {
    durable: u64,
    opening: bool,
    opened: bool,
    failed: bool,
}

/// Listens to a child until `enough`, or its end.
fn listen(lines: &mut impl Iterator<Item = std::io::Result<String>>, heard: &mut Heard, enough: fn(&Heard) -> bool) {
    while !enough(heard) {
        let Some(Ok(line)) = lines.next() else { return };
        let number = |text: &str| text.parse().unwrap_or(0);
        match line.split_once(' ') {
            Some(("opened", text)) => (heard.opened, heard.durable) = (true, number(text)),
            Some(("durable", text)) => heard.durable = number(text),
            Some(("failed", _)) => heard.failed = true,
            _ => heard.opening |= line == "opening",
        }
    }
}

/// Numbers that look random.
fn scramble(number: u64) -> u64 {
    let x = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 20
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut while_opening, mut while_writing, mut acknowledged) = (0, 0, 0);
    for round in 0..70 {
        let mut child = spawn(dir.path(), None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = Heard::default();
        let millis = if round % 7 < 2 {
            listen(&mut lines, &mut heard, |heard| heard.opening);
            scramble(round) % 12
        } else {
            listen(&mut lines, &mut heard, |heard| heard.opened);
            scramble(round) % 40
        };
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        listen(&mut lines, &mut heard, |_| false);
        assert!(heard.opening && !heard.failed);
        acknowledged = heard.durable.max(acknowledged);
        if heard.opened {
            while_writing += 1;
        } else {
            while_opening += 1;
        }
    }
    println!("{while_opening} killed while opening, {while_writing} while writing, {acknowledged} batches");
    assert!(while_opening >= 5, "{while_opening}");
    let (_store, recovered) = SledStore::open(dir.path(), false).unwrap();
    check(&recovered, acknowledged);
}

/// What has reached the disk at some moment, as after a power cut: the writer is halted, and the file that its file system
/// is on copied. Where nothing can be mounted, because we are not root, it is left out and says so.
#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (image, copy, live, dead) = (path("image"), path("copy"), path("live"), path("dead"));
    [&live, &dead].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    run(&["truncate", "-s", "256M", &image]);
    if !is_done(&["mkfs.ext4", "-q", &image]) || !is_done(&["mount", "-o", "loop", &image, &live]) {
        println!("left out: no file system can be made and mounted here");
        return;
    }
    let _live = Mount(live.clone());
    let state = Path::new(&live).join("state");
    let mut child = Killed(spawn(&state, None));
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut heard = Heard::default();
    listen(&mut lines, &mut heard, |heard| heard.opened);
    // Read as fast as it is said, so that what is known here was said before the halt.
    let durable = Arc::new(AtomicU64::new(0));
    let said = Arc::clone(&durable);
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if let Some(number) = line.strip_prefix("durable ").and_then(|number| number.parse().ok()) {
                said.store(number, Ordering::SeqCst);
            }
        }
    });
    let (mut images, mut behind) = (0, 0);
    for round in 0..30 {
        std::thread::sleep(Duration::from_millis(20 + scramble(round) % 100));
        let pid = child.0.id().to_string();
        run(&["kill", "-STOP", &pid]);
        let acknowledged = durable.load(Ordering::SeqCst);
        // What the system writes meanwhile would be newer at the end than at the beginning.
        while {
            run(&["cp", &image, &copy]);
            !is_done(&["cmp", "-s", &image, &copy])
        } {}
        run(&["kill", "-CONT", &pid]);
        run(&["mount", "-o", "loop", &copy, &dead]);
        let mounted = Mount(dead.clone());
        let (store, recovered) = SledStore::open(&Path::new(&dead).join("state"), false).unwrap();
        let last = check(&recovered, acknowledged);
        behind = behind.max(last - acknowledged);
        drop((store, mounted));
        images += 1;
    }
    drop(child);
    reader.join().unwrap();
    println!(
        "{images} images, {} batches, at most {behind} there that were not acknowledged",
        durable.load(Ordering::SeqCst)
    );
}

/// Ends a process when dropped, also one that is halted.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Unmounts a file system when dropped.
struct Mount(String);

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever looks at the test's output sees it mounted.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn is_done(command: &[&str]) -> bool {
    Command::new(command[0]).args(&command[1..]).status().is_ok_and(|status| status.success())
}

fn run(command: &[&str]) {
    assert!(is_done(command), "{command:?}");
}

#[test]
fn a_full_disk_fails_the_write_and_nothing_before_it() {
    let dirs: Vec<_> = (0..10).map(|_| tempfile::tempdir().unwrap()).collect();
    let limit = |round: usize| (700 << 10) + scramble(round as u64) % (1 << 20);
    let children: Vec<_> = dirs.iter().enumerate().map(|(round, dir)| spawn(dir.path(), Some(limit(round)))).collect();
    for (dir, mut child) in dirs.iter().zip(children) {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = Heard::default();
        listen(&mut lines, &mut heard, |_| false);
        child.wait().unwrap();
        assert!(heard.opened && heard.failed, "the disk was not full");
        let (_store, recovered) = SledStore::open(dir.path(), false).unwrap();
        check(&recovered, heard.durable);
    }
}

#[test]
fn a_bit_that_flips_is_noticed_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut store, _) = SledStore::open(dir.path(), false).unwrap();
        for number in 1..60 {
            store.write(&[batch(number)]).unwrap();
        }
    }
    let original = {
        let (_store, recovered) = SledStore::open(dir.path(), false).unwrap();
        check(&recovered, 59);
        recovered
    };
    let files = files_of(dir.path());
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..200 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let (file, size) = &files[scramble(round) as usize % files.len()];
        let mut bytes = std::fs::read(copy.path().join(file)).unwrap();
        let at = (scramble(round + 1_000) % size) as usize;
        bytes[at] ^= 1 << (round % 8);
        std::fs::write(copy.path().join(file), bytes).unwrap();
        match SledStore::open(copy.path(), false) {
            Err(_) => refused += 1,
            Ok((_store, recovered)) => {
                assert!(is_same(&recovered, &original), "a flipped bit of {file} at {at} has changed something");
                harmless += 1;
            }
        }
    }
    println!("{refused} refused, {harmless} without effect");
    assert!(refused > 20, "{refused}");
}

#[test]
fn damaged_state_is_refused_and_moved_aside_on_request() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut store, _) = SledStore::open(dir.path(), false).unwrap();
        store.write(&[batch(1)]).unwrap();
        store.write(&[vec![Op::Put("job/j/strange".to_owned(), vec![1])]]).unwrap();
    }
    let error = SledStore::open(dir.path(), false).err().unwrap().to_string();
    assert!(error.contains("strange") && error.contains("--discard-damaged-state"), "{error}");
    let (store, recovered) = SledStore::open(dir.path(), true).unwrap();
    assert!(recovered.jobs.is_empty());
    drop(store);
    let is_aside = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("damaged-");
    assert!(std::fs::read_dir(dir.path()).unwrap().flatten().any(is_aside));
    assert!(SledStore::open(dir.path(), false).is_ok());
}

#[test]
fn one_scheduler_owns_a_directory_and_only_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let held = SledStore::open(dir.path(), false).unwrap();
    let error = SledStore::open(dir.path(), true).err().unwrap().to_string();
    assert!(error.contains("another scheduler"), "{error}");
    // One that is about to let go is waited for, in the directory as in the database.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    let (store, _) = SledStore::open(dir.path(), false).unwrap();
    drop(store);
    let database = File::options().write(true).open(dir.path().join("journal-1/db")).unwrap();
    database.lock().unwrap();
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(300));
        drop(database);
    });
    assert!(SledStore::open(dir.path(), false).is_ok());

    let strange = tempfile::tempdir().unwrap();
    std::fs::write(strange.path().join("thesis.tex"), "x").unwrap();
    let error = SledStore::open(strange.path(), true).err().unwrap().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(std::fs::read_to_string(strange.path().join("thesis.tex")).unwrap(), "x");
}

#[test]
fn a_store_that_has_grown_is_copied_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = SledStore::open(dir.path(), false).unwrap();
    store.copy_above(1 << 20);
    // Much is written, little stays.
    for round in 0..1_100 {
        store.write(&[vec![Op::Put(format!("job/j{}/request", round % 3), vec![7; 100_000])]]).unwrap();
    }
    drop(store);
    let current = std::fs::read_to_string(dir.path().join("CURRENT")).unwrap();
    assert_ne!(current.trim(), "1");
    let generations = std::fs::read_dir(dir.path()).unwrap().flatten();
    let generations = generations.filter(|entry| entry.file_name().to_string_lossy().starts_with("journal-")).count();
    assert_eq!(generations, 1);
}

fn is_same(a: &Recovered, b: &Recovered) -> bool {
    format!("{:?}", a.jobs) == format!("{:?}", b.jobs) && a.cluster == b.cluster && a.executors == b.executors
}

/// Files with their sizes, but for the ones that hold nothing.
fn files_of(dir: &Path) -> Vec<(String, u64)> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            files.extend(files_of(&entry.path()).into_iter().map(|(file, size)| (format!("{name}/{file}"), size)));
        } else {
            files.insert(name, entry.metadata().unwrap().len());
        }
    }
    files.into_iter().filter(|(_, size)| *size > 0).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
