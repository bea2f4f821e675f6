# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks share.

* `driver`: Spark drivers, each in a process of its own, that run functions of `cases` and can be killed.
* `probe`: what runs there beside a query: exact rows, the executed plan, metrics, leaks.
* `tables`: TPC-H, and random tables of all types.
* `compare`: whether two answers are the same.
"""
