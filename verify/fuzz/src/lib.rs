//! What reads bytes from outside, and what carries out operations on page tables and memory: each is a target, a function of bytes that must not
//! panic.
//!
//! `corpus/` has a folder a target: inputs that reach something no other does, and those that found something. A test replays them all.

extern crate alloc;

mod kernel;
mod machine;
mod memory;
mod readers;
mod tables;

// What the tests of the crates have, by the paths that these use.
use kernel::{arch, console, evidence, program};
#[allow(dead_code, unused_imports, reason = "a part of the test")]
#[path = "../../../crates/mm/tests/mm/contents.rs"]
mod contents;
#[allow(dead_code, unused_imports, reason = "a part of the test")]
#[path = "../../../crates/mm/tests/mm/space_model.rs"]
mod space_model;
#[allow(dead_code, unused_imports, unused_macros, reason = "a part of the tests' support")]
#[path = "../../../crates/mm/tests/mm/support.rs"]
mod support;
#[allow(dead_code, unused_imports, reason = "a part of the test")]
#[path = "../../../crates/mm/tests/mm/vmalloc_model.rs"]
mod vmalloc_model;

/// A function of bytes that must not panic.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target { name: "devicetree", run: readers::devicetree },
    Target { name: "trace", run: readers::trace },
    Target { name: "samples", run: readers::samples },
    Target { name: "audit", run: readers::audit },
    Target { name: "archive", run: readers::archive },
    Target { name: "program", run: readers::program },
    Target { name: "stack", run: readers::stack },
    Target { name: "command-line", run: kernel::command_line },
    Target { name: "tables", run: tables::run },
    Target { name: "spaces", run: memory::spaces },
    Target { name: "contents", run: memory::contents },
    Target { name: "areas", run: memory::areas },
];
