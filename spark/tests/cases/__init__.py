# SPDX-License-Identifier: Apache-2.0
"""What drivers run: functions of a session. Those that `same` tests use must give the same rows in every session."""
