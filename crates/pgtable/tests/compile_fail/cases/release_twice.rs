//! An unlinked page-table page is released once: the token is gone then.
//! expect: E0382

use kpkeys_pgtable::ptp::UnlinkedPtp;
use kpkeys_pgtable::{Flush, Frames, Machine, Paging};

pub fn release<M: Machine, F: Frames>(paging: &Paging<M, F>, flush: Flush<M::Format>, ptp: UnlinkedPtp<M::Format>) {
    paging.flush_and_release(flush, [ptp]);
    #[cfg(feature = "misuse")]
    paging.flush_and_release(flush, [ptp]);
}

fn main() {}
