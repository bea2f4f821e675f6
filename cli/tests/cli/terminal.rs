// SPDX-License-Identifier: Apache-2.0
//! A terminal whose keys are pressed by a test.
//!
//! The crates for this change the features of `libc`, which everything is built on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A program at a terminal.
pub struct Terminal {
    keys: File,
    child: Child,
    shown: Arc<Mutex<String>>,
    /// What was waited for ends here.
    seen: usize,
}

impl Terminal {
    /// Starts a program at a terminal of this width.
    pub fn start(mut command: Command, columns: u16) -> Self {
        let (keys, programs_end) = pair(columns);
        let end = || Stdio::from(programs_end.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: only calls that are allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let failed = libc::setsid() < 0 || libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) < 0;
                if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.spawn().unwrap();
        // The terminal ends when the program has closed its end.
        drop((command, programs_end));
        let shown = Arc::new(Mutex::new(String::new()));
        let screen = Arc::clone(&shown);
        let mut output = keys.try_clone().unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error is how such a terminal ends.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { keys, child, shown, seen: 0 }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown, behind what was waited for before, and returns what is between.
    pub fn wait(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.seen..].find(text) {
                let between = shown[self.seen..self.seen + at].to_owned();
                self.seen += at + text.len();
                return between;
            }
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {:?}", &shown[self.seen..]);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the program's end and returns its exit code and everything that was shown.
    pub fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "still running: {:?}", self.shown.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        };
        // What was written last is still on its way.
        thread::sleep(Duration::from_millis(100));
        let shown = self.shown.lock().unwrap().clone();
        (status.code(), shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both ends of a terminal.
fn pair(columns: u16) -> (File, OwnedFd) {
    let size = libc::winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the pointers are valid for the call; name and settings may be null.
    let result = unsafe {
        libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), &raw const size as *mut _)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both were just opened and belong to nobody else.
    unsafe {
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}
