// SPDX-License-Identifier: Apache-2.0
//! Results as text, close to what DataFusion's own sqllogictest runner makes of them.
//!
//! * NULL is `NULL`, an empty text `(empty)`; line breaks are written `\n`, so that a row is one line; a space at an
//!   end of a text is written `\s`, since editors and the parser of files drop it.
//! * A floating-point number is rounded to [`DIGITS`] significant digits: sums of floats depend on the order of their
//!   addends, which a cluster does not keep. Only at the top level; queries round what is inside of lists.
//! * Everything else as Arrow displays it: decimals with all digits, timestamps as ISO 8601.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use datafusion::error::Result;
use sqllogictest::ColumnType;

/// Significant digits of a float in a file.
const DIGITS: usize = 12;
/// Of a 32-bit float: it holds fewer than eight.
const DIGITS_32: usize = 6;

/// What a column holds, as a file's `query` line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Column {
    Boolean,
    /// Dates and times of day.
    Date,
    Integer,
    Timestamp,
    /// Floats and decimals.
    Number,
    Text,
    Other,
}

impl ColumnType for Column {
    fn from_char(value: char) -> Option<Self> {
        Some(match value {
            'B' => Self::Boolean,
            'D' => Self::Date,
            'I' => Self::Integer,
            'P' => Self::Timestamp,
            'R' => Self::Number,
            'T' => Self::Text,
            '?' => Self::Other,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            Self::Boolean => 'B',
            Self::Date => 'D',
            Self::Integer => 'I',
            Self::Timestamp => 'P',
            Self::Number => 'R',
            Self::Text => 'T',
            Self::Other => '?',
        }
    }
}

impl Column {
    /// The kind of column that `data_type` makes.
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => Self::Date,
            DataType::Timestamp(..) => Self::Timestamp,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Dictionary(_, value) => Self::of(value),
            integer if integer.is_integer() => Self::Integer,
            number if number.is_numeric() => Self::Number,
            _ => Self::Other,
        }
    }
}

/// The rows of `batches`, a text per cell.
pub(crate) fn rows(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("NULL").with_duration_format(DurationFormat::Pretty);
    let mut rows = Vec::new();
    for batch in batches {
        let cells = batch.columns().iter().map(|column| column_cells(column, &options));
        let cells = cells.collect::<Result<Vec<_>>>()?;
        rows.extend((0..batch.num_rows()).map(|row| cells.iter().map(|column| column[row].clone()).collect()));
    }
    Ok(rows)
}

fn column_cells(column: &dyn Array, options: &FormatOptions) -> Result<Vec<String>> {
    let rounded = |number: Option<f64>, digits| number.map_or_else(|| "NULL".to_owned(), |it| round(it, digits));
    Ok(match column.data_type() {
        DataType::Float16 => {
            column.as_primitive::<Float16Type>().iter().map(|it| rounded(it.map(f64::from), DIGITS_32)).collect()
        }
        DataType::Float32 => {
            column.as_primitive::<Float32Type>().iter().map(|it| rounded(it.map(f64::from), DIGITS_32)).collect()
        }
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(|it| rounded(it, DIGITS)).collect(),
        _ => {
            let formatter = ArrayFormatter::try_new(column, options)?;
            (0..column.len()).map(|row| Ok(one_line(formatter.value(row).try_to_string()?))).collect::<Result<_>>()?
        }
    })
}

/// `number` with so many significant digits, in the shortest form.
fn round(number: f64, digits: usize) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "NaN".to_owned() } else { number.to_string() };
    }
    // What scientific notation writes, Rust reads.
    let rounded: f64 = format!("{number:.*e}", digits - 1).parse().unwrap_or(number);
    let magnitude = rounded.abs();
    if rounded == 0.0 {
        "0".to_owned()
    } else if (1e-7..1e17).contains(&magnitude) {
        rounded.to_string()
    } else {
        format!("{rounded:e}")
    }
}

fn one_line(text: String) -> String {
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    if text.contains(['\n', '\r']) {
        return text.replace('\n', "\\n").replace('\r', "\\r");
    }
    let inner = text.trim_matches(' ');
    if inner.len() == text.len() {
        return text;
    }
    let leading = if inner.is_empty() { 0 } else { text.len() - text.trim_start_matches(' ').len() };
    format!("{}{inner}{}", "\\s".repeat(leading), "\\s".repeat(text.len() - inner.len() - leading))
}
