//! Paired-block statistics for the kpkeys evaluation.
//!
//! Everything here is a pure function of one file of recorded samples. The measuring side writes
//! that file ([`record`]); this crate reads it, reduces it to one number per row, mode and block
//! ([`reduce`]), estimates every effect against the baseline of the same block ([`estimate`]),
//! decides which effects may carry a flag ([`flag`]), and builds the table that is printed or
//! handed to scripts ([`table`]). Beside the measured effects stands a projection by a cost model
//! ([`cost`]), and any table can be set next to another one ([`compare`]).
//! Whole runs are compared with each other, with a verdict, by [`contrast`].
//!
//! The words used throughout:
//!
//! - A **block** runs every mode once, each in a fresh process or boot, in random order. Blocks are
//!   the unit of replication: effects are paired inside a block, and only blocks are counted when
//!   an interval or a p-value is computed.
//! - An **iteration** is a repeat inside one process. Iterations reduce to their median and never
//!   stand in for blocks.
//! - An **effect** is the mean over blocks of `ln(mode) - ln(off in the same block)`, shown as a
//!   percentage; positive is slower.
//!
//! ```
//! use kpkeys_stats::{cost::CostModel, record::Recording, table::Table};
//!
//! let file = concat!(
//!     r#"{"kind":"run","format":1,"machine":{"cpu":"example","cpus":2,"arch":"x86_64","os":"Linux"},"#,
//!     r#""on":"host","backend":"mock","paging":"aarch64","switch_ns":10.0,"seed":1,"blocks":1,"#,
//!     r#""quick":true,"build":"example"}"#, "\n",
//!     r#"{"kind":"sample","mode":"off","block":0,"iteration":0,"benchmark":"fork","#,
//!     r#""result_class":"fork: h:0","unit":"ns","value":100.0}"#, "\n",
//!     r#"{"kind":"done","mode":"off","block":0}"#, "\n",
//!     r#"{"kind":"sample","mode":"batched","block":0,"iteration":0,"benchmark":"fork","#,
//!     r#""result_class":"fork: h:0","unit":"ns","value":103.0}"#, "\n",
//!     r#"{"kind":"done","mode":"batched","block":0}"#, "\n",
//! );
//! let recording = Recording::read_from(file.as_bytes(), "example.jsonl")?;
//! let table = Table::build(&recording, &CostModel::graviton3([]))?;
//! let batched = &table.rows[0].modes[&kpkeys_stats::record::Mode::Batched];
//! assert!((batched.effect.as_ref().unwrap().effect_pct - 3.0).abs() < 1e-9);
//! assert!(!table.can_flag, "one block cannot support a flag");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bootstrap;
pub mod changepoint;
pub mod compare;
pub mod conditions;
pub mod contrast;
pub mod cost;
pub mod estimate;
#[cfg(test)]
mod fixture;
pub mod flag;
mod interval;
pub mod notice;
pub mod parts;
mod permutation;
pub mod pooled;
pub mod predict;
pub mod record;
pub mod reduce;
pub mod side;
pub mod table;

pub use interval::Interval;
