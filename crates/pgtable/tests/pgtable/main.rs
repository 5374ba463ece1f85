//! Page tables as their callers see them, for both entry formats, by keys and by alias, in every protection mode.
//!
//! Most tests run on a guarded machine, on which a store to a page table outside a window is SIGSEGV: a test binary that dies by
//! that signal has found one. One program, since every test program compiles the tables of each format anew.

#[macro_use]
mod support;

mod attacker;
mod believed;
mod checker;
mod checker_alias;
mod checker_bypasses;
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "stores to slots of tables that the test has just found, or forged on purpose, in one thread"
)]
mod frame_types;
mod fused_windows;
mod linear_alias;
mod linear_holes;
mod linear_keys;
mod mapped_frames;
mod memory_added;
mod memory_types;
mod new_tables;
mod out_of_memory;
mod own_maps;
mod pan_attacks;
mod pool;
mod pool_growth;
mod ranges;
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "stores to slots of tables that the test has just found, or forged on purpose, in one thread"
)]
mod sections;
mod separate_keys;
mod start;
mod stray_store;
mod sweeping;
mod ttbr0_attacks;
mod violations;
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "stores to slots of tables that the test has just found, or forged on purpose, in one thread"
)]
mod walker_flags;
