//! What the page-table code believes, where nothing but a window can change it.
//!
//! A key on page tables stops stores to them. An attacker who can write ordinary memory need not store there: it changes what this code
//! believes, a frame number in some list, and has this code do it. So in mode [`Fused`](crate::Mode::Fused) what a frame *is* lies in
//! pages that are protected as page tables are: they carry the key, or are read-only with an alias. Loads of it are plain, stores take a
//! [`Window`](kpkeys::Window). Every entry is held against it before it is stored, and every page-table page before it is used.
//!
//! | file | concept |
//! |---|---|
//! | `frame_type` | what a frame can be |
//! | `types` | what every frame is: one word each, in guarded memory |
//! | `rules` | which leaf may map which frame; what a violation says |
//! | `admission` | holding leaves against types, in the gate that stores them |
//! | `sweep` | which data no entry maps any more |
//! | `checked` | the changes of type that belong to the life of a table, with the stores they belong to |
//!
//! # Protocol
//!
//! - A change names the old type and the new one, and is made by compare-and-exchange: of two callers who both believe that a page is
//!   theirs, one is refused.
//! - *Life of a table.* `Data` becomes `Spare` when the pool takes its block (or at once, without pool), `Spare` becomes a table of
//!   a level and a kind when it is allocated, that becomes linked in the window of the store that links it, and `Spare` again in the window of the store
//!   that unlinks it.
//! - *Keys.* Where the tables of address spaces have a key of their own, a spare page with it is `SpareUser`, and becomes such a table alone. What changes a type takes a proof that
//!   a window for these does not give.
//! - *Data that is mapped* never becomes a table: what an entry maps is marked in the gate that stores the entry, and a mark goes only
//!   by a sweep of all tables.
//! - *Where it begins.* The words are reached from an [`Anchor`], which the [machine](crate::Machine::anchor) keeps where it is read-only
//!   once start is over. Where no anchor was laid nothing is checked: that is how the other modes are.

mod admission;
mod checked;
mod frame_type;
mod rules;
mod sweep;
mod types;

pub use frame_type::{FrameType, Kind};
pub use rules::{Use, Violation, Violations};
pub use types::{Anchor, Types};

pub(crate) use rules::{LeafRule, Noted};
