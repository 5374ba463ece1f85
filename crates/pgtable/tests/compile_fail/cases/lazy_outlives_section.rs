//! A lazy-MMU section ends before the operation it is part of.
//! expect: E0505

use kpkeys_pgtable::{Machine, Section};

pub fn outlive<M: Machine>(section: Section<'_, M>) {
    let lazy = section.lazy();
    #[cfg(feature = "misuse")]
    drop(section);
    drop(lazy);
}

fn main() {}
