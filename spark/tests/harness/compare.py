# SPDX-License-Identifier: Apache-2.0
"""Whether two answers are the same. A difference is an AssertionError that shows a few of the rows."""

import collections
import math

TOLERANCE = 1e-9


def same_rows(got, expected):
    """The same rows, in any order: floats to a relative 1e-9, everything else exactly."""
    assert len(got) == len(expected), f"{len(got)} rows, expected {len(expected)}"
    for index, (left, right) in enumerate(zip(sorted(got, key=_order), sorted(expected, key=_order))):
        assert _equal(left, right), f"row {index} in order is {left}, expected {right}"


def same_bytes(got, expected):
    """The same multiset of rows, every bit of them."""
    got, expected = collections.Counter(got), collections.Counter(expected)
    extra, missing = list((got - expected).elements()), list((expected - got).elements())
    show = lambda rows: [row[:400].hex(" ", 8) for row in sorted(rows)[:2]]
    assert not extra and not missing, (
        f"{len(extra)} rows too many, {len(missing)} missing, of {sum(expected.values())}\n"
        f"  too many: {show(extra)}\n  missing: {show(missing)}")


def _equal(left, right):
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=0) or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and left == right


def _order(row):
    # Floats last and rounded: they may differ a little.
    exact = tuple((value is None, str(value)) for value in row if not isinstance(value, float))
    return exact, tuple(f"{value:.6e}" for value in row if isinstance(value, float))
