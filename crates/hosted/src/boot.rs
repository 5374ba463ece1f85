//! Boot: an arena becomes a kernel's memory, protected as the mode says.

use std::io;
use std::sync::Arc;

use kpkeys::keyed::{self, Keyed};
use kpkeys::pan::Pan;
use kpkeys::ttbr0::Ttbr0;
use kpkeys_mm::{Buddy, FrameTable, Kernel, Layout};
use kpkeys_pgtable::{Config, Machine, NoProbe, Probe};

use crate::arena::{Arena, HOST_PAGE};
use crate::counter::Counter;
use crate::cpu;
use crate::machine::{Hosted, HostedFormat};
use crate::parts::Measured;
use crate::register::{ArenaRegister, MockRegister, PanFlag, PanRegister, Ttbr0Register};

/// A backend by the mock register, in the encoding of a format.
pub type MockBackend<F> = Keyed<MockRegister, <F as HostedFormat>::Encoding>;
/// The same, where tables of address spaces have a key of their own in mode `fused`.
pub type SeparateMock<F> = Keyed<MockRegister, <F as HostedFormat>::Encoding, keyed::Separate>;
/// A backend whose windows are real to this process.
pub type ArenaBackend<F> =
    Keyed<ArenaRegister<<F as HostedFormat>::Encoding>, <F as HostedFormat>::Encoding>;
/// A machine whose backend's cost is measured, with a probe.
pub type Measuring<F, B, P> = Hosted<F, B, P, <B as Measured>::Tlb>;
/// A machine that is timed.
pub type Timed<F> = Hosted<F, MockBackend<F>, NoProbe>;
/// A machine whose page tables have a key of the host's, so that a store to one outside a window is SIGSEGV, on any thread; with a probe.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub type OnKeys<F, P> = Measuring<F, kpkeys::pku::Pku, P>;
/// A machine whose events are counted.
pub type Counted<F> = Hosted<F, MockBackend<F>, Counter>;
/// A machine on which a stray store to a page table is SIGSEGV, and whose events are counted.
pub type Guarded<F> = Hosted<F, ArenaBackend<F>, Counter>;

/// A machine whose page tables are behind an alias, and whose events are counted.
pub type CountedPan<F> = Hosted<F, Pan<PanRegister>, Counter>;
/// The same with an alias that windows load a root for.
pub type CountedTtbr0<F> = Hosted<F, Ttbr0<Ttbr0Register>, Counter>;
/// [`Guarded`], with page tables behind an alias: they cannot be stored to where they are loaded from, and where they are stored
/// to is out of reach outside windows.
pub type GuardedPan<F> = Hosted<F, Pan<ArenaRegister<PanFlag>>, Counter>;

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Pages of physical memory.
    pub pages: usize,
    /// Threads that will play CPUs.
    pub cpus: usize,
    /// How page tables are protected.
    pub config: Config,
}

impl Setup {
    /// The memory of a machine with this format, in pages of an arena.
    fn host_pages<F: HostedFormat>(self) -> usize {
        self.pages * (F::PAGE_SIZE as usize / HOST_PAGE)
    }
}

/// Boots a machine to be timed.
///
/// # Errors
///
/// The host has no memory for the arena, or the arena is too small for its own tables.
pub fn boot<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<Timed<F>>> {
    boot_measured(setup)
}

/// [`boot`], before protection is turned on: a linear map, and tables that anything can write.
///
/// # Errors
///
/// As [`boot`].
pub fn build<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<Timed<F>>> {
    build_on(machine(setup, NoProbe)?, setup)
}

/// [`boot`], with the backend that is to be measured.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_measured<F: HostedFormat, B: Measured>(
    setup: Setup,
) -> io::Result<Kernel<Measuring<F, B, NoProbe>>> {
    boot_with(setup, NoProbe)
}

/// Boots a machine that counts events.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_counted<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<Counted<F>>> {
    boot_measured_counted(setup)
}

/// [`boot_counted`], with the backend that is to be measured.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_measured_counted<F: HostedFormat, B: Measured>(
    setup: Setup,
) -> io::Result<Kernel<Measuring<F, B, Counter>>> {
    boot_with(setup, Counter::default())
}

/// Boots a machine on which a store to a page table outside a window is SIGSEGV, by a key if the host has keys for user pages. It is for one thread.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_guarded<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<Guarded<F>>> {
    let arena = Arc::new(Arena::well_guarded(setup.host_pages::<F>())?);
    let backend: ArenaBackend<F> = Keyed::new(ArenaRegister::new(arena.clone()));
    if setup.config.mode.protects() {
        backend.reset();
    } else {
        // Mode `off` opens no windows: its tables are as writable as anything.
        arena.unguard();
    }
    start(Hosted::new(arena, backend, Counter::default(), setup.cpus), setup)
}

/// Boots a machine whose page tables are behind an alias, and that counts events.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_counted_pan<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<CountedPan<F>>> {
    let arena = Arc::new(Arena::new(setup.host_pages::<F>())?);
    let backend = Pan::new(PanRegister);
    backend.reset();
    start(Hosted::new(arena, backend, Counter::default(), setup.cpus), setup)
}

/// Boots a machine whose page tables are behind an alias that windows load a root for, and that counts events.
///
/// # Errors
///
/// As [`boot`]; and with the format of x86-64, which has one root register for both halves.
pub fn boot_counted_ttbr0<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<CountedTtbr0<F>>> {
    let arena = Arc::new(Arena::new(setup.host_pages::<F>())?);
    let backend = Ttbr0::new(Ttbr0Register);
    backend.reset();
    let machine = Hosted::new(arena, backend, Counter::default(), setup.cpus);
    start(machine.with_alias_in_windows(), setup)
}

/// Boots a machine whose page tables are behind an alias, and on which a load or store of the alias outside a window and a store to a
/// page table's own address at any time are SIGSEGV. It is for one thread.
///
/// # Errors
///
/// As [`boot`].
pub fn boot_guarded_pan<F: HostedFormat>(setup: Setup) -> io::Result<Kernel<GuardedPan<F>>> {
    let arena = Arc::new(Arena::aliased(setup.host_pages::<F>())?);
    let backend = Pan::new(ArenaRegister::new(arena.clone()));
    backend.reset();
    let kernel = start(Hosted::new(arena.clone(), backend, Counter::default(), setup.cpus), setup)?;
    if setup.config.mode.protects() {
        arena.seal();
    }
    Ok(kernel)
}

fn boot_with<F: HostedFormat, B: Measured, P: Probe>(
    setup: Setup,
    probe: P,
) -> io::Result<Kernel<Measuring<F, B, P>>> {
    let kernel = build_on(machine(setup, probe)?, setup)?;
    kernel.machine().load_root(kernel.paging().kernel().frame());
    kernel.enable_protection().map_err(io::Error::other)?;
    Ok(kernel)
}

fn machine<F: HostedFormat, B: Measured, P: Probe>(
    setup: Setup,
    probe: P,
) -> io::Result<Measuring<F, B, P>> {
    let backend = B::ready()?;
    let (arena, tlb) = B::memory(setup.host_pages::<F>())?;
    Ok(Hosted::with_tlb(arena, backend, probe, tlb, setup.cpus))
}

fn start<M: Machine>(machine: M, setup: Setup) -> io::Result<Kernel<M>> {
    let kernel = build_on(machine, setup)?;
    kernel.enable_protection().map_err(io::Error::other)?;
    Ok(kernel)
}

fn build_on<M: Machine>(machine: M, setup: Setup) -> io::Result<Kernel<M>> {
    let memory = machine.memory();
    let table = FrameTable::on_heap(memory.pages);
    let frames = Buddy::new(memory, table, true, setup.cpus, cpu::current);
    // SAFETY: all of the arena is free, and nobody else has it.
    unsafe { frames.add(0..memory.pages) };
    Kernel::new(machine, frames, setup.config, Layout::standard()).map_err(io::Error::other)
}
