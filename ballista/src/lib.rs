// SPDX-License-Identifier: Apache-2.0
//! Makes an Apache DataFusion application distributed
