# SPDX-License-Identifier: Apache-2.0
"""TPC-H, and tables of random types that are the same in every session: values are SQL over the hash of a row's number."""

import pathlib
import random

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
QUERIES = REPOSITORY / "benchmarks/queries/tpch"
TPCH = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]


def tpch_statements(number):
    """What to run before the query, the query, and what to run after it."""
    # Tables are views here, and only a temporary view can be of those.
    text = (QUERIES / f"q{number}.sql").read_text().replace("create view", "create temporary view")
    statements = [statement for statement in map(str.strip, text.split(";")) if statement]
    middle = next(index for index, statement in enumerate(statements) if not statement.startswith(("create", "drop")))
    return statements[:middle], statements[middle], statements[middle + 1:]


def use_tpch(spark, data):
    for table in TPCH:
        spark.read.parquet(f"{data}/{table}.parquet").createOrReplaceTempView(table)


SCALARS = ["boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "decimal(7,2)", "decimal(18,4)",
           "decimal(38,10)", "string", "binary", "date", "timestamp", "timestamp_ntz", "time(6)", "void",
           "interval year to month", "interval day to second"]


class Types:
    """Random types and values of them; one seed gives one table."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.salts = 0

    def table(self, spark, rows, partitions=3):
        """Columns of all scalar types in random order, with nested ones among them; `k` is the row's number."""
        kinds = SCALARS + [self.nested(3) for _ in range(4)]
        self.random.shuffle(kinds)
        columns = [f"{self.value(kind, 'id')} as c{index}" for index, kind in enumerate(kinds)]
        frame = spark.range(0, rows, 1, partitions).selectExpr("id as k", *columns)
        # Computed once, in the rows' own order.
        return frame.localCheckpoint(), ["bigint", *kinds]

    def nested(self, depth):
        shape = self.random.choice(["array", "map", "struct"])
        part = lambda: self.nested(depth - 1) if depth > 1 and self.random.random() < 0.4 else self.random.choice(SCALARS)
        if shape == "array":
            return f"array<{part()}>"
        if shape == "map":
            return f"map<{self.random.choice(['int', 'string', 'decimal(38,10)', 'date'])},{part()}>"
        return "struct<" + ",".join(f"f{index}:{part()}" for index in range(self.random.randint(1, 4))) + ">"

    def value(self, kind, seed):
        """SQL of a value, a null in one of ten rows. `seed`: SQL of what it depends on."""
        if kind == "void":
            return "null"
        return f"if({self.below(10, seed)} = 0, null, cast({self.filled(kind, seed)} as {kind}))"

    def hash(self, seed):
        self.salts += 1
        return f"xxhash64({seed}, {self.salts})"

    def below(self, limit, seed):
        return f"pmod({self.hash(seed)}, {limit})"

    def filled(self, kind, seed):
        some = lambda *values: f"element_at(array({', '.join(values)}), cast({self.below(len(values), seed)} as int) + 1)"
        bits = {"tinyint": 8, "smallint": 16, "int": 32}
        digits = lambda: f"abs({self.hash(seed)} % 10000000000000000)"
        if kind == "boolean":
            return f"{self.below(2, seed)} = 0"
        if kind in bits:
            return f"{self.hash(seed)} % {1 << bits[kind] - 1}"
        if kind == "bigint":
            return self.hash(seed)
        if kind in ("float", "double"):
            special = some("0D", "-0.0D", "double('NaN')", "double('Infinity')", "double('-Infinity')", "4.9e-324D", "1.5D")
            return f"if({self.below(3, seed)} = 0, {special}, cast({self.hash(seed)} as double) / 1e12D)"
        if kind == "decimal(7,2)":
            return f"cast({self.hash(seed)} % 10000000 as decimal(20,0)) / 100"
        if kind == "decimal(18,4)":
            return f"cast({self.hash(seed)} % 10000000000000000 as decimal(20,0)) / 10000"
        if kind == "decimal(38,10)":
            wide = f"cast({self.hash(seed)} as decimal(38,0)) * cast({self.below(99999, seed)} as decimal(5,0)) / 10000000000"
            return f"if({self.below(2, seed)} = 0, {wide}, {some('0', '0.0000000001', '-0.0000000001', '-12.8')})"
        if kind == "string":
            special = some("''", "'é'", "'漢字漢字'", "'🦀'", "'null'", f"repeat('long ', cast({self.below(200, seed)} as int))")
            return f"if({self.below(2, seed)} = 0, {special}, left(hex({self.hash(seed)}), cast({self.below(17, seed)} as int)))"
        if kind == "binary":
            return f"unhex(left(sha2(cast({self.hash(seed)} as string), 256), 2 * cast({self.below(33, seed)} as int)))"
        if kind == "date":
            return f"date_from_unix_date(cast({self.hash(seed)} % 700000 as int))"
        if kind in ("timestamp", "timestamp_ntz"):
            return f"timestamp_micros({self.hash(seed)} % 60000000000000000)"
        if kind == "time(6)":
            clock = [f"lpad({self.below(limit, seed)}, 2, '0')" for limit in (24, 60, 60)]
            return f"concat_ws(':', {', '.join(clock)}) || '.' || lpad({self.below(1000000, seed)}, 6, '0')"
        if kind == "interval year to month":
            return f"make_ym_interval(cast({self.hash(seed)} % 9999 as int), cast({self.hash(seed)} % 12 as int))"
        if kind == "interval day to second":
            return f"make_dt_interval(cast({self.hash(seed)} % 9999 as int), 0, 0, cast({digits()} % 86400000000 as decimal(20,6)) / 1000000)"
        name, inner = kind[:kind.index("<")], kind[kind.index("<") + 1:-1]
        # Elements depend on their position too.
        self.salts += 1
        item, element = f"x{self.salts}", f"xxhash64({seed}, x{self.salts})"
        positions = f"filter(array(1, 2, 3, 4), {item} -> {item} <= {self.below(5, seed)})"
        if name == "array":
            return f"transform({positions}, {item} -> {self.value(inner, element)})"
        if name == "struct":
            parts = [part.split(":", 1) for part in split(inner)]
            return "named_struct(" + ", ".join(f"'{field}', {self.value(kind, seed)}" for field, kind in parts) + ")"
        key, value = split(inner)
        keys = f"array_distinct(transform({positions}, {item} -> cast({self.filled(key, element)} as {key})))"
        if value == "void":
            return f"map_from_arrays({keys}, transform({keys}, {item} -> null))"
        # Keys are made twice, from the same hashes, and so must come out the same.
        return f"map_from_entries(transform({keys}, {item} -> struct({item}, {self.value(value, f'xxhash64({seed}, {item})')})))"


def split(inner):
    """Of type arguments or fields, those at the top."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(inner):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            parts.append(inner[start:index])
            start = index + 1
    return parts + [inner[start:]]


def hashable(kind):
    return "map<" not in kind


def orderable(kind):
    return "map<" not in kind
