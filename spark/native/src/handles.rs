// SPDX-License-Identifier: Apache-2.0
//! Native objects that the JVM holds by number.
//!
//! A handle is not an address: one that was released, was never given out, or belongs to another kind of object is an
//! error, not a crash.
//!
//! ```text
//!   bit 63        62..56   55..24        23..0
//!   0 (positive)  kind     generation    slot
//! ```
//!
//! Invariants: a handle is positive, and 0 is none. A slot gets another generation each time it is emptied; one whose
//! generations are used up is not used again, so no handle ever means two objects. Whoever is in the middle of a call
//! keeps the object alive when another thread releases it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Result, SparkError};

const SLOT_BITS: u32 = 24;
const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// A table of objects of one kind.
#[derive(Debug)]
pub struct Handles<T> {
    kind: u8,
    name: &'static str,
    slots: Mutex<Slots<T>>,
}

#[derive(Debug)]
struct Slots<T> {
    all: Vec<Slot<T>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    object: Option<Arc<T>>,
}

impl<T> Handles<T> {
    /// An empty table. `kind`, 1 to 127, tells its handles from those of other tables; `name` is for errors.
    pub const fn new(kind: u8, name: &'static str) -> Self {
        assert!(kind > 0 && kind < 128);
        Self { kind, name, slots: Mutex::new(Slots { all: Vec::new(), free: Vec::new() }) }
    }

    /// Takes an object in.
    pub fn insert(&self, object: T) -> Result<i64> {
        let object = Some(Arc::new(object));
        let mut slots = self.slots.lock();
        let index = match slots.free.pop() {
            Some(index) => {
                slots.all[index].object = object;
                index
            }
            None if slots.all.len() < MAX_SLOTS => {
                slots.all.push(Slot { generation: 0, object });
                slots.all.len() - 1
            }
            None => return Err(SparkError::Invalid(format!("too many objects of kind {}", self.name))),
        };
        let generation = slots.all[index].generation;
        Ok(i64::from(self.kind) << 56 | i64::from(generation) << SLOT_BITS | index as i64)
    }

    /// The object of a handle.
    pub fn get(&self, handle: i64) -> Result<Arc<T>> {
        let mut slots = self.slots.lock();
        let slot = self.slot(&mut slots, handle)?;
        slot.object.as_ref().map(Arc::clone).ok_or_else(|| self.unknown(handle))
    }

    /// Gives the object back; the handle is void from here on.
    pub fn remove(&self, handle: i64) -> Result<Arc<T>> {
        let mut slots = self.slots.lock();
        let slot = self.slot(&mut slots, handle)?;
        let object = slot.object.take().ok_or_else(|| self.unknown(handle))?;
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            slots.free.push(handle as usize & (MAX_SLOTS - 1));
        }
        Ok(object)
    }

    /// Objects in the table.
    pub fn len(&self) -> usize {
        self.slots.lock().all.iter().filter(|slot| slot.object.is_some()).count()
    }

    /// Whether the table has no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot<'a>(&self, slots: &'a mut Slots<T>, handle: i64) -> Result<&'a mut Slot<T>> {
        let slot = slots.all.get_mut(handle as usize & (MAX_SLOTS - 1));
        let expected = |slot: &Slot<T>| i64::from(self.kind) << 32 | i64::from(slot.generation);
        slot.filter(|slot| expected(slot) == handle >> SLOT_BITS).ok_or_else(|| self.unknown(handle))
    }

    fn unknown(&self, handle: i64) -> SparkError {
        SparkError::Invalid(format!("{handle:#x} is no handle of a {}, or no longer", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_handle_is_void_for_good() {
        let table = Handles::new(3, "thing");
        let first = table.insert("first").unwrap();
        assert!(first > 0);
        assert_eq!(*table.get(first).unwrap(), "first");
        assert_eq!(*table.remove(first).unwrap(), "first");
        assert!(table.get(first).is_err());
        assert!(table.remove(first).is_err());
        let second = table.insert("second").unwrap();
        assert_ne!(first, second);
        assert!(table.get(first).is_err());
        assert_eq!(*table.get(second).unwrap(), "second");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn handles_of_others_are_refused() {
        let (things, others) = (Handles::new(1, "thing"), Handles::new(2, "other"));
        let thing = things.insert(1).unwrap();
        others.insert(2).unwrap();
        assert!(others.get(thing).is_err());
        for handle in [0, -1, i64::MAX, i64::MIN, thing + 1] {
            assert!(things.get(handle).is_err(), "{handle}");
        }
    }

    #[test]
    fn a_slot_without_generations_left_is_retired() {
        let table = Handles::new(1, "thing");
        let handle = table.insert(0).unwrap();
        table.remove(handle).unwrap();
        table.slots.lock().all[0].generation = u32::MAX;
        let last = table.insert(1).unwrap();
        assert!(last > 0);
        table.remove(last).unwrap();
        let next = table.insert(2).unwrap();
        assert_eq!(next as usize & (MAX_SLOTS - 1), 1);
        assert!(table.get(last).is_err());
    }
}
