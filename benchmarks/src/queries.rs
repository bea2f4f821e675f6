// SPDX-License-Identifier: Apache-2.0
//! The query texts of the two suites, compiled in from `benchmarks/queries`.
//!
//! The folder is the list: TPC-H has all 22 queries, TPC-DS the 50 that we run. A text may hold several statements
//! (TPC-H q15 makes a view, queries it and drops it); [`crate::statements`] splits them.

use std::fmt;

/// A benchmark: its tables and its numbered queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// TPC-H: 8 tables, 22 queries.
    Tpch,
    /// TPC-DS: 24 tables, 50 of its queries.
    Tpcds,
}

/// Number and text of each query of a folder.
type Queries = &'static [(u32, &'static str)];

macro_rules! queries {
    ($suite:literal: $($number:literal)*) => {
        &[$(($number, include_str!(concat!("../queries/", $suite, "/q", $number, ".sql"))),)*]
    };
}

const TPCH: Queries = queries!("tpch": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22);

const TPCDS: Queries = queries!("tpcds":
    1 3 5 7 9 11 13 15 17 19 21 23 25 27 29 31 33 35 37 39 41 43 45 47 49
    51 53 55 57 59 61 63 65 67 69 71 73 75 77 79 81 83 85 87 89 91 93 95 97 99);

const TPCH_TABLES: &[&str] = &["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

const TPCDS_TABLES: &[&str] = &[
    "call_center",
    "catalog_page",
    "catalog_returns",
    "catalog_sales",
    "customer",
    "customer_address",
    "customer_demographics",
    "date_dim",
    "household_demographics",
    "income_band",
    "inventory",
    "item",
    "promotion",
    "reason",
    "ship_mode",
    "store",
    "store_returns",
    "store_sales",
    "time_dim",
    "warehouse",
    "web_page",
    "web_returns",
    "web_sales",
    "web_site",
];

impl Suite {
    /// Lower-case name, as used in commands and directory names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpch => "tpch",
            Self::Tpcds => "tpcds",
        }
    }

    /// Names of the tables.
    pub fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Tpch => TPCH_TABLES,
            Self::Tpcds => TPCDS_TABLES,
        }
    }

    /// Numbers of the queries, ascending.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        self.queries().iter().map(|(number, _)| *number)
    }

    /// Text of query `number`, if the suite has it.
    pub fn query(self, number: u32) -> Option<&'static str> {
        self.queries().iter().find(|(candidate, _)| *candidate == number).map(|(_, text)| *text)
    }

    fn queries(self) -> Queries {
        match self {
            Self::Tpch => TPCH,
            Self::Tpcds => TPCDS,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text of TPC-H query `number` (1 to 22).
pub fn tpch(number: u32) -> Option<&'static str> {
    Suite::Tpch.query(number)
}

/// Text of TPC-DS query `number`; the suite holds the odd numbers up to 99.
pub fn tpcds(number: u32) -> Option<&'static str> {
    Suite::Tpcds.query(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_listed_once_in_order() {
        for (suite, count) in [(Suite::Tpch, 22), (Suite::Tpcds, 50)] {
            let numbers: Vec<u32> = suite.numbers().collect();
            assert_eq!(numbers.len(), count);
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        }
    }

    #[test]
    fn the_folder_holds_no_query_that_the_list_lacks() {
        for suite in [Suite::Tpch, Suite::Tpcds] {
            let folder = format!("{}/queries/{suite}", env!("CARGO_MANIFEST_DIR"));
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), suite.numbers().count());
        }
    }

    #[test]
    fn unknown_numbers_have_no_text() {
        assert!(tpch(0).is_none() && tpch(23).is_none() && tpcds(2).is_none());
        assert!(tpch(6).unwrap().contains("l_discount"));
        assert!(tpcds(1).unwrap().contains("store_returns"));
    }
}
