//! The in-kernel tests: short functions that a registry finds.
//!
//! [`kernel_test!`](crate::kernel_test) puts a function into a section of the image; [`run_all`] runs what it
//! finds there, in the order of the names, each on the first thread, and reports one record each. A
//! test returns why it failed.

mod exceptions;
mod flushes;
mod frees;
mod image;
mod keys;
mod memory;
mod paging;
mod pointers;
mod program_memory;
mod programs;
mod protection;
mod smp;
mod threads;

use crate::evidence::report::{Record, emit};
use crate::lock::IrqLock;
use alloc::string::String;
use alloc::vec::Vec;
use linkme::distributed_slice;

/// A test: its name and what it does.
pub struct Test {
    /// Module and function.
    pub name: &'static str,
    /// The function.
    pub run: fn() -> Outcome,
}

/// `Err` says what was expected and what was found.
pub type Outcome = Result<(), String>;

/// Every test in the image.
#[distributed_slice]
pub static TESTS: [Test];

/// Declares test functions and puts them into the registry.
#[macro_export]
macro_rules! kernel_test {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)+) => {$(
        $(#[$doc])*
        fn $name() -> $crate::evidence::tests::Outcome {
            // The registry entry is named as the function, in a scope of its own.
            const _: () = {
                #[linkme::distributed_slice($crate::evidence::tests::TESTS)]
                static TEST: $crate::evidence::tests::Test =
                    $crate::evidence::tests::Test { name: concat!(module_path!(), "::", stringify!($name)), run: $name };
            };
            $body
            Ok(())
        }
    )+};
}

/// Ends the test with a reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($reason)+));
        }
    };
}

/// Says that the running test leaves something unchecked on this machine, and why; the test goes on.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::evidence::tests::skipped(&alloc::format!($($reason)+))
    };
}

/// The name of the test that runs.
static RUNNING: IrqLock<&str> = IrqLock::new("");

/// What [`skip!`](crate::skip) does.
pub fn skipped(reason: &str) {
    let name = *RUNNING.lock();
    emit(&Record::Skip { name, reason });
}

/// Runs the tests whose name contains `part` and returns how many failed.
pub fn run_all(part: &str) -> usize {
    let mut tests: Vec<&Test> = TESTS.iter().filter(|test| test.name.contains(part)).collect();
    tests.sort_by_key(|test| test.name);
    let failed = tests.iter().filter(|test| !run_one(test)).count();
    emit(&Record::Tests { passed: tests.len() - failed, failed });
    if tests.is_empty() {
        log::error!("no test's name contains \"{part}\"");
        return 1;
    }
    failed
}

fn run_one(test: &Test) -> bool {
    let name = test.name.trim_start_matches("kpkeys_kernel::tests::");
    *RUNNING.lock() = name;
    let outcome = (test.run)().and_then(|()| tables_are_as_promised());
    let reason = outcome.as_ref().err().map(String::as_str);
    emit(&Record::Test { name, passed: outcome.is_ok(), reason });
    outcome.is_ok()
}

/// The checker, after every test.
fn tables_are_as_promised() -> Outcome {
    let mut first = None;
    let report = crate::memory::paging::check(crate::memory::paging::memories(), &[], |finding| {
        first.get_or_insert(finding);
    });
    match first {
        Some(finding) => {
            Err(alloc::format!("checker: {} findings, the first: {finding}", report.findings))
        }
        None => Ok(()),
    }
}
