// SPDX-License-Identifier: Apache-2.0
//! TPC-DS tables from crate `tpcdsgen`, with the column types of the specification: 32-bit keys, decimals, dates.
//!
//! The generator counts a sales table in orders rather than rows, and splits tables only from a million of those on;
//! below that, the first chunk is the whole table and the others are empty.

use datafusion::error::{DataFusionError, Result};
use tpcdsgen::config::{Session, SessionBuilder, Table};
use tpcdsgen_arrow as arrow;

use super::{Part, ROWS_PER_FILE};

/// The files of all tables at `scale_factor`.
pub(super) fn parts(scale_factor: f64) -> Result<Vec<Part>> {
    let whole = session(scale_factor, 1, 1)?;
    let mut parts = Vec::new();
    macro_rules! table {
        ($table:ident, $arrow:ident) => {
            let table = Table::$table;
            let per_order = rows_per_order(table);
            let rows = whole.get_scaling().get_row_count(table) * per_order;
            let wanted = rows.div_ceil(ROWS_PER_FILE).max(1) as i32;
            let mut chunks = Vec::new();
            for chunk in 1..=wanted {
                let session = session(scale_factor, chunk, wanted)?;
                let range = session.get_source_row_range(table);
                if !range.is_empty() {
                    chunks.push((session, range));
                }
            }
            let split = chunks.len() > 1;
            for (number, (session, range)) in chunks.into_iter().enumerate() {
                parts.push(Part {
                    table: table.get_name(),
                    number: split.then_some(number as u32),
                    estimated_rows: (range.end() - range.start() + 1) * per_order,
                    open: Box::new(move || {
                        let reader = arrow::$arrow::new(session);
                        Box::new(reader.with_source_row_range(*range.start(), *range.end()))
                    }),
                });
            }
        };
    }
    table!(CallCenter, CallCenterArrow);
    table!(CatalogPage, CatalogPageArrow);
    table!(CatalogReturns, CatalogReturnsArrow);
    table!(CatalogSales, CatalogSalesArrow);
    table!(Customer, CustomerArrow);
    table!(CustomerAddress, CustomerAddressArrow);
    table!(CustomerDemographics, CustomerDemographicsArrow);
    table!(DateDim, DateDimArrow);
    table!(HouseholdDemographics, HouseholdDemographicsArrow);
    table!(IncomeBand, IncomeBandArrow);
    table!(Inventory, InventoryArrow);
    table!(Item, ItemArrow);
    table!(Promotion, PromotionArrow);
    table!(Reason, ReasonArrow);
    table!(ShipMode, ShipModeArrow);
    table!(Store, StoreArrow);
    table!(StoreReturns, StoreReturnsArrow);
    table!(StoreSales, StoreSalesArrow);
    table!(TimeDim, TimeDimArrow);
    table!(Warehouse, WarehouseArrow);
    table!(WebPage, WebPageArrow);
    table!(WebReturns, WebReturnsArrow);
    table!(WebSales, WebSalesArrow);
    table!(WebSite, WebSiteArrow);
    Ok(parts)
}

fn session(scale_factor: f64, chunk: i32, chunks: i32) -> Result<Session> {
    SessionBuilder::new()
        .with_scale_factor(scale_factor)
        .with_chunk_number(chunk)
        .with_total_chunks(chunks)
        .build()
        .map_err(|error| DataFusionError::Configuration(format!("tpcdsgen refused the scale factor: {error}")))
}

/// Rows that the generator makes, on average, for each of the orders (or rows) that it counts.
fn rows_per_order(table: Table) -> u64 {
    match table {
        Table::StoreSales | Table::WebSales => 12,
        Table::CatalogSales => 9,
        _ => 1,
    }
}
