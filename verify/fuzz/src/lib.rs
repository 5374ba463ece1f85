//! What reads bytes from outside, and what carries out operations on page tables and memory: each is a target, a function of bytes that must not
//! panic.
//!
//! Bytes become operations by the strategies of the crates' own property tests: the bytes are the random numbers that these draw. So a target and a test
//! mean the same by an operation and hold the real tables against the same plain model.
//!
//! `corpus/` has a folder a target: inputs that reach something no other does, and those that found something. A test replays them all.

extern crate alloc;

mod kernel;
mod models;
mod readers;
mod tables;

// What the tests of the crates have, by the paths that these use.
use kernel::{arch, evidence};
#[allow(dead_code, unused_imports, unused_macros, reason = "a part of the tests' support")]
#[path = "../../../crates/mm/tests/mm/support.rs"]
mod support;

/// A function of bytes that must not panic.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// The longest input that is made.
    pub longest: usize,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "devicetree", run: readers::devicetree, longest: 4096 },
    Target { name: "trace", run: readers::trace, longest: 4096 },
    Target { name: "samples", run: readers::samples, longest: 4096 },
    Target { name: "audit", run: readers::audit, longest: 4096 },
    Target { name: "command-line", run: kernel::command_line, longest: 256 },
    Target { name: "tables", run: tables::run, longest: 1024 },
    Target { name: "spaces", run: models::spaces, longest: 2048 },
    Target { name: "areas", run: models::areas, longest: 2048 },
];
