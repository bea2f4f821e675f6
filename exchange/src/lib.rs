// SPDX-License-Identifier: Apache-2.0
//! Shuffle store, Flight data service, fetch client
