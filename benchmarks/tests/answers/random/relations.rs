// SPDX-License-Identifier: Apache-2.0
//! What random queries read: tables, derived tables, joins of both; and the subqueries of their conditions.

use rand::RngExt;

use super::queries::{Block, Generator, Relation, qualified};
use super::tables::{Column, Trust};
use super::values::Kind;

/// A join that may have more rows is not made.
const MAX_ROWS: f64 = 10_000.0;

impl Generator<'_> {
    /// Anything that may stand after `FROM`.
    pub fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 {
            return self.base();
        }
        match self.below(10) {
            0 | 1 => self.base(),
            2..5 => self.derived(depth - 1),
            _ => {
                let left = self.relation(depth - 1);
                let right = if self.chance(0.6) { self.base() } else { self.relation(depth - 1) };
                self.joined(left, right)
            }
        }
    }

    /// A table, or a few rows that are none.
    pub fn base(&mut self) -> Relation {
        if self.chance(0.06) {
            return self.literal_rows();
        }
        let table = &self.tables[self.rng.random_range(0..self.tables.len())];
        let alias = self.name("r");
        let columns = table.columns.iter().map(|column| qualified(column, &alias)).collect();
        Relation { sql: format!("{} AS {alias}", table.name), columns, rows: table.rows as f64, joins: false }
    }

    fn literal_rows(&mut self) -> Relation {
        let alias = self.name("r");
        let column = |name: &str, kind, clash| {
            qualified(&Column { sql: name.to_owned(), kind, trust: Trust::Tame, clash }, &alias)
        };
        if self.chance(0.5) {
            let sql = format!("generate_series(0, 99) AS {alias}(a)");
            return Relation { columns: vec![column("a", Kind::Int, 0.01)], sql, rows: 100.0, joins: false };
        }
        let columns = vec![column("a", Kind::Int, 0.5), column("b", Kind::Text, 0.5)];
        let sql = format!("(VALUES (1, 'k1'), (2, NULL), (NULL, 'Größe 2'), (1, '')) AS {alias}(a, b)");
        Relation { columns, sql, rows: 4.0, joins: false }
    }

    fn derived(&mut self, depth: usize) -> Relation {
        let block = self.block(depth);
        let sql = if self.chance(0.3) { self.in_order(&block) } else { None };
        let Block { sql: unordered, columns, rows } = block;
        let alias = self.name("r");
        let columns = columns.iter().map(|column| qualified(column, &alias)).collect();
        Relation { sql: format!("({}) AS {alias}", sql.unwrap_or(unordered)), columns, rows, joins: false }
    }

    /// A join of the two, or the first alone if every join that was tried might be too large.
    pub fn joined(&mut self, left: Relation, right: Relation) -> Relation {
        if left.rows * right.rows <= MAX_ROWS && self.chance(0.15) {
            return self.loop_join(left, right);
        }
        for _ in 0..8 {
            let Some((key, selectivity)) = self.join_key(&left, &right) else { continue };
            if left.rows * right.rows * selectivity > MAX_ROWS {
                continue;
            }
            let mut condition = key;
            if self.chance(0.25)
                && let Some((second, _)) = self.join_key(&left, &right)
            {
                condition += &format!(" AND {second}");
            }
            if self.chance(0.25) {
                let both = [left.columns.as_slice(), right.columns.as_slice()].concat();
                condition += &format!(" AND {}", self.predicate(&both, 1));
            }
            let rows = left.rows * right.rows * selectivity + left.rows + right.rows;
            return self.join_of_any_type(left, right, &condition, rows);
        }
        left
    }

    fn join_of_any_type(&mut self, left: Relation, right: Relation, condition: &str, rows: f64) -> Relation {
        let (join, keeps_left, keeps_right) = match self.below(12) {
            0..3 => ("JOIN", true, true),
            3 | 4 => ("LEFT JOIN", true, true),
            5 => ("RIGHT JOIN", true, true),
            6 | 7 => ("FULL JOIN", true, true),
            8 => ("LEFT SEMI JOIN", true, false),
            9 => ("LEFT ANTI JOIN", true, false),
            10 => ("RIGHT SEMI JOIN", false, true),
            _ => ("RIGHT ANTI JOIN", false, true),
        };
        let sql = format!("{} {join} {} ON {condition}", left.sql, right.operand());
        let mut columns = Vec::new();
        if keeps_left {
            columns.extend(left.columns);
        }
        if keeps_right {
            columns.extend(right.columns);
        }
        Relation { sql, columns, rows, joins: true }
    }

    /// Without equal keys.
    fn loop_join(&mut self, left: Relation, right: Relation) -> Relation {
        let rows = left.rows * right.rows + left.rows + right.rows;
        if self.chance(0.5) {
            let sql = format!("{} CROSS JOIN {}", left.sql, right.operand());
            let columns = [left.columns, right.columns].concat();
            return Relation { sql, columns, rows, joins: true };
        }
        let both = [left.columns.as_slice(), right.columns.as_slice()].concat();
        let condition =
            self.below_each_other(&left.columns, &right.columns).unwrap_or_else(|| self.predicate(&both, 1));
        self.join_of_any_type(left, right, &condition, rows)
    }

    /// An equality between the two, and how many of all pairs of rows it may keep.
    fn join_key(&mut self, left: &Relation, right: &Relation) -> Option<(String, f64)> {
        let key = self.any_column(&left.columns, Trust::Exact)?;
        let other = self.column(&right.columns, key.kind, Trust::Exact)?;
        if key.kind.is_nested() && self.chance(0.9) {
            return None;
        }
        let mut selectivity = (key.clash * other.clash).sqrt();
        let text = if self.chance(0.1) {
            selectivity = 1.0;
            format!("({} IS NOT DISTINCT FROM {})", key.sql, other.sql)
        } else if key.kind == Kind::Int && key.trust == Trust::Tame && self.chance(0.1) {
            format!("CAST({} AS BIGINT) + 1 = {}", key.sql, other.sql)
        } else {
            format!("{} = {}", key.sql, other.sql)
        };
        Some((text, selectivity))
    }

    /// An inequality between the two.
    fn below_each_other(&mut self, left: &[Column], right: &[Column]) -> Option<String> {
        let first = self.any_column(left, Trust::Exact).filter(|column| !column.kind.is_nested())?;
        let second = self.column(right, first.kind, Trust::Exact)?;
        Some(format!("{} {} {}", first.sql, ["<", ">=", "<>"][self.below(3)], second.sql))
    }

    /// ` WHERE …`, or nothing.
    pub fn filter(&mut self, columns: &[Column], depth: usize) -> String {
        let condition = match self.below(10) {
            0..4 => return String::new(),
            4..7 => self.predicate(columns, 2),
            _ if depth == 0 && self.chance(0.5) => self.predicate(columns, 1),
            7 => {
                let (subquery, predicate) = (self.subquery(columns), self.predicate(columns, 1));
                format!("({subquery} OR {predicate})")
            }
            8 => format!("{} AND {}", self.subquery(columns), self.predicate(columns, 0)),
            _ => self.subquery(columns),
        };
        format!(" WHERE {condition}")
    }

    /// A condition on `outer` that looks into another table.
    fn subquery(&mut self, outer: &[Column]) -> String {
        let inner = self.base();
        let not = if self.chance(0.5) { "NOT " } else { "" };
        let mut conditions = Vec::new();
        let mut correlated = false;
        if self.chance(0.6) {
            let key = self.any_column(outer, Trust::Exact).filter(|column| !column.kind.is_nested());
            if let Some(key) = key
                && let Some(other) = self.column(&inner.columns, key.kind, Trust::Exact)
            {
                conditions.push(format!("{} = {}", other.sql, key.sql));
                correlated = true;
            }
        }
        if self.chance(0.5) {
            conditions.push(self.predicate(&inner.columns, 1));
        }
        let from = |conditions: &[String]| match conditions {
            [] => inner.sql.clone(),
            _ => format!("{} WHERE {}", inner.sql, conditions.join(" AND ")),
        };
        let value = self.any_column(outer, Trust::Exact).filter(|column| !column.kind.is_nested());
        let compared = value.and_then(|value| Some((self.column(&inner.columns, value.kind, Trust::Exact)?, value)));
        match (self.below(10), compared) {
            (0..4, Some((inner_value, value))) => {
                if correlated && self.chance(0.8) {
                    conditions.remove(0);
                }
                format!("{} {not}IN (SELECT {} FROM {})", value.sql, inner_value.sql, from(&conditions))
            }
            (4 | 5, Some((inner_value, value))) => {
                let function = if self.chance(0.5) { "min" } else { "max" };
                let operator = ["<", ">=", "="][self.below(3)];
                let subquery = format!("SELECT {function}({}) FROM {}", inner_value.sql, from(&conditions));
                format!("{} {operator} ({subquery})", value.sql)
            }
            _ => {
                if correlated
                    && self.chance(0.2)
                    && let Some(more) = self.below_each_other(outer, &inner.columns)
                {
                    conditions.push(more);
                }
                format!("{not}EXISTS (SELECT 1 FROM {})", from(&conditions))
            }
        }
    }

    /// A value of `kind` from another table, per row of `outer` or once.
    pub fn scalar_subquery(&mut self, outer: &[Column], kind: Kind) -> Column {
        let inner = self.base();
        let key = self.any_column(outer, Trust::Exact).filter(|column| !column.kind.is_nested() && self.chance(0.5));
        let other = key.as_ref().and_then(|key| self.column(&inner.columns, key.kind, Trust::Exact));
        let filter = match (key, other) {
            (Some(key), Some(other)) => format!(" WHERE {} = {}", other.sql, key.sql),
            _ => String::new(),
        };
        let (value, kind, trust) = match self.column(&inner.columns, kind, Trust::Exact) {
            Some(column) if !kind.is_nested() => (format!("max({})", column.sql), kind, column.trust),
            _ => ("count(*)".to_owned(), Kind::Int, Trust::Tame),
        };
        Column { sql: format!("(SELECT {value} FROM {}{filter})", inner.sql), kind, trust, clash: 1.0 }
    }
}
