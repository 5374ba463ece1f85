//! What the tests of the memory manager share: machines, and the account of every frame.

use kpkeys_hosted::boot::{Counted, Guarded, GuardedPan};
use kpkeys_hosted::{Counter, HostedFormat, Setup, boot_counted, boot_guarded, boot_guarded_pan};
use kpkeys_mm::{AddressSpace, Kernel};
use kpkeys_pgtable::check::{Report, Scratch, check};
use kpkeys_pgtable::{Config, Format, Machine, Mode, PageRange, Root, VirtAddr};

/// Makes a test of each generic function for both entry formats.
macro_rules! for_both_formats {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64>(); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64>(); })*
        }
    };
}
pub(crate) use for_both_formats;

/// A machine of one CPU on which a stray store to a page table is SIGSEGV.
pub fn guarded<F: HostedFormat>(mode: Mode, pages: usize) -> Kernel<Guarded<F>> {
    boot_guarded(Setup { pages, cpus: 1, config: Config::of(mode) }).expect("the host has memory")
}

/// The same, where page tables are behind an alias.
pub fn guarded_pan<F: HostedFormat>(mode: Mode, pages: usize) -> Kernel<GuardedPan<F>> {
    let setup = Setup { pages, cpus: 1, config: Config::of(mode) };
    boot_guarded_pan(setup).expect("the host has memory")
}

/// A machine of the models' tests, whatever protects its page tables.
pub trait Modelled: Machine<Format: HostedFormat, Probe = Counter> {}

impl<M: Machine<Format: HostedFormat, Probe = Counter>> Modelled for M {}

/// A machine of several CPUs.
pub fn of_cpus<F: HostedFormat>(mode: Mode, pages: usize, cpus: usize) -> Kernel<Counted<F>> {
    boot_counted(Setup { pages, cpus, config: Config::of(mode) }).expect("the host has memory")
}

/// Runs a test on a machine of one CPU in each set-up, which differ in how page-table pages are allocated and in where windows are.
/// In the end every frame must be free.
pub fn on_every_machine<F: HostedFormat>(pages: usize, test: impl Fn(&Kernel<Counted<F>>, Mode)) {
    for mode in Mode::ALL {
        let kernel = of_cpus::<F>(mode, pages, 1);
        test(&kernel, mode);
        kernel.purge_vmalloc();
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

/// Bytes of a page of the formats that these tests are for.
pub const PAGE_SIZE: u64 = 4096;

/// The range of `pages` pages from `start`.
pub fn range<F: Format>(start: u64, pages: usize) -> PageRange<F> {
    PageRange::new(VirtAddr(start), pages).expect("a good range")
}

/// Runs the checker over all tables, which must be as promised.
pub fn assert_clean<M: Machine>(kernel: &Kernel<M>, users: &[&AddressSpace<'_, M>]) -> Report {
    let memory = kernel.machine().memory();
    let roots: Vec<&Root> = users.iter().flat_map(|space| space.roots()).collect();
    let mut bits = vec![0; Scratch::words(&memory)];
    let mut findings = Vec::new();
    let report =
        check(kernel.paging(), &roots, Scratch::new(&mut bits), |finding| findings.push(finding))
            .expect("scratch memory of the size the checker asks for");
    assert_eq!(findings, []);
    report
}

/// Accounts for every frame: each is free, is a page-table page, waits in the pool to become one, is the page of zeroes, or is one
/// of `data` that the test knows to be in use.
pub fn assert_every_frame_accounted_for<M: Machine>(
    kernel: &Kernel<M>,
    users: &[&AddressSpace<'_, M>],
    data: usize,
) {
    let report = assert_clean(kernel, users);
    let free = kernel.frames().free_frames();
    let pages = kernel.machine().memory().pages;
    assert_eq!(
        free + report.ptps + report.spare + report.state + 1 + data,
        pages,
        "{free} free, {data} data, {report:?}"
    );
}
