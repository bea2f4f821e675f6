// SPDX-License-Identifier: Apache-2.0
//! The fingerprint of this build's hash function.
//!
//! Rows of one key meet in one bucket only if every executor hashes alike: DataFusion's function, with the seed of its
//! `RepartitionExec`, compiled for this CPU. Executors send the hash of fixed keys when they register, and the
//! scheduler refuses a cluster whose executors differ.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int64Array, StringArray,
    StringViewArray,
};
use arrow::datatypes::Int32Type;
use datafusion::common::hash_utils::create_hashes;
use datafusion::error::Result;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

static FINGERPRINT: LazyLock<u64> = LazyLock::new(|| {
    // The keys are constants of types that the function knows, so that it cannot fail; a zero never matches.
    compute().unwrap_or(0)
});

/// Hash of fixed keys of the usual types, each alone and all together.
pub fn hash_fingerprint() -> u64 {
    *FINGERPRINT
}

/// Overwrites `hashes` with DataFusion's repartitioning hash of the rows of `keys`.
pub(crate) fn repartition_hashes(keys: &[ArrayRef], hashes: &mut [u64]) -> Result<()> {
    create_hashes(keys, REPARTITION_RANDOM_STATE.random_state(), hashes)?;
    Ok(())
}

fn compute() -> Result<u64> {
    let text = [Some("ballista"), None, Some("a text of more than twelve bytes")];
    let dictionary: DictionaryArray<Int32Type> = text.into_iter().collect();
    let decimals = Decimal128Array::from(vec![Some(12345), None, Some(-1)]).with_precision_and_scale(15, 2)?;
    let keys: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(42), None, Some(-7)])),
        Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-0.0)])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Date32Array::from(vec![Some(9_204), None, Some(0)])),
        Arc::new(decimals),
        Arc::new(StringArray::from_iter(text)),
        Arc::new(StringViewArray::from_iter(text)),
        Arc::new(dictionary),
    ];
    let mut fingerprint = 0u64;
    let mut fold = |keys: &[ArrayRef]| -> Result<()> {
        let mut hashes = [0; 3];
        repartition_hashes(keys, &mut hashes)?;
        for hash in hashes {
            fingerprint = (fingerprint.rotate_left(5) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        Ok(())
    };
    for key in &keys {
        fold(std::slice::from_ref(key))?;
    }
    fold(&keys)?;
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_stable_and_not_the_fallback() {
        assert_ne!(hash_fingerprint(), 0);
        assert_eq!(compute().unwrap(), hash_fingerprint());
    }
}
