// SPDX-License-Identifier: Apache-2.0
//! Scheduler: planning, adaptive rules, services
