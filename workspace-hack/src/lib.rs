// SPDX-License-Identifier: Apache-2.0
//! Nothing but dependencies: see `Cargo.toml`.
