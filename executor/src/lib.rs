// SPDX-License-Identifier: Apache-2.0
//! Executor: task runner, memory, services
