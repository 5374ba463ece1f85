//! Random bytes for programs: not for secrets, since this kernel knows of no source of entropy but its clock.

use crate::arch;
use core::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Fills a slice (SplitMix64, stirred by the clock).
pub fn fill(to: &mut [u8]) {
    for bytes in to.chunks_mut(8) {
        let clock = arch::time::since_boot().as_nanos() as u64;
        let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15 ^ clock << 1, Ordering::Relaxed);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes()[..bytes.len()]);
    }
}
