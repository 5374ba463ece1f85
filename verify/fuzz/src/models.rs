//! Address spaces and kernel mappings of `kpkeys-mm` against the plain models of its property tests.

use kpkeys_pgtable::Mode;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::{guarded, guarded_pan};

#[allow(dead_code, unused_imports, reason = "a part of the tests")]
#[path = "../../../crates/mm/tests/mm/space_model.rs"]
mod space_model;
#[allow(dead_code, unused_imports, reason = "a part of the tests")]
#[path = "../../../crates/mm/tests/mm/vmalloc_model.rs"]
mod vmalloc_model;

/// Frames of the machine: fewer than in the tests, since each input makes one. Allocations fail sooner.
const PAGES: usize = 4096;

/// What a strategy makes of bytes in place of random numbers; nothing if they do not suffice for it.
pub fn drawn<S: Strategy>(strategy: &S, bytes: &[u8]) -> Option<S::Value> {
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}

/// The first byte says which machine, the others what it does.
fn split(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(first, rest)| (*first, rest))
}

const MODES: [Mode; 3] = [Mode::Fused, Mode::Batched, Mode::FusedLean];

/// Address spaces.
pub fn spaces(bytes: &[u8]) {
    let Some((machine, bytes)) = split(bytes) else { return };
    let Some(operations) = drawn(&space_model::sequence(), bytes) else { return };
    let mode = MODES[usize::from(machine >> 2) % MODES.len()];
    match machine & 3 {
        0 => space_model::carry_out(&guarded::<Aarch64>(mode, PAGES), operations),
        1 => space_model::carry_out(&guarded_pan::<Aarch64>(mode, PAGES), operations),
        _ => space_model::carry_out(&guarded::<X86_64>(mode, PAGES), operations),
    }
}

/// Kernel mappings.
pub fn areas(bytes: &[u8]) {
    let Some((machine, bytes)) = split(bytes) else { return };
    let Some(operations) = drawn(&vmalloc_model::sequence(), bytes) else { return };
    let mode = MODES[usize::from(machine >> 2) % MODES.len()];
    match machine & 3 {
        0 => vmalloc_model::carry_out(&guarded::<Aarch64>(mode, PAGES), operations),
        1 => vmalloc_model::carry_out(&guarded_pan::<Aarch64>(mode, PAGES), operations),
        _ => vmalloc_model::carry_out(&guarded::<X86_64>(mode, PAGES), operations),
    }
}
