// SPDX-License-Identifier: Apache-2.0
//! Messages and services of Ballista, generated from `proto/ballista.proto`; nothing else lives here.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("ballista.v1");
