//! The token of a page-table page cannot be made from a frame: an attacker's choice of page is never released.
//! expect: E0624

use kpkeys_pgtable::{Format, PageRange, PhysAddr, Root};
use kpkeys_pgtable::ptp::UnlinkedPtp;

pub fn forge<F: Format>(frame: PhysAddr, root: &Root, range: PageRange<F>) -> PhysAddr {
    #[cfg(feature = "misuse")]
    let frame = UnlinkedPtp::new(frame, root, range).frame();
    frame
}

fn main() {}
