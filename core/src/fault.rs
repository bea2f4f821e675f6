// SPDX-License-Identifier: Apache-2.0
//! Places in the code at which a test makes a process die, wait, or leave a protection out.
//!
//! A place has a name and does nothing, unless the program around us has set a hook with [`set_hook`]: none of the
//! daemons does, and nothing that comes over the network or from the environment can.
//!
//! | place | where |
//! |---|---|
//! | `map-batch` | a batch of an exchange is about to be written |
//! | `map-end` | an output is complete, and nobody has been told |
//! | `fetch` | a chunk of another executor's output has arrived |
//! | `result-batch` | a batch of the result is about to be handed on |
//! | `status` | a status is about to be sent |
//! | `acknowledged` | the scheduler has taken in a status |
//! | `staged` | what a task writes is complete and invisible, and nobody has been told |
//! | `commit` | what a task wrote is about to be made visible |
//! | `published` | what a task wrote is visible, and nobody has been told |
//! | `without-checksum` | the hook says whether checksums of blocks are left out |
//! | `without-commit` | the hook says whether what a task writes is published before it is told to |

use std::sync::OnceLock;

/// Is told that a place was reached. What it answers counts at the places that are called `without-…` only.
pub type Hook = Box<dyn Fn(&'static str) -> bool + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Sets what happens at all places of this process, once.
pub fn set_hook(hook: Hook) {
    // A second hook would be a mistake of the test that sets it; the first one stays.
    let _ = HOOK.set(hook);
}

/// This place was reached. What the hook says; `false` without one.
pub fn at(place: &'static str) -> bool {
    HOOK.get().is_some_and(|hook| hook(place))
}
