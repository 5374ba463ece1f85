//! The token of a page-table page cannot be made from a frame: an attacker's choice of page is never released.
//! expect: E0624

use kpkeys_pgtable::PhysAddr;
use kpkeys_pgtable::ptp::UnlinkedPtp;

pub fn forge(frame: PhysAddr) -> PhysAddr {
    #[cfg(feature = "misuse")]
    let frame = UnlinkedPtp::new(frame).frame();
    frame
}

fn main() {}
