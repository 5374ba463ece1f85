//! The token of a page-table page cannot be copied.
//! expect: E0599

use kpkeys_pgtable::Format;
use kpkeys_pgtable::ptp::UnlinkedPtp;

pub fn double<F: Format>(ptp: UnlinkedPtp<F>) -> Vec<UnlinkedPtp<F>> {
    vec![
        #[cfg(feature = "misuse")]
        ptp.clone(),
        ptp,
    ]
}

fn main() {}
