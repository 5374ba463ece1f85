//! The ways page tables can be protected, as a parameter of tests.

use std::io;
use std::sync::Arc;

use kpkeys::keyed::{self, Keyed, Register};
use kpkeys::pan::Pan;
use kpkeys::ttbr0::Ttbr0;
use kpkeys::{Backend, Pkey};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::mmu::{Cpu, Fault};
use kpkeys_hosted::register::{ArenaRegister, Opens, PanFlag, RootFlag};
use kpkeys_hosted::{Counter, Hosted, HostedFormat};
use kpkeys_pgtable::{Format, Level, Machine, Paging, PhysAddr, Probe, Root};

use super::Scarce;

/// The machine of a system under test.
pub type MachineOf<F, S> = Hosted<F, <S as Protection>::Backend<F>, Counter>;
/// Its protection register.
pub type RegisterOf<F, S> = ArenaRegister<<S as Protection>::Values<F>>;

/// A way to protect page tables: by an alias, where it does not say otherwise.
pub trait Protection: 'static {
    /// Values of the protection register.
    type Values<F: HostedFormat>: Opens;
    /// The backend.
    type Backend<F: HostedFormat>: Backend + Sync;

    fn arena(pages: usize) -> io::Result<Arena> {
        Arena::aliased(pages)
    }

    /// The backend of a register, outside of windows.
    fn backend<F: HostedFormat>(register: RegisterOf<F, Self>) -> Self::Backend<F>
    where
        Self: Sized;

    /// The machine, with its alias where this way has it.
    fn machine<F: HostedFormat, P: Probe>(
        machine: Hosted<F, Self::Backend<F>, P>,
    ) -> Hosted<F, Self::Backend<F>, P>
    where
        Self: Sized,
    {
        machine
    }

    /// What the root register of the lower half holds, on a CPU that has a program's there otherwise.
    fn lower_root<F: HostedFormat>(
        _paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        _register: &RegisterOf<F, Self>,
        programs: Option<PhysAddr>,
    ) -> Option<PhysAddr>
    where
        Self: Sized,
    {
        programs
    }

    /// The state of a CPU of the MMU model.
    fn cpu<F: HostedFormat>(register: &RegisterOf<F, Self>) -> Cpu
    where
        Self: Sized;

    /// Called when protection is on.
    fn seal(arena: &Arc<Arena>) {
        arena.seal();
    }

    /// Whether a frame is protected as a page-table page, as the linear map says, and the alias where there is one.
    fn protects<F: HostedFormat>(
        paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        frame: PhysAddr,
    ) -> bool
    where
        Self: Sized,
    {
        has_alias(paging, frame)
    }

    /// The fault of a store to a page-table page by way of the linear map, which maps it at this level.
    fn fault<F: HostedFormat>(
        _paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        _frame: PhysAddr,
        linear: Level,
    ) -> Fault
    where
        Self: Sized,
    {
        Fault::Permission(linear)
    }
}

/// By the key of the linear map.
pub struct Keys;

impl Protection for Keys {
    type Values<F: HostedFormat> = F::Encoding;
    type Backend<F: HostedFormat> = Keyed<ArenaRegister<F::Encoding>, F::Encoding>;

    fn arena(pages: usize) -> io::Result<Arena> {
        Arena::well_guarded(pages)
    }

    fn backend<F: HostedFormat>(register: RegisterOf<F, Self>) -> Self::Backend<F> {
        let backend = Keyed::new(register);
        backend.reset();
        backend
    }

    fn cpu<F: HostedFormat>(register: &RegisterOf<F, Self>) -> Cpu {
        Cpu::new(register.read())
    }

    fn seal(_arena: &Arc<Arena>) {}

    fn protects<F: HostedFormat>(
        paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        frame: PhysAddr,
    ) -> bool {
        match paging.memory_pkey(frame) {
            Some(Pkey::PAGE_TABLES) => true,
            Some(Pkey::DEFAULT) => false,
            other => panic!("{frame:?} has {other:?}"),
        }
    }

    fn fault<F: HostedFormat>(
        _paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        _frame: PhysAddr,
        _linear: Level,
    ) -> Fault {
        Fault::Key(Pkey::PAGE_TABLES)
    }
}

/// By keys, of which the tables of address spaces have one of their own in mode `fused`.
pub struct Separate;

impl Protection for Separate {
    type Values<F: HostedFormat> = F::Encoding;
    type Backend<F: HostedFormat> = Keyed<ArenaRegister<F::Encoding>, F::Encoding, keyed::Separate>;

    fn arena(pages: usize) -> io::Result<Arena> {
        Keys::arena(pages)
    }

    fn backend<F: HostedFormat>(register: RegisterOf<F, Self>) -> Self::Backend<F> {
        Keys::backend::<F>(register).with_separate_keys()
    }

    fn cpu<F: HostedFormat>(register: &RegisterOf<F, Self>) -> Cpu {
        Cpu::new(register.read())
    }

    fn seal(_arena: &Arc<Arena>) {}

    fn protects<F: HostedFormat>(
        paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        frame: PhysAddr,
    ) -> bool {
        match paging.memory_pkey(frame) {
            Some(Pkey::DEFAULT) => false,
            key => {
                assert_eq!(key, Some(paging.key_of_protected(frame)), "{frame:?}");
                true
            }
        }
    }

    fn fault<F: HostedFormat>(
        paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        frame: PhysAddr,
        _linear: Level,
    ) -> Fault {
        Fault::Key(paging.key_of_protected(frame))
    }
}

/// By an alias.
pub struct Aliased;

impl Protection for Aliased {
    type Values<F: HostedFormat> = PanFlag;
    type Backend<F: HostedFormat> = Pan<ArenaRegister<PanFlag>>;

    fn backend<F: HostedFormat>(register: RegisterOf<F, Self>) -> Self::Backend<F> {
        let backend = Pan::new(register);
        backend.reset();
        backend
    }

    fn cpu<F: HostedFormat>(register: &RegisterOf<F, Self>) -> Cpu {
        // A CPU without overlays is one whose every key allows everything.
        let allow_all = if F::NAME == "aarch64" { 0x7777_7777 } else { 0 };
        Cpu { pan: !PanFlag::opens(register.read()), e0pd: true, ..Cpu::new(allow_all) }
    }
}

/// By an alias that windows load a root for.
pub struct InWindows;

impl Protection for InWindows {
    type Values<F: HostedFormat> = RootFlag;
    type Backend<F: HostedFormat> = Ttbr0<ArenaRegister<RootFlag>>;

    fn backend<F: HostedFormat>(register: RegisterOf<F, Self>) -> Self::Backend<F> {
        let backend = Ttbr0::new(register);
        backend.reset();
        backend
    }

    fn machine<F: HostedFormat, P: Probe>(
        machine: Hosted<F, Self::Backend<F>, P>,
    ) -> Hosted<F, Self::Backend<F>, P> {
        machine.with_alias_in_windows()
    }

    fn lower_root<F: HostedFormat>(
        paging: &Paging<MachineOf<F, Self>, Scarce<F>>,
        register: &RegisterOf<F, Self>,
        programs: Option<PhysAddr>,
    ) -> Option<PhysAddr> {
        let is_open = RootFlag::opens(register.read());
        paging.window_root().filter(|_| is_open).map(Root::frame).or(programs)
    }

    fn cpu<F: HostedFormat>(_register: &RegisterOf<F, Self>) -> Cpu {
        // Neither overlays, nor PAN, nor E0PD.
        Cpu { pan: false, e0pd: false, ..Cpu::new(0x7777_7777) }
    }
}

/// Whether a frame has an alias, and so is read-only in the linear map.
fn has_alias<M: Machine>(paging: &Paging<M, Scarce<M::Format>>, frame: PhysAddr) -> bool {
    let linear = paging.machine().memory().linear_address(frame);
    let (_, _, leaf) = paging.walk(paging.kernel(), linear).expect("all memory is mapped");
    let alias = paging.alias_of(frame).and_then(|alias| paging.walk(paging.alias_root(), alias));
    assert_eq!(M::Format::is_writable(leaf), alias.is_none(), "{frame:?} is one of both");
    assert_eq!(paging.memory_pkey(frame), Some(Pkey::DEFAULT), "there are no keys");
    alias.is_some()
}
