//! Page tables with keys of the host's: what the CPU itself refuses.
//!
//! Where this CPU has no such keys nothing can be shown, and each test says so; `cargo xtask pku` runs them where there are.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod guarded;
mod keys;
mod signals;
mod stray;
mod stray_store;
mod threads;

use kpkeys::pku::Pku;
use kpkeys_hosted::boot::{OnKeys, boot_measured_counted};
use kpkeys_hosted::{Counter, HostedFormat, Setup};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Machine, Mode, PhysAddr};

const PAGES: usize = 1 << 13;

/// A kernel whose page tables have keys of the host's.
type Keyed<F> = Kernel<OnKeys<F, Counter>>;

/// Boots one, of two CPUs.
fn boot<F: HostedFormat>(mode: Mode) -> Keyed<F> {
    let setup = Setup { pages: PAGES, cpus: 2, config: Config::of(mode) };
    boot_measured_counted::<F, Pku>(setup).expect("the host has keys, and memory")
}

/// Makes tests of generic functions for both entry formats, which say so where the host has no keys.
macro_rules! on_keys {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { crate::where_there_are_keys(super::$test::<crate::Aarch64>); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { crate::where_there_are_keys(super::$test::<crate::X86_64>); })*
        }
    };
}
pub(crate) use on_keys;

fn where_there_are_keys(test: fn()) {
    match kpkeys_hosted::pku::check() {
        Ok(()) => test(),
        Err(_) => kpkeys_skips::skip!(
            "no keys for user pages here; `cargo xtask pku` runs it where there are"
        ),
    }
}

/// Every page-table page of a kernel, by the linear map.
fn tables<F: HostedFormat>(kernel: &Keyed<F>) -> Vec<PhysAddr> {
    let memory = kernel.machine().memory();
    let is_table =
        |frame: &PhysAddr| kernel.paging().memory_pkey(*frame) == Some(kpkeys::Pkey::PAGE_TABLES);
    (0..memory.pages).map(|number| memory.frame(number)).filter(is_table).collect()
}

/// The first word of a frame.
fn word<F: HostedFormat>(kernel: &Keyed<F>, frame: PhysAddr) -> *mut u64 {
    kernel.machine().table(frame).cast::<u64>().as_ptr()
}

/// Loads it.
fn load(word: *mut u64) -> u64 {
    // SAFETY: a word of an arena, which threads of this test store to by single instructions.
    unsafe { word.read_volatile() }
}

fn protecting() -> impl Iterator<Item = Mode> {
    Mode::ALL.into_iter().filter(|mode| mode.protects())
}
