//! What time it is, for programs.
//!
//! No device is asked for the date: it is that of the newest file in the initramfs, and goes on from there. So what is made is newer than
//! what it was made of, and two runs are alike.

use crate::arch;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// The date at boot, in seconds since 1970.
static AT_BOOT_S: AtomicU64 = AtomicU64::new(0);

/// It is no earlier than this, in seconds since 1970.
pub fn is_behind(seconds: u64) {
    AT_BOOT_S.fetch_max(seconds + 1, Ordering::Relaxed);
}

/// The time from 1970 to boot.
pub fn at_boot() -> Duration {
    Duration::from_secs(AT_BOOT_S.load(Ordering::Relaxed))
}

/// The time since 1970.
pub fn date() -> Duration {
    at_boot() + arch::time::since_boot()
}
