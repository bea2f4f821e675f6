// SPDX-License-Identifier: Apache-2.0
//! TPC-H tables from crate `tpchgen`.

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

use super::{Part, ROWS_PER_FILE};

/// The files of all tables at `scale_factor`.
pub(super) fn parts(scale_factor: f64) -> Vec<Part> {
    let mut parts = Vec::new();
    // Table, rows at scale factor 1 (TPC-H specification 4.2.5), and the generator.
    macro_rules! table {
        ($name:literal, $rows:expr, $arrow:ident, $generator:ident) => {
            let count = (scale_factor * $rows as f64 / ROWS_PER_FILE as f64).ceil().max(1.0) as i32;
            for number in 0..count {
                parts.push(Part {
                    table: $name,
                    number: (count > 1).then_some(number as u32),
                    estimated_rows: (scale_factor * $rows as f64 / f64::from(count)) as u64,
                    open: Box::new(move || Box::new($arrow::new($generator::new(scale_factor, number + 1, count)))),
                });
            }
        };
    }
    table!("supplier", 10_000, SupplierArrow, SupplierGenerator);
    table!("customer", 150_000, CustomerArrow, CustomerGenerator);
    table!("part", 200_000, PartArrow, PartGenerator);
    table!("partsupp", 800_000, PartSuppArrow, PartSuppGenerator);
    table!("orders", 1_500_000, OrderArrow, OrderGenerator);
    table!("lineitem", 6_000_000, LineItemArrow, LineItemGenerator);

    // The fixed tables: 5 and 25 rows at any scale.
    parts.push(Part {
        table: "region",
        number: None,
        estimated_rows: 5,
        open: Box::new(|| Box::new(RegionArrow::new(RegionGenerator::default()))),
    });
    parts.push(Part {
        table: "nation",
        number: None,
        estimated_rows: 25,
        open: Box::new(|| Box::new(NationArrow::new(NationGenerator::default()))),
    });
    parts
}
