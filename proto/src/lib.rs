// SPDX-License-Identifier: Apache-2.0
//! Messages and services of Ballista, generated from `proto/ballista.proto`; nothing else lives here.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("ballista.v1");

/// Without options: they may be secrets.
impl std::fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectStore").field("url", &self.url).finish_non_exhaustive()
    }
}
