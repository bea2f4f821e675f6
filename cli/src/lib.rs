// SPDX-License-Identifier: Apache-2.0
//! SQL client of Ballista
