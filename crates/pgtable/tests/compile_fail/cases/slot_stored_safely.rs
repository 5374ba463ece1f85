//! A slot is a place in memory, which may be another's table by now: storing to one takes a promise.
//! expect: E0133

use kpkeys_pgtable::table::Slot;
use kpkeys_pgtable::{Entry, Error, Machine, Section};

pub fn store<M: Machine>(section: &Section<'_, M>, slot: Slot<'_>, entry: Entry) -> Result<(), Error> {
    #[cfg(feature = "misuse")]
    section.set(slot, entry)?;
    // SAFETY: nobody calls this.
    #[cfg(not(feature = "misuse"))]
    unsafe { section.set(slot, entry) }?;
    Ok(())
}

fn main() {}
