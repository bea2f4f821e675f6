// SPDX-License-Identifier: Apache-2.0
//! Random window functions. What looks at neighbours has a total order.

use rand::RngExt;

use super::queries::{Block, Generator};
use super::tables::{Column, Trust};
use super::values::Kind;

impl Generator<'_> {
    /// A `SELECT` with window functions.
    pub fn window(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let mut ordered = relation.columns.clone();
        // Bytes cannot be compared in a frame of ranges, which is the default.
        ordered.retain(|column| column.trust > Trust::Fuzzy && !column.kind.is_nested() && column.kind != Kind::Bytes);
        let Some(total) = self.total_order(&ordered) else { return self.block(0) };
        let mut items = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            items.extend(self.any_column(&ordered, Trust::Exact));
        }
        for _ in 0..self.rng.random_range(1..=2) {
            let partition = if self.chance(0.6) { self.partition_by(&ordered) } else { String::new() };
            let item = match self.below(3) {
                0 => self.rank(&ordered, &partition),
                1 => self.neighbour(&ordered, &partition, &total),
                _ => self.running(&ordered, &partition, &total),
            };
            items.push(item);
        }
        let (list, columns) = self.list(items);
        let sql = format!("SELECT {list} FROM {}{filter}", relation.sql);
        Block { sql, columns, rows: relation.rows }
    }

    fn partition_by(&mut self, columns: &[Column]) -> String {
        let keys: Vec<_> = (0..self.rng.random_range(1..=2))
            .filter_map(|_| self.any_column(columns, Trust::Exact).map(|column| column.sql))
            .collect();
        format!("PARTITION BY {} ", keys.join(", "))
    }

    /// A function whose value is the same for all rows that the order does not tell apart.
    fn rank(&mut self, columns: &[Column], partition: &str) -> Column {
        let order = self.any_column(columns, Trust::Exact).map(|column| format!("ORDER BY {}", column.sql));
        let window = format!("OVER ({partition}{})", order.unwrap_or_default());
        let number = self.expr(columns, Kind::Int, Trust::Tame, 0).sql;
        let (call, kind, trust) = match self.below(6) {
            0 => ("rank()".to_owned(), Kind::Int, Trust::Tame),
            1 => ("dense_rank()".to_owned(), Kind::Int, Trust::Tame),
            2 => ("percent_rank()".to_owned(), Kind::Float, Trust::Exact),
            3 => ("cume_dist()".to_owned(), Kind::Float, Trust::Exact),
            4 => ("count(*)".to_owned(), Kind::Int, Trust::Tame),
            _ => (format!("sum({number})"), Kind::Int, Trust::Exact),
        };
        Column { sql: format!("{call} {window}"), kind, trust, clash: 0.5 }
    }

    fn neighbour(&mut self, columns: &[Column], partition: &str, total: &str) -> Column {
        let window = format!("OVER ({partition}ORDER BY {total})");
        let made = |call: String, kind, trust| Column { sql: format!("{call} {window}"), kind, trust, clash: 0.5 };
        let Some(value) = self.any_column(columns, Trust::Exact) else {
            return made("row_number()".to_owned(), Kind::Int, Trust::Tame);
        };
        let sql = &value.sql;
        match self.below(7) {
            0 | 1 => made("row_number()".to_owned(), Kind::Int, Trust::Tame),
            2 => made(format!("lag({sql}, 2)"), value.kind, value.trust),
            3 => made(format!("lead({sql})"), value.kind, value.trust),
            4 => made(format!("first_value({sql})"), value.kind, value.trust),
            5 => made(format!("nth_value({sql}, 3)"), value.kind, value.trust),
            _ => made("ntile(4)".to_owned(), Kind::Int, Trust::Tame),
        }
    }

    fn running(&mut self, columns: &[Column], partition: &str, total: &str) -> Column {
        let kind = [Kind::Int, Kind::Float, Kind::Decimal][self.below(3)];
        let number = self.expr(columns, kind, Trust::Tame, 1).sql;
        let frame = [
            "",
            " ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
        ][self.below(5)];
        let function = ["sum", "min", "max", "count", "avg"][self.below(5)];
        let kind = match function {
            "count" => Kind::Int,
            "avg" if kind == Kind::Int => Kind::Float,
            _ => kind,
        };
        let sql = format!("{function}({number}) OVER ({partition}ORDER BY {total}{frame})");
        Column { sql, kind, trust: Trust::Exact, clash: 0.5 }
    }
}
