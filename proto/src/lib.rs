// SPDX-License-Identifier: Apache-2.0
//! Messages and services of Ballista, generated from the files in `proto/`; nothing else lives here.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

pub mod v1 {
    tonic::include_proto!("ballista.v1");
}

/// What a scheduler writes down.
pub mod journal {
    pub mod v1 {
        tonic::include_proto!("ballista.journal.v1");
    }
    pub use v1::*;
}

pub use v1::*;

/// Without options: they may be secrets.
impl std::fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectStore").field("url", &self.url).finish_non_exhaustive()
    }
}
