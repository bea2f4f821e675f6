// SPDX-License-Identifier: Apache-2.0
//! The pure job state machine and placement.
//!
//! [`State`] owns jobs, stages, tasks, attempts, executors and slots. Its one entry is
//! [`State::step`]: an [`Event`] and the time go in, a list of [`Effect`]s comes out. Around it a thin shell does the
//! I/O: it turns messages into events, effects into messages, and plans stages when asked to.
//!
//! **Architecture invariant: nothing here does I/O, reads a clock, locks, awaits or draws a random number, and nothing
//! depends on the order of a hash map.** The same events give the same effects, so a run can be simulated by the
//! hundred thousand, replayed from a journal and shrunk to its shortest failing prefix.
//!
//! # A tour
//!
//! | module | holds |
//! |---|---|
//! | [`event`], [`effect`] | the two vocabularies at the border |
//! | [`state`] | [`State`], the dispatch of events, joining and losing executors |
//! | `jobs` | a job's way from submission to its end: planning, stages, freeing |
//! | `tasks` | task statuses: first success wins, everything else changes nothing |
//! | `retry` | what the failure of an attempt means, by its class |
//! | `recovery` | lost executors and lost outputs: what has to run again |
//! | `restore` | what executors bring along: after a broken connection, after a scheduler's death |
//! | `speculation` | second attempts for late tasks |
//! | `placement` | which job gets which free slots on which executor |
//! | `fair`, `free`, `pending` | the three indexes placement reads: jobs by share, executors by free slots, partitions by locality |
//! | `executors`, `job`, `stage` | the records |
//! | [`view`] | read-only snapshots for progress and user interfaces |
//! | `invariants` | what must hold after every step, checked by the tests |
//!
//! # The life of a job
//!
//! ```text
//! JobSubmitted ─► Plan ─► Planned ─► Launch… ─► TaskFinished… ─► Plan{finished} ─► Planned{complete} ─► Launch…
//!                                                                                                         │
//!       FreeJob ◄─ ClientDone ◄─ JobFinished ◄─ TaskFinished… ◄─ StreamReady ◄─ TaskStreaming ◄───────────┘
//! ```
//!
//! A user's error, a cancellation or too many failures end it at any point: `JobFailed` or `JobCancelled`, a `CancelTask`
//! for every running task, one `FreeJob`. What is lost with an executor is computed again, and only that:
//!
//! ```text
//! ExecutorLost ─► OutputsLost… ─► Launch… (what is lost and still wanted) ─► TaskFinished… ─► OutputsMoved ─► Launch…
//! ```
//!
//! A scheduler that died starts from what its journal says was planned; what was done, the executors bring along:
//!
//! ```text
//! Restored ─► ExecutorJoined{held}… ─► Adopted… CancelTask… ─► (all are back, or time is up) ─► Launch… (the rest)
//! ```
//!
//! # What always holds
//!
//! * Slots are conserved: a slot is free or held by exactly one task. The slots of a cancelled task stay held until
//!   its executor confirms the end or is lost, so an executor is never over-committed.
//! * A partition of a stage is pending or in one task; a task has one output at most, that of its first attempt to
//!   succeed.
//! * Outputs of two attempts of a stage are never read together, unless the stage gives the same rows every time.
//! * No slot stays free while a partition waits for one, but for tasks that wait for an executor on which they have not
//!   failed.
//! * A status changes something only if its executor lives in that incarnation and runs exactly that attempt.
//! * Every job ends: a running one always waits for a plan, a task or a slot.
//! * A step costs about what it changes, and memory grows with tasks and partitions, never with their product.

pub mod effect;
pub mod event;
mod executors;
mod fair;
mod free;
mod invariants;
mod job;
mod jobs;
mod pending;
mod placement;
mod recovery;
mod restore;
mod retry;
mod speculation;
mod stage;
pub mod state;
mod tasks;
pub mod view;

pub use effect::{Effect, PlanReason, StageFinished, TaskOutput};
pub use event::{
    Event, HeldState, HeldTask, Instant64, OutputStats, RestoredJob, RestoredStage, RestoredTask, Slicing, StageSpec,
};
pub use state::{Limits, Speculation, State};
pub use view::{ExecutorView, Footprint, JobState, JobView, Progress, StageState, StageView};
