# SPDX-License-Identifier: Apache-2.0
"""Writes what Spark itself makes of a table of all types into `spark/native/tests/fixtures`, for tests without a JVM.

    python spark/tests/dump_fixtures.py [folder]

The README in that folder tells the formats. To be run again only if the tables here change: its output is committed.
"""

import pathlib
import sys

from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from harness import driver

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "native/tests/fixtures"

# Hashes are dumped with the seed that `hash` starts from, and with the hashes of these ints as seeds.
SEEDS = [None, 0, 7]

LONG_STRINGS = [f"'{text}'" for text in ("é", "漢字", "🦀🦀", "x" * 31, "y" * 64, "éa漢b🦀c", "\\u0000", "~" * 127)]

# Type: its values as SQL, one a row. Shorter lists are filled up with nulls.
TYPES = {
    "void": ["null"],
    "boolean": ["true", "false", "null"],
    "tinyint": ["0", "1", "-1", "127", "-128", "null", "42"],
    "smallint": ["0", "1", "-1", "32767", "-32768", "null", "-300"],
    "int": ["0", "1", "-1", "2147483647", "-2147483648", "null", "305419896"],
    "bigint": ["0", "1", "-1", "9223372036854775807", "-9223372036854775807L - 1", "null", "4294967296", "-4294967297"],
    "float": ["0", "-0.0D", "'NaN'", "'Infinity'", "'-Infinity'", "null", "1.5", "-1.5", "3.4028235e38", "1.4e-45"],
    "double": ["0", "-0.0D", "'NaN'", "'Infinity'", "'-Infinity'", "null", "1.5", "-1.5", "1.7976931348623157e308", "4.9e-324"],
    "decimal(9,2)": ["0", "0.01", "-0.01", "9999999.99", "-9999999.99", "null", "1"],
    "decimal(18,0)": ["0", "1", "-1", "999999999999999999", "-999999999999999999", "null", "123456789012"],
    # Small values of a wide type have few bytes; those around powers of 256 show where a sign byte is needed.
    "decimal(19,0)": ["0", "1", "-1", "127", "128", "-128", "-129", "null", "255", "256", "-256", "32767", "32768", "-32768",
                      "-32769", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"],
    "decimal(38,18)": ["0", "1", "-1", "0.000000000000000001", "-0.000000000000000001", "null", "12345678901234567890.5",
                       "-12345678901234567890.5", "99999999999999999999.999999999999999999",
                       "-99999999999999999999.999999999999999999"],
    "string": ["''"] + [f"'{'abcdefghi'[:n]}'" for n in range(1, 10)] + ["null"] + LONG_STRINGS,
    "binary": ["x''", "x'00'", "x'ff'", "x'80ff'", "null", "x'7f8081'", "x'deadbeef'", "x'fffefdfcfb'", "x'000102030405'",
               "x'80818283848586'", "x'0001020304050607ff'"],
    "date": ["'1970-01-01'", "'1969-12-31'", "'2026-11-22'", "'0001-01-01'", "'9999-12-31'", "null"],
    "timestamp": ["'1970-01-01 00:00:00'", "'1969-12-31 23:59:59.999999'", "'2026-11-22 06:00:00.123456'",
                  "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "null"],
    "timestamp_ntz": ["'1970-01-01 00:00:00'", "'1969-12-31 23:59:59.999999'", "'2026-11-22 06:00:00.123456'",
                      "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "null"],
    "time(6)": ["'00:00:00'", "'23:59:59.999999'", "'12:34:56.789'", "null"],
    "interval year to month": ["interval '0-0' year to month", "interval '1-2' year to month",
                               "interval '-178956970-8' year to month", "null"],
    "interval day to second": ["interval '0 00:00:00' day to second", "interval '1 02:03:04.567891' day to second",
                               "interval '-106751991 04:00:54.775808' day to second", "null"],
    "array<int>": ["array()", "array(1)", "array(1, null, 3)", "array(null)", "null", "array(0, 0, 0, 0, 0)"],
    "array<boolean>": ["array()", "array(true, null, false)", "null",
                       "transform(sequence(1, 65), x -> if(x % 7 = 0, null, x % 2 = 0))"],
    "array<tinyint>": ["array()", "array(1Y, null, -1Y)", "null"],
    "array<double>": ["array(-0.0D, double('NaN'), null, 1D)", "array()"],
    "array<string>": ["array('', 'a', null, '漢字')", "array()", "null", "array('odd', 'lengths', 'abcde')"],
    "array<decimal(38,2)>": ["array(1, null, -1.01, 99999999999999999999.99)", "null"],
    "array<array<bigint>>": ["array(array(1L, null), null, array(), array(-1L))", "array()", "null"],
    "array<struct<a:int,b:string>>": ["array(struct(1, 'x'), null, struct(null, null))", "array()", "null"],
    "array<void>": ["array(null, null)", "array()", "null"],
    "struct<i:int,s:string,d:decimal(30,3),n:void>": [
        "struct(1, 'x', 1.5, null)", "struct(null, null, null, null)", "null", "struct(-1, '', -12345678901234567890.125, null)"],
    "struct<a:struct<b:struct<c:binary>>,m:interval year to month>": [
        "struct(struct(struct(x'00ff')), interval '1' month)", "struct(struct(null), null)", "struct(null, null)", "null"],
    "map<int,string>": ["map()", "map(1, 'x')", "map(2, null, 1, 'y')", "null"],
    "map<string,array<map<string,double>>>": ["map('k', array(map('l', -0.0D), null, map()))", "map()", "null"],
    "map<struct<a:date,b:boolean>,struct<c:timestamp>>": [
        "map(struct(date'2020-02-29', true), struct(timestamp'2020-02-29 12:00:00'))", "null"],
}


def table(spark, columns):
    """A table of columns `c0`, `c1`, … and the SQL of each value. `columns`: (type, values)."""
    rows = max(len(values) for _, values in columns)
    filled = [values + ["null"] * (rows - len(values)) for _, values in columns]
    lines = [", ".join(f"cast({values[row]} as {kind}) as c{index}" for index, ((kind, _), values) in
                       enumerate(zip(columns, filled))) for row in range(rows)]
    return spark.sql(" union all ".join(f"select {line}" for line in lines)).coalesce(1), filled


def dump(spark, folder, name, columns):
    frame, literals = table(spark, columns)
    jvm, plan = spark._jvm, frame._jdf.queryExecution().executedPlan()
    rows = list(plan.executeCollect())
    (folder / f"{name}.rows").write_bytes(b"".join(
        len(data).to_bytes(4, "little") + data for data in (bytes(row.getBytes()) for row in rows)))

    schema = arrow_schema(spark, frame.schema)
    (folder / f"{name}.schema").write_bytes(bytes(schema.serializeAsMessage()))
    (folder / f"{name}.arrow").write_bytes(arrow_stream(jvm, schema, rows))

    lines = ["column\trow\ttype\tvalue\tseed\thash"]
    types = [kind for kind, _ in columns]
    for prefix in SEEDS:
        before = "" if prefix is None else f"{prefix}, "
        seed = 42 if prefix is None else spark.sql(f"select hash({prefix})").first()[0]
        names = [f"c{index}" for index in range(len(types))]
        hashes = frame.selectExpr(*[f"hash({before}{column})" for column in names],
                                  f"hash({before}{', '.join(names)})").collect()
        for index, kind in enumerate(types):
            for row, found in enumerate(hashes):
                # The nulls that fill up are all alike.
                if row <= len(columns[index][1]):
                    lines.append(f"{index}\t{row}\t{kind}\t{literals[index][row]}\t{seed}\t{found[index]}")
        lines += [f"*\t{row}\trow\tall columns\t{seed}\t{found[-1]}" for row, found in enumerate(hashes)]
    (folder / f"{name}.hashes").write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(rows)} rows of {len(columns)} columns, {len(lines) - 1} hashes")


def arrow_schema(spark, schema):
    """As the plugin makes it: zoned timestamps in UTC, every column may be null."""
    parts = schema.jsonValue()
    for field in parts["fields"]:
        field["nullable"] = True
    struct = spark._jvm.org.apache.spark.sql.types.DataType.fromJson(StructType.fromJson(parts).json())
    return spark._jvm.org.apache.spark.sql.util.ArrowUtils.toArrowSchema(struct, "UTC", True, False)


def arrow_stream(jvm, schema, rows):
    root = jvm.org.apache.arrow.vector.VectorSchemaRoot.create(
        schema, jvm.org.apache.spark.sql.util.ArrowUtils.rootAllocator())
    writer = jvm.org.apache.spark.sql.execution.arrow.ArrowWriter.create(root)
    for row in rows:
        writer.write(row)
    writer.finish()
    out = jvm.java.io.ByteArrayOutputStream()
    stream = jvm.org.apache.arrow.vector.ipc.ArrowStreamWriter(root, None, out)
    stream.writeBatch()
    stream.close()
    root.close()
    return bytes(out.toByteArray())


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES
    folder.mkdir(parents=True, exist_ok=True)
    driver.end_on_signals()
    spark = (SparkSession.builder.master("local[1]").appName("fixtures").config("spark.ui.enabled", "false")
             .config("spark.sql.session.timeZone", "UTC").config("spark.sql.legacy.allowHashOnMapType", "true")
             .config("spark.sql.timeType.enabled", "true").getOrCreate())
    try:
        dump(spark, folder, "types", list(TYPES.items()))
        # Three words of null bits.
        dump(spark, folder, "wide", [("smallint", [str(n), "null" if n % 3 == 0 else str(-n)]) for n in range(130)])
        # Spark lets bytes that are no UTF-8 pass as a string. Declared as binary here, or Arrow's readers refuse them; the
        # bytes of rows and the hashes are the same.
        invalid = [f"unhex('{data}')" for data in ("ff", "c328", "80808080", "61e28c", "f09f")]
        dump(spark, folder, "invalid_utf8", [("binary", invalid)])
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
