// SPDX-License-Identifier: Apache-2.0
//! Submit a plan, follow the job, stream results
