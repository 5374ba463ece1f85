//! The machine that the code under test runs on: its hooks are the points at which threads stop.

use core::marker::PhantomData;
use std::ptr::NonNull;

use kpkeys::encoding::{Pkrs, Por};
use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys::pan::{PAN, Pan};
use kpkeys::ttbr0::Ttbr0;
use kpkeys::{Backend, Saved};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::guarded::Anchor;
use kpkeys_pgtable::{Event, Flush, Format, Machine, Memory, PhysAddr, Probe, VirtAddr};

use crate::fault::Fault;
use crate::frames::{ALIAS, memory, page};
use crate::rules;
use crate::tlb::{Decoded, walk};
use crate::world::{self, Reached, Rule, Wait, World};

/// An architecture and the feature that protects page tables on it.
pub trait System: Copy + Sync + 'static {
    /// Its entries.
    type Format: Format;
    /// Its backend.
    type Backend: Backend + Sync;
    /// What it is called.
    const NAME: &'static str;
    /// The register outside windows.
    const CLOSED: u64;
    /// Whether taking an exception saves the register and closes it, and returning restores it, without an instruction.
    const CLOSED_BY_HARDWARE: bool;
    /// Whether a write of the register needs a barrier.
    const BARRIER: bool;
    /// Whether a CPU takes an interrupt to be flushed.
    const FLUSH_INTERRUPTS: bool;
    /// Where the alias has memory.
    const ALIAS: VirtAddr = ALIAS;
    /// The backend.
    fn backend() -> Self::Backend;
    /// Whether a value of the register opens page tables, by the manual.
    fn is_open(register: u64) -> bool;
    /// What a walker makes of an entry, by the manual.
    fn decode(level: u8, entry: u64) -> Decoded;
    /// What an attacker writes where a state is saved.
    fn forged() -> u64;
}

/// x86-64 with protection keys for supervisor pages.
#[derive(Clone, Copy, Debug)]
pub struct Pks;

impl System for Pks {
    type Format = X86_64;
    type Backend = Keyed<OwnRegister<Pks>, Pkrs>;
    const NAME: &'static str = "x86-64 PKS";
    const CLOSED: u64 = 0b1010_1000;
    const CLOSED_BY_HARDWARE: bool = false;
    const BARRIER: bool = false;
    const FLUSH_INTERRUPTS: bool = true;

    fn backend() -> Self::Backend {
        Keyed::new(OwnRegister(PhantomData))
    }

    /// SDM vol. 3A 5.6.2: access-disable is bit 2k, write-disable bit 2k + 1; page tables are key 1.
    fn is_open(register: u64) -> bool {
        register >> 2 & 0b11 == 0
    }

    /// SDM vol. 3A 5.5.4: present 0, write 1, block 7 above the last level, key 62:59.
    fn decode(level: u8, entry: u64) -> Decoded {
        let address = entry & 0x0000_ffff_ffff_f000;
        match entry {
            _ if entry & 1 == 0 => Decoded::Nothing,
            _ if level > 0 && entry & 0x80 == 0 => Decoded::Table(address),
            _ => {
                Decoded::Leaf { frame: address, writable: entry & 2 != 0 && entry >> 59 & 0xf != 1 }
            }
        }
    }

    fn forged() -> u64 {
        0b1010_0000
    }
}

/// What a walker of arm64 makes of an entry, `closes` saying of what leaves stores are kept off (Arm ARM D8.3: valid 0, table or page 1,
/// AP[2] 7).
fn decode_aarch64(level: u8, entry: u64, closes: impl Fn(u64) -> bool) -> Decoded {
    let address = entry & 0x0000_ffff_ffff_f000;
    match entry {
        _ if entry & 1 == 0 => Decoded::Nothing,
        _ if level > 0 && entry & 2 != 0 => Decoded::Table(address),
        _ => Decoded::Leaf { frame: address, writable: entry & 0x80 == 0 && !closes(entry) },
    }
}

/// arm64 with permission overlays.
#[derive(Clone, Copy, Debug)]
pub struct Poe;

impl System for Poe {
    type Format = Aarch64;
    type Backend = Keyed<OwnRegister<Poe>, Por>;
    const NAME: &'static str = "arm64 POE";
    const CLOSED: u64 = 0x1117;
    const CLOSED_BY_HARDWARE: bool = false;
    const BARRIER: bool = true;
    const FLUSH_INTERRUPTS: bool = false;

    fn backend() -> Self::Backend {
        Keyed::new(OwnRegister(PhantomData))
    }

    /// Arm ARM, POR_EL1: four bits an index, write is bit 2 of them; page tables are index 1.
    fn is_open(register: u64) -> bool {
        register >> 4 & 0b100 != 0
    }

    /// POIndex is bits 62:60.
    fn decode(level: u8, entry: u64) -> Decoded {
        decode_aarch64(level, entry, |entry| entry >> 60 & 7 == 1)
    }

    fn forged() -> u64 {
        0x1157
    }
}

/// arm64 with PAN, and an alias.
#[derive(Clone, Copy, Debug)]
pub struct PanAlias;

impl System for PanAlias {
    type Format = Aarch64;
    type Backend = Pan<OwnRegister<PanAlias>>;
    const NAME: &'static str = "arm64 PAN";
    const CLOSED: u64 = PAN;
    const CLOSED_BY_HARDWARE: bool = true;
    const BARRIER: bool = false;
    const FLUSH_INTERRUPTS: bool = false;

    fn backend() -> Self::Backend {
        Pan::new(OwnRegister(PhantomData))
    }

    fn is_open(register: u64) -> bool {
        register & PAN == 0
    }

    /// PAN keeps the kernel off what EL0 may access: `AP[1]` is bit 6.
    fn decode(level: u8, entry: u64) -> Decoded {
        decode_aarch64(level, entry, |entry| entry & 0x40 != 0)
    }

    fn forged() -> u64 {
        PAN
    }
}

/// arm64 with an alias that `TTBR0_EL1` leads to in windows alone. What a TLB keeps of it bears an identifier that is loaded in windows alone, so
/// that the model's TLBs, which are what closed CPUs use, have nothing of it.
#[derive(Clone, Copy, Debug)]
pub struct RootAlias;

impl System for RootAlias {
    type Format = Aarch64;
    type Backend = Ttbr0<OwnRegister<RootAlias>>;
    const NAME: &'static str = "arm64 TTBR0";
    const CLOSED: u64 = 0;
    const CLOSED_BY_HARDWARE: bool = false;
    const BARRIER: bool = true;
    const FLUSH_INTERRUPTS: bool = false;
    const ALIAS: VirtAddr = VirtAddr(0x2000_0000_0000);

    fn backend() -> Self::Backend {
        Ttbr0::new(OwnRegister(PhantomData))
    }

    /// Whether the register has the window root.
    fn is_open(register: u64) -> bool {
        register & 1 != 0
    }

    /// What is not global, programs' leaves, is not translated in the kernel: nG is bit 11.
    fn decode(level: u8, entry: u64) -> Decoded {
        decode_aarch64(level, entry, |entry| entry & 0x800 != 0)
    }

    fn forged() -> u64 {
        1
    }
}

/// The protection register of the CPU whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct OwnRegister<S>(PhantomData<S>);

// SAFETY: `read` is what the CPU whose turn it is wrote last; nothing is moved across a point by the compiler, since a point calls code that
// it does not know.
unsafe impl<S: System> Register for OwnRegister<S> {
    const NEEDS_BARRIER: bool = S::BARRIER;

    fn read(&self) -> u64 {
        world::with(|world| world.own_cpu().register)
    }

    fn write(&self, value: Value) {
        world::point();
        world::with(|world| {
            world.own_cpu().register = value.bits();
            // Entry code and switches write for others; whoever else writes opens or closes its own window.
            if world.running && !world.in_entry_code {
                world.own_context().window = S::is_open(value.bits());
            }
        });
    }

    fn synchronize(&self) {
        world::point();
    }
}

/// The machine.
pub struct Model<S: System> {
    backend: S::Backend,
    probe: Watch<S>,
    anchor: Anchor<S::Format>,
}

/// The probe: before a store it stops, and then the window must be open.
pub struct Watch<S>(PhantomData<S>);

impl<S: System> Probe for Watch<S> {
    fn count(&self, event: Event, _times: u64) {
        if !matches!(event, Event::EntryStore | Event::UpperStore | Event::LinearStore) {
            return;
        }
        world::point();
        world::with(|world| {
            if world.running && !S::is_open(world.own_cpu().register) {
                let cpu = world.cpu;
                world.broken(Rule::Register, format!("a store to a table faults on CPU {cpu}"));
            }
        });
    }
}

impl<S: System> Model<S> {
    /// A machine that has not started.
    pub fn new() -> Self {
        Model { backend: S::backend(), probe: Watch(PhantomData), anchor: Anchor::new() }
    }
}

impl<S: System> Default for Model<S> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every frame of memory is a page of the host, aligned, at one address, for as long as an execution lasts; an alias is the same
// address. One thread of the host runs an execution, so barriers order nothing; flushes reach what the model has of TLBs. Walkers of the model
// set no flags. As many CPUs as are said have a turn, one at a time.
unsafe impl<S: System> Machine for Model<S> {
    type Format = S::Format;
    type Backend = S::Backend;
    type Probe = Watch<S>;

    fn backend(&self) -> &S::Backend {
        &self.backend
    }

    fn probe(&self) -> &Watch<S> {
        &self.probe
    }

    fn memory(&self) -> Memory<S::Format> {
        memory()
    }

    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        page(frame)
    }

    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        page(frame)
    }

    fn alias(&self) -> Option<VirtAddr> {
        Some(S::ALIAS)
    }

    fn to_alias(&self) -> usize {
        0
    }

    fn anchor(&self) -> &Anchor<S::Format> {
        &self.anchor
    }

    fn has_gates(&self) -> bool {
        world::with(|world| world.has_gates())
    }

    fn interrupts_off(&self) -> bool {
        if world::with(|world| world.has(Fault::GateWithInterrupts)) {
            return false;
        }
        world::point();
        world::with(|world| std::mem::replace(&mut world.own_cpu().interrupts, false))
    }

    fn interrupts_on(&self) {
        world::with(|world| world.own_cpu().interrupts = true);
        world::point();
    }

    fn entry_barrier(&self) {
        world::point();
    }

    fn flush_tlb(&self, flush: Flush<S::Format>) {
        let (own, cpus) = world::with(|world| {
            if world.has(Fault::FlushWithInterruptsOff) {
                world.own_cpu().interrupts = false;
            }
            (world.cpu, world.cpus.len())
        });
        for cpu in (own..cpus).chain(0..own) {
            if world::with(|world| {
                let is_idle = world.cpus[cpu].thread.is_none();
                world.has(Fault::FlushIsNone)
                    || cpu != own && world.has(Fault::FlushIsLocal)
                    || is_idle && world.has(Fault::FlushLeavesIdleOut)
            }) {
                continue;
            }
            if S::FLUSH_INTERRUPTS && cpu != own && !world::with(|world| world.cpus[cpu].interrupts)
            {
                world::with(|world| world.reach(Reached::FlushWaited));
                world::wait(Wait::Flush(cpu));
            } else {
                world::point();
            }
            world::with(|world| flush_cpu::<S>(world, cpu, flush));
        }
        if world::with(|world| world.has(Fault::FlushWithInterruptsOff)) {
            self.interrupts_on();
        }
    }

    fn wait_for_gates(&self) -> bool {
        let own = self.cpu();
        for cpu in (0..self.cpus()).filter(|cpu| *cpu != own) {
            if world::with(|world| world.cpus[cpu].interrupts) {
                world::point();
            } else {
                world::wait(Wait::Flush(cpu));
            }
        }
        true
    }

    fn cpu(&self) -> usize {
        world::with(|world| world.cpu)
    }

    fn cpus(&self) -> usize {
        world::with(|world| world.cpus.len())
    }
}

/// What the tables say now.
pub fn tables_now<S: System>(
    kernel: u64,
    world: &World,
) -> std::collections::BTreeSet<crate::tlb::Cached> {
    walk(S::decode, kernel, &world.user_roots)
}

fn flush_cpu<S: System>(world: &mut World, cpu: usize, flush: Flush<S::Format>) {
    let Some(mut tlbs) = world.tlbs.take() else { return };
    rules::notice::<S>(world, &mut tlbs);
    tlbs.flush(cpu, flush);
    world.tlbs = Some(tlbs);
}

/// What is in a saved state, written by an attacker.
pub fn forge<S: System>(saved: &mut Saved) {
    const { assert!(size_of::<Saved>() == size_of::<u64>()) };
    // SAFETY: a saved state is a word, transparently; an attacker writes it as any other memory.
    unsafe { core::ptr::from_mut(saved).cast::<u64>().write(S::forged()) };
}
