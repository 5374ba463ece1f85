//! The token of a page-table page cannot be copied.
//! expect: E0599

use kpkeys_pgtable::ptp::UnlinkedPtp;

pub fn double(ptp: UnlinkedPtp) -> Vec<UnlinkedPtp> {
    vec![
        #[cfg(feature = "misuse")]
        ptp.clone(),
        ptp,
    ]
}

fn main() {}
