//! What reads bytes that somebody else wrote: device trees, traces, sample files, images.

use kpkeys_stats::cost::CostModel;
use kpkeys_stats::record::Recording;
use kpkeys_stats::table::Table;
use kpkeys_trace::{Damage, Summary, TraceReader};

#[allow(dead_code, unused_imports, reason = "a part of the test")]
#[path = "../../../crates/devicetree/tests/damage.rs"]
mod damage;

/// Whatever is taken for a machine could be one.
pub fn devicetree(bytes: &[u8]) {
    damage::survives(bytes);
}

/// What is refused when damage is tolerated is the header, and what is handed out can be summed up.
pub fn trace(bytes: &[u8]) {
    let summary = |damage| TraceReader::new(bytes, damage).map(|mut reader| Summary::of(&mut reader));
    let (strict, tolerant) = (summary(Damage::Refuse), summary(Damage::Tolerate));
    match (strict, tolerant) {
        (Ok(Ok(_)), tolerant) => assert!(matches!(tolerant, Ok(Ok(_))), "{tolerant:?}"),
        (Err(error), other) => {
            assert!(!error.to_string().is_empty());
            assert!(other.is_err(), "a damaged header is refused in any case");
        }
        (Ok(Err(error)), _) => assert!(!error.to_string().is_empty()),
    }
}

/// What is read makes a table, or an error that says why not.
pub fn samples(bytes: &[u8]) {
    match Recording::read_from(bytes, "input") {
        Err(error) => assert!(error.to_string().contains("input"), "{error}"),
        Ok(recording) => {
            if let Err(error) = Table::build(&recording, &CostModel::graviton3([])) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// Every site is in the image that was read.
pub fn audit(bytes: &[u8]) {
    match kpkeys_audit::audit(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(report) => report.sites.iter().for_each(|site| {
            let _ = site.line();
        }),
    }
}
