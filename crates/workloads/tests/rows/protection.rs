//! What a row leaves behind: every page-table page carries the key, nothing else does, and no frame is missing.

use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::Mode;
use kpkeys_workloads::ALL_ROWS;

use crate::support::{assert_clean_and_nothing_leaked, for_both_formats, kernel, run};

fn every_row_leaves_all_tables_protected_and_no_frame_lost<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = kernel::<F>(mode);
        assert_clean_and_nothing_leaked(&kernel, "boot");
        for row in &ALL_ROWS {
            run(&kernel, row, 100);
            // In mode `fused` the last unmap waits for a window, and keeps its frames until then.
            kernel.purge_vmalloc();
            assert_clean_and_nothing_leaked(&kernel, &format!("{} {mode:?}", row.result_class));
        }
    }
}

for_both_formats!(every_row_leaves_all_tables_protected_and_no_frame_lost);
