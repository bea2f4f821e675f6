// SPDX-License-Identifier: Apache-2.0
//! Random queries: blocks (`SELECT` of one sort or another, set operations) over relations, which may hold blocks.
//!
//! What the rows of a query are does not depend on the plan: a limit has a total order, a window whose function looks
//! at neighbours too, sums are exact, and what is only nearly the same in every plan is output and nothing else.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tables::{Column, Table, Trust};
use super::values::Kind;

/// A query text.
#[derive(Debug)]
pub struct Query {
    pub sql: String,
    /// Its rows come in a total order.
    pub ordered: bool,
}

/// A query without its order: columns by their output names.
#[derive(Debug, Clone)]
pub struct Block {
    pub sql: String,
    pub columns: Vec<Column>,
    /// At most about so many.
    pub rows: f64,
}

/// What may stand after `FROM`: columns by their qualified names.
#[derive(Debug, Clone)]
pub struct Relation {
    pub sql: String,
    pub columns: Vec<Column>,
    pub rows: f64,
    /// More than one table.
    pub joins: bool,
}

impl Relation {
    /// As it is written on the right of a join.
    pub fn operand(&self) -> String {
        if self.joins { format!("({})", self.sql) } else { self.sql.clone() }
    }
}

/// Makes queries over some tables.
pub struct Generator<'a> {
    pub rng: StdRng,
    pub tables: &'a [Table],
    names: usize,
}

/// The query that belongs to `seed`.
pub fn query(seed: u64, tables: &[Table]) -> Query {
    let mut generator = Generator { rng: StdRng::seed_from_u64(seed), tables, names: 0 };
    if generator.chance(0.04) {
        return Query { sql: generator.risky(), ordered: false };
    }
    let depth = generator.rng.random_range(0..=2);
    let block = generator.block(depth);
    let ordered = generator.chance(0.5).then(|| generator.in_order(&block)).flatten();
    match ordered {
        Some(sql) => Query { sql, ordered: true },
        None => Query { sql: block.sql, ordered: false },
    }
}

impl Generator<'_> {
    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    pub fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// A block; `depth`: how many levels of joins and derived tables it may hold.
    pub fn block(&mut self, depth: usize) -> Block {
        match self.below(20) {
            0..6 => self.plain(depth),
            6..11 => self.grouped(depth),
            11 => self.total(depth),
            12 | 13 => self.grouping_sets(depth),
            14 | 15 => self.window(depth),
            16 | 17 => self.set_operation(depth),
            18 if self.chance(0.5) => self.counted(depth),
            18 => self.unnested(depth),
            _ => self.shared(depth),
        }
    }

    fn plain(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let mut items = Vec::new();
        for _ in 0..self.rng.random_range(1..=5) {
            let Some(column) = self.any_column(&relation.columns, Trust::Fuzzy) else { continue };
            let item = match self.below(10) {
                0..5 => column,
                5 if relation.rows < 1000.0 => self.scalar_subquery(&relation.columns, column.kind),
                _ => self.expr(&relation.columns, column.kind, Trust::Exact, 2),
            };
            items.push(item);
        }
        let exact = items.iter().all(|item| item.trust > Trust::Fuzzy);
        let distinct = if exact && self.chance(0.2) { "DISTINCT " } else { "" };
        let (list, columns) = self.list(items);
        Block { sql: format!("SELECT {distinct}{list} FROM {}{filter}", relation.sql), columns, rows: relation.rows }
    }

    /// A select list that gives each item a name, and the named columns.
    pub fn list(&mut self, items: Vec<Column>) -> (String, Vec<Column>) {
        let mut texts = Vec::new();
        let mut columns = Vec::new();
        for item in items {
            let name = self.name("x");
            texts.push(format!("{} AS {name}", item.sql));
            columns.push(Column { sql: name, ..item });
        }
        (texts.join(", "), columns)
    }

    fn keys(&mut self, columns: &[Column]) -> Vec<Column> {
        let mut keys: Vec<Column> = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            let Some(column) = self.any_column(columns, Trust::Exact) else { continue };
            let key = if self.chance(0.2) { self.expr(columns, column.kind, Trust::Exact, 1) } else { column };
            if keys.iter().all(|other| other.sql != key.sql) && columns.iter().any(|c| key.sql.contains(&c.sql)) {
                keys.push(key);
            }
        }
        keys
    }

    fn aggregates(&mut self, columns: &[Column]) -> Vec<Column> {
        (0..self.rng.random_range(1..=4)).map(|_| self.aggregate(columns)).collect()
    }

    fn grouped(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let keys = self.keys(&relation.columns);
        if keys.is_empty() {
            return self.total(depth);
        }
        let group: Vec<_> = keys.iter().map(|key| key.sql.clone()).collect();
        let having = if self.chance(0.2) { " HAVING count(*) > 1" } else { "" };
        let single = keys.len() == 1;
        let mut items = keys;
        items.extend(self.aggregates(&relation.columns));
        if single {
            items[0].clash = 0.01;
        }
        let (list, columns) = self.list(items);
        let sql = format!("SELECT {list} FROM {}{filter} GROUP BY {}{having}", relation.sql, group.join(", "));
        Block { sql, columns, rows: relation.rows }
    }

    fn total(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let items = self.aggregates(&relation.columns);
        let (list, columns) = self.list(items);
        Block { sql: format!("SELECT {list} FROM {}{filter}", relation.sql), columns, rows: 1.0 }
    }

    fn grouping_sets(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let mut keys = self.keys(&relation.columns);
        keys.retain(|key| relation.columns.iter().any(|column| column.sql == key.sql));
        if keys.is_empty() {
            return self.total(depth);
        }
        let group: Vec<_> = keys.iter().map(|key| key.sql.clone()).collect();
        let all = group.join(", ");
        let sets = match self.below(3) {
            0 => format!("ROLLUP ({all})"),
            1 => format!("CUBE ({all})"),
            _ => format!("GROUPING SETS (({all}), ({}), ())", group[0]),
        };
        let mut items = keys;
        // Where a key is constant below, DataFusion takes it for constant above, too, and leaves it out of orders.
        items.iter_mut().for_each(|key| key.trust = Trust::Fuzzy);
        items.extend(self.aggregates(&relation.columns));
        let grouping =
            Column { sql: format!("grouping({})", group[0]), kind: Kind::Int, trust: Trust::Tame, clash: 0.5 };
        items.push(grouping);
        let (list, columns) = self.list(items);
        let sql = format!("SELECT {list} FROM {}{filter} GROUP BY {sets}", relation.sql);
        Block { sql, columns, rows: relation.rows * 3.0 }
    }

    fn set_operation(&mut self, depth: usize) -> Block {
        let mut relation = self.relation(depth);
        let kinds: Vec<Kind> = (0..self.rng.random_range(1..=3))
            .filter_map(|_| self.any_column(&relation.columns, Trust::Exact).map(|column| column.kind))
            .collect();
        let (mut sql, mut rows) = (String::new(), 0.0);
        let mut columns = Vec::new();
        for part in 0..self.rng.random_range(2..=3) {
            if part > 0 {
                relation = self.relation(depth.saturating_sub(1));
                let all = if self.chance(0.3) { " ALL" } else { "" };
                let operator = match self.below(7) {
                    0..3 => "UNION ALL".to_owned(),
                    3 | 4 => "UNION".to_owned(),
                    5 => format!("INTERSECT{all}"),
                    _ => format!("EXCEPT{all}"),
                };
                sql += &format!(" {operator} ");
            }
            let filter = self.filter(&relation.columns, depth.saturating_sub(1));
            let items = kinds.iter().map(|kind| self.expr(&relation.columns, *kind, Trust::Tame, 1)).collect();
            let (list, named) = self.list(items);
            sql += &format!("SELECT {list} FROM {}{filter}", relation.sql);
            rows += relation.rows;
            if part == 0 {
                columns = named;
            }
        }
        for column in &mut columns {
            column.clash = 1.0;
        }
        Block { sql, columns, rows }
    }

    /// The number of rows of a limit without an order.
    fn counted(&mut self, depth: usize) -> Block {
        let inner = self.plain(depth.saturating_sub(1));
        let limit = self.limit();
        let (derived, name) = (self.name("r"), self.name("x"));
        let sql = format!("SELECT count(*) AS {name} FROM ({}{limit}) AS {derived}", inner.sql);
        let column = Column { sql: name, kind: Kind::Int, trust: Trust::Tame, clash: 1.0 };
        Block { sql, columns: vec![column], rows: 1.0 }
    }

    /// A row per element of a list.
    fn unnested(&mut self, depth: usize) -> Block {
        let relation = self.relation(depth);
        let filter = self.filter(&relation.columns, depth);
        let list = self.expr(&relation.columns, Kind::List, Trust::Exact, 1);
        let element = Column { sql: format!("unnest({})", list.sql), kind: Kind::Int, ..list };
        let items = [Some(element), self.any_column(&relation.columns, Trust::Fuzzy)].into_iter().flatten().collect();
        let (list, columns) = self.list(items);
        Block { sql: format!("SELECT {list} FROM {}{filter}", relation.sql), columns, rows: relation.rows * 4.0 }
    }

    /// A common table expression that is read twice.
    fn shared(&mut self, depth: usize) -> Block {
        let inner = self.block(depth.saturating_sub(1));
        let name = self.name("w");
        let whole = |alias: String| {
            let columns = inner.columns.iter().map(|column| qualified(column, &alias)).collect();
            Relation { sql: format!("{name} AS {alias}"), columns, rows: inner.rows, joins: false }
        };
        let (left, right) = (self.name("r"), self.name("r"));
        let relation = self.joined(whole(left), whole(right));
        let items = (0..3).filter_map(|_| self.any_column(&relation.columns, Trust::Fuzzy)).collect();
        let (list, columns) = self.list(items);
        let sql = format!("WITH {name} AS ({}) SELECT {list} FROM {}", inner.sql, relation.sql);
        Block { sql, columns, rows: relation.rows }
    }

    /// ` LIMIT` or ` OFFSET` or both.
    fn limit(&mut self) -> String {
        let (limit, offset) = ([0, 1, 7, 50, 500][self.below(5)], [0, 1, 5, 100][self.below(4)]);
        match self.below(4) {
            0 => format!(" OFFSET {offset}"),
            1 => format!(" LIMIT {limit} OFFSET {offset}"),
            _ => format!(" LIMIT {limit}"),
        }
    }

    /// `block` in an order over all of its columns, perhaps with a limit; `None` if there is no total order.
    pub fn in_order(&mut self, block: &Block) -> Option<String> {
        let keys = self.total_order(&block.columns)?;
        let limit = if self.chance(0.6) { self.limit() } else { String::new() };
        Some(format!("{} ORDER BY {keys}{limit}", block.sql))
    }

    /// Sort keys over all of `columns`, if these have an order that does not depend on the plan.
    pub fn total_order(&mut self, columns: &[Column]) -> Option<String> {
        if columns.is_empty() || columns.iter().any(|column| column.trust == Trust::Fuzzy || column.kind.is_nested()) {
            return None;
        }
        let first = self.below(columns.len());
        let keys = columns.iter().cycle().skip(first).take(columns.len());
        let keys: Vec<_> = keys
            .map(|column| {
                let direction = ["", " DESC", " ASC NULLS FIRST", " DESC NULLS LAST"][self.below(4)];
                format!("{}{direction}", column.sql)
            })
            .collect();
        Some(keys.join(", "))
    }

    /// A query that may fail, in a shape in which every row is sure to be looked at.
    fn risky(&mut self) -> String {
        let relation = self.base();
        let exact = |generator: &mut Self, kind| generator.expr(&relation.columns, kind, Trust::Exact, 0).sql;
        let from = &relation.sql;
        match self.below(5) {
            0 => format!("SELECT 100 / {} AS x FROM {from}", exact(self, Kind::Int)),
            1 => format!("SELECT sum(CAST({} AS TINYINT)) AS x FROM {from}", exact(self, Kind::Int)),
            2 => format!("SELECT CAST({} AS BIGINT) AS x FROM {from}", exact(self, Kind::Text)),
            3 => format!("SELECT (SELECT {} FROM {from}) AS x FROM {from}", exact(self, Kind::Int)),
            _ => format!("SELECT {} * 7000000000000000 AS x, count(*) FROM {from} GROUP BY x", exact(self, Kind::Int)),
        }
    }
}

/// `column` of the relation `alias`.
pub fn qualified(column: &Column, alias: &str) -> Column {
    Column { sql: format!("{alias}.{}", column.sql), ..column.clone() }
}
