//! Every row of the table, in every mode and both entry formats: what it does is counted and compared exactly, and what it leaves
//! behind is checked.

mod alias_counts;
mod memory;
mod part_counts;
mod process_counts;
mod protection;
mod support;
mod vmalloc_counts;
