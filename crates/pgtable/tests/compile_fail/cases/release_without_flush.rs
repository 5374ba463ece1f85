//! An unlinked page-table page cannot be called flushed by anyone but the function that flushes.
//! expect: E0624

use kpkeys_pgtable::Format;
use kpkeys_pgtable::ptp::UnlinkedPtp;

pub fn skip_the_flush<F: Format>(ptp: UnlinkedPtp<F>) {
    #[cfg(feature = "misuse")]
    let _ = ptp.flushed();
    #[cfg(not(feature = "misuse"))]
    let _ = ptp.frame();
}

fn main() {}
