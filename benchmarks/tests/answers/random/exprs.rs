// SPDX-License-Identifier: Apache-2.0
//! Random expressions that never fail, and whose values do not depend on the plan.

use rand::RngExt;

use super::queries::Generator;
use super::tables::{Column, Trust};
use super::values::{Kind, literal};

const COMPARISONS: [&str; 8] = ["=", "<>", "<>", "<", "<=", ">", ">=", ">="];

impl Generator<'_> {
    /// A column of `kind` that can be trusted as far as `trust`.
    pub fn column(&mut self, columns: &[Column], kind: Kind, trust: Trust) -> Option<Column> {
        let fitting = || columns.iter().filter(|column| column.kind == kind && column.trust >= trust);
        let count = fitting().count();
        (count > 0).then(|| fitting().nth(self.rng.random_range(0..count)).cloned()).flatten()
    }

    /// Any column that can be trusted as far as `trust`.
    pub fn any_column(&mut self, columns: &[Column], trust: Trust) -> Option<Column> {
        let fitting = || columns.iter().filter(|column| column.trust >= trust);
        let count = fitting().count();
        (count > 0).then(|| fitting().nth(self.rng.random_range(0..count)).cloned()).flatten()
    }

    fn literal(&mut self, kind: Kind) -> Column {
        let value = if self.chance(0.5) { 1 } else { self.rng.random_range(-2..60) };
        Column { sql: literal(kind, value), kind, trust: Trust::Tame, clash: 1.0 }
    }

    /// An expression of `kind` over `columns`, [`Trust::Tame`] or [`Trust::Exact`] at least.
    pub fn expr(&mut self, columns: &[Column], kind: Kind, trust: Trust, depth: usize) -> Column {
        if depth == 0 || self.chance(0.4) {
            return match self.column(columns, kind, trust) {
                Some(column) if self.chance(0.95) => column,
                _ => self.literal(kind),
            };
        }
        let made = |sql: String, trust: Trust| Column { sql, kind, trust, clash: 1.0 };
        match self.rng.random_range(0..6) {
            0 => {
                let condition = self.predicate(columns, depth - 1);
                let [yes, no] = [(); 2].map(|()| self.expr(columns, kind, Trust::Tame, depth - 1));
                let otherwise = if self.chance(0.8) { format!(" ELSE {}", no.sql) } else { String::new() };
                made(format!("CASE WHEN {condition} THEN {}{otherwise} END", yes.sql), Trust::Tame)
            }
            1 if !kind.is_nested() => {
                let [first, second] = [(); 2].map(|()| self.expr(columns, kind, Trust::Tame, depth - 1));
                let function = if self.chance(0.7) { "coalesce" } else { "nullif" };
                made(format!("{function}({}, {})", first.sql, second.sql), Trust::Tame)
            }
            _ => {
                let (sql, made_trust) = self.operation(columns, kind, depth - 1);
                if made_trust < trust { self.expr(columns, kind, trust, 0) } else { made(sql, made_trust) }
            }
        }
    }

    /// An operator or function of its own for each kind.
    fn operation(&mut self, columns: &[Column], kind: Kind, depth: usize) -> (String, Trust) {
        let form = self.rng.random_range(0..6);
        let mut of = |kind| self.expr(columns, kind, Trust::Tame, depth).sql;
        let sql = match (kind, form) {
            (Kind::Int, 0) => format!("(CAST({} AS BIGINT) + {})", of(Kind::Int), of(Kind::Int)),
            (Kind::Int, 1) => format!("(CAST({} AS BIGINT) * 3)", of(Kind::Int)),
            (Kind::Int, 2) => format!("(CAST({} AS BIGINT) % 5)", of(Kind::Int)),
            (Kind::Int, 3) => format!("character_length({})", of(Kind::Text)),
            (Kind::Int, 4) => format!("CAST(date_part('month', {}) AS BIGINT)", of(Kind::Date)),
            (Kind::Int, _) => match self.below(3) {
                0 => format!("({})['a']", self.expr(columns, Kind::Struct, Trust::Tame, 0).sql),
                1 => format!("({})[1]", self.expr(columns, Kind::List, Trust::Tame, 0).sql),
                _ => format!("CAST({} AS INT)", self.expr(columns, Kind::Bool, Trust::Tame, depth).sql),
            },
            (Kind::Float, 0) => format!("({} + {})", of(Kind::Float), of(Kind::Float)),
            (Kind::Float, 1) => format!("({} * 0.5)", of(Kind::Float)),
            (Kind::Float, 2) => return (format!("sqrt(abs({}))", of(Kind::Float)), Trust::Exact),
            (Kind::Float, 3) => format!("CAST({} AS DOUBLE)", of(Kind::Decimal)),
            (Kind::Float, _) => format!("CAST({} AS DOUBLE)", of(Kind::Int)),
            (Kind::Decimal, 0) => format!("({} + {})", of(Kind::Decimal), of(Kind::Decimal)),
            (Kind::Decimal, 1) => format!("({} - 1)", of(Kind::Decimal)),
            (Kind::Decimal, _) => format!("CAST({} AS DECIMAL(22, 2))", of(Kind::Int)),
            (Kind::Text, 0) => format!("({} || {})", of(Kind::Text), of(Kind::Text)),
            (Kind::Text, 1) => format!("upper({})", of(Kind::Text)),
            (Kind::Text, 2) => format!("substr({}, 1, 2)", of(Kind::Text)),
            (Kind::Text, 3) => format!("arrow_cast({}, 'Dictionary(Int32, Utf8)')", of(Kind::Text)),
            (Kind::Text, 4) => format!("({})['b']", self.expr(columns, Kind::Struct, Trust::Tame, 0).sql),
            (Kind::Text, _) => format!("CAST({} AS VARCHAR)", of(Kind::Int)),
            (Kind::Bytes, _) => format!("CAST({} AS BYTEA)", of(Kind::Text)),
            (Kind::Bool, _) => format!("({})", self.predicate(columns, depth)),
            (Kind::Date, 0..3) => format!("CAST({} AS DATE)", of(Kind::Time)),
            (Kind::Date, _) => format!("CAST({} + INTERVAL '1 month' AS DATE)", of(Kind::Date)),
            (Kind::Time, 0..3) => format!("date_trunc('day', {})", of(Kind::Time)),
            (Kind::Time, _) => format!("({} + INTERVAL '90 minutes')", of(Kind::Time)),
            (Kind::Zoned, _) => format!("date_trunc('month', {})", of(Kind::Zoned)),
            (Kind::List, 0..3) => format!("array_append({}, CAST({} AS INT))", of(Kind::List), of(Kind::Int)),
            (Kind::List, _) => format!("make_array(CAST({} AS INT), 7)", of(Kind::Int)),
            (Kind::Struct, _) => format!("named_struct('a', {}, 'b', {})", of(Kind::Int), of(Kind::Text)),
        };
        (sql, Trust::Tame)
    }

    /// A condition over `columns`, without subqueries.
    pub fn predicate(&mut self, columns: &[Column], depth: usize) -> String {
        if depth > 0 && self.chance(0.35) {
            let [first, second] = [(); 2].map(|()| self.predicate(columns, depth - 1));
            return match self.below(5) {
                0 => format!("NOT ({first})"),
                1 | 2 => format!("({first} AND {second})"),
                _ => format!("({first} OR {second})"),
            };
        }
        let Some(column) = self.any_column(columns, Trust::Exact) else { return "true".to_owned() };
        let Column { sql, kind, .. } = column;
        let other = if kind.is_nested() { self.literal(kind).sql } else { self.comparable(columns, kind, depth) };
        match (self.below(9), kind) {
            (0, _) => format!("{sql} IS NULL"),
            (1, _) => format!("{sql} IS NOT NULL"),
            (_, Kind::List | Kind::Struct) => format!("({sql} IS DISTINCT FROM {other})"),
            (_, Kind::Bool) => format!("({sql} IS NOT DISTINCT FROM {other})"),
            (2, _) => {
                let values: Vec<_> = (0..self.rng.random_range(1..6)).map(|_| self.literal(kind).sql).collect();
                let not = if self.chance(0.3) { "NOT " } else { "" };
                format!("{sql} {not}IN ({})", values.join(", "))
            }
            (3, _) => format!("{sql} BETWEEN {} AND {other}", self.literal(kind).sql),
            (4, Kind::Text) => format!("{sql} LIKE '{}'", ["k%", "%1", "%e%", "_2"][self.below(4)]),
            (5, _) => format!("({sql} IS DISTINCT FROM {other})"),
            _ => format!("{sql} {} {other}", COMPARISONS[self.below(COMPARISONS.len())]),
        }
    }

    fn comparable(&mut self, columns: &[Column], kind: Kind, depth: usize) -> String {
        match self.column(columns, kind, Trust::Exact) {
            Some(column) if self.chance(0.4) => column.sql,
            _ if depth > 0 && self.chance(0.2) => self.expr(columns, kind, Trust::Tame, depth - 1).sql,
            _ => self.literal(kind).sql,
        }
    }

    /// An aggregate over `columns`.
    pub fn aggregate(&mut self, columns: &[Column]) -> Column {
        let filter =
            if self.chance(0.15) { format!(" FILTER (WHERE {})", self.predicate(columns, 0)) } else { String::new() };
        let made = |call: String, kind, trust| Column { sql: call + &filter, kind, trust, clash: 0.2 };
        let Some(any) = self.any_column(columns, Trust::Exact) else {
            return made("count(*)".to_owned(), Kind::Int, Trust::Tame);
        };
        let number_kind = [Kind::Int, Kind::Float, Kind::Decimal][self.below(3)];
        let number = self.expr(columns, number_kind, Trust::Tame, 1).sql;
        let distinct = if self.chance(0.15) { "DISTINCT " } else { "" };
        let value = any.sql.as_str();
        match self.below(17) {
            0 | 1 => made("count(*)".to_owned(), Kind::Int, Trust::Tame),
            2 => made(format!("count({value})"), Kind::Int, Trust::Tame),
            3 => made(format!("count(DISTINCT {value})"), Kind::Int, Trust::Tame),
            4..6 => made(format!("sum({distinct}{number})"), number_kind, Trust::Exact),
            6 | 7 => {
                let kind = if number_kind == Kind::Decimal { Kind::Decimal } else { Kind::Float };
                made(format!("avg({distinct}{number})"), kind, Trust::Exact)
            }
            8 | 9 if !any.kind.is_nested() => {
                let function = if self.chance(0.5) { "min" } else { "max" };
                made(format!("{function}({value})"), any.kind, any.trust)
            }
            10 => {
                let function = ["stddev", "stddev_pop", "var_pop", "var_sample"][self.below(4)];
                made(format!("{function}({number})"), Kind::Float, Trust::Fuzzy)
            }
            11 => {
                let other = self.expr(columns, Kind::Int, Trust::Tame, 0).sql;
                made(format!("corr({number}, {other})"), Kind::Float, Trust::Fuzzy)
            }
            12 => {
                let function = ["bool_and", "bool_or"][self.below(2)];
                made(format!("{function}({})", self.predicate(columns, 0)), Kind::Bool, Trust::Tame)
            }
            13 => {
                let function = ["bit_and", "bit_or", "bit_xor"][self.below(3)];
                let int = self.expr(columns, Kind::Int, Trust::Tame, 1).sql;
                made(format!("{function}(CAST({int} AS BIGINT))"), Kind::Int, Trust::Exact)
            }
            14 => made(format!("median({number})"), number_kind, Trust::Exact),
            _ => self.ordered_aggregate(columns, &any, &filter),
        }
    }

    /// An aggregate whose value depends on the order that it asks for, and on nothing else.
    fn ordered_aggregate(&mut self, columns: &[Column], any: &Column, filter: &str) -> Column {
        let made = |call: String, kind, trust| Column { sql: call + filter, kind, trust, clash: 0.2 };
        let order = if self.chance(0.5) { "" } else { " DESC NULLS LAST" };
        let value = any.sql.as_str();
        if any.kind.is_nested() {
            return made(format!("count({value})"), Kind::Int, Trust::Tame);
        }
        match self.below(5) {
            0 if any.kind != Kind::Float && any.kind.is_number() => {
                let sql = format!("(array_agg({value} ORDER BY {value}{order}){filter})[1]");
                Column { sql, kind: any.kind, trust: any.trust, clash: 0.2 }
            }
            1 => {
                let text = self.expr(columns, Kind::Text, Trust::Tame, 0).sql;
                made(format!("string_agg({text}, ',' ORDER BY {text}{order})"), Kind::Text, Trust::Exact)
            }
            2 => made(format!("first_value({value} ORDER BY {value}{order})"), any.kind, any.trust),
            3 => made(format!("last_value({value} ORDER BY {value}{order})"), any.kind, any.trust),
            _ => made(format!("nth_value({value}, 2 ORDER BY {value}{order})"), any.kind, any.trust),
        }
    }
}
