//! What runs inside the windows of mode `fused`: stores, and nothing else, whatever the operation.
//!
//! A machine notes, while a window of the calling thread is open, each call of the heap, of the machine itself, and of the frame
//! allocator's per-CPU lists, and whether interrupts are off. Its counter tells how many stores the longest window had. Mode `fused-lean`,
//! whose windows are as long as their operations, shows that what is looked for is found.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

use kpkeys::keyed::Keyed;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::boot::MockBackend;
use kpkeys_hosted::register::MockRegister;
use kpkeys_hosted::{Counter, Hosted, HostedFormat, cpu};
use kpkeys_mm::{AddressSpace, Buddy, FilePages, FrameTable, Kernel, Layout, MapFlags};
use kpkeys_pgtable::section::GATE_STORES;
use kpkeys_pgtable::{Config, Event, Flush, Machine, Memory, Mode, PhysAddr, Probe, VirtAddr};

use crate::support::range;

/// What the calling thread's CPU is in the middle of.
#[derive(Clone, Copy, Default)]
struct Cpu {
    window: bool,
    interrupts_off: bool,
    windows: u64,
    /// Windows with interrupts on.
    interruptible: u64,
    heap: u64,
    machine: u64,
    frames: u64,
}

thread_local! {
    static CPU: Cell<Cpu> = const { Cell::new(Cpu {
        window: false,
        interrupts_off: false,
        windows: 0,
        interruptible: 0,
        heap: 0,
        machine: 0,
        frames: 0,
    }) };
}

fn note(what: impl FnOnce(&mut Cpu)) {
    let mut cpu = CPU.get();
    what(&mut cpu);
    CPU.set(cpu);
}

/// The heap was asked for something.
pub fn heap_called() {
    note(|cpu| cpu.heap += u64::from(cpu.window));
}

fn machine_called() {
    note(|cpu| cpu.machine += u64::from(cpu.window));
}

/// Counts, and knows when a window is open.
#[derive(Default)]
struct Noting(Counter);

impl Probe for Noting {
    fn count(&self, event: Event, times: u64) {
        self.0.count(event, times);
        match event {
            Event::WindowOpened => note(|cpu| {
                cpu.window = true;
                cpu.windows += 1;
                cpu.interruptible += u64::from(!cpu.interrupts_off);
            }),
            Event::WindowClosed => note(|cpu| cpu.window = false),
            _ => {}
        }
    }
}

/// A hosted machine, listened to.
struct Listening<F: HostedFormat>(Hosted<F, MockBackend<F>, Noting>);

// SAFETY: the hosted machine keeps the promises; this one passes everything on to it.
unsafe impl<F: HostedFormat> Machine for Listening<F> {
    type Format = F;
    type Backend = MockBackend<F>;
    type Probe = Noting;

    fn backend(&self) -> &Self::Backend {
        self.0.backend()
    }

    fn probe(&self) -> &Noting {
        self.0.probe()
    }

    fn memory(&self) -> Memory<F> {
        self.0.memory()
    }

    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        self.0.table(frame)
    }

    fn anchor(&self) -> &kpkeys_pgtable::guarded::Anchor<F> {
        self.0.anchor()
    }

    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        machine_called();
        self.0.data(frame)
    }

    fn interrupts_off(&self) -> bool {
        let were_on = !CPU.get().interrupts_off;
        note(|cpu| cpu.interrupts_off = true);
        were_on
    }

    fn interrupts_on(&self) {
        machine_called();
        note(|cpu| cpu.interrupts_off = false);
    }

    fn entry_barrier(&self) {
        self.0.entry_barrier();
    }

    fn flush_tlb(&self, flush: Flush<F>) {
        machine_called();
        self.0.flush_tlb(flush);
    }

    fn cpu(&self) -> usize {
        machine_called();
        self.0.cpu()
    }

    fn cpus(&self) -> usize {
        self.0.cpus()
    }
}

fn boot<F: HostedFormat>(mode: Mode) -> Kernel<Listening<F>> {
    const PAGES: usize = 1 << 14;
    let arena = Arc::new(Arena::new(PAGES).expect("the host has memory"));
    let backend = Keyed::new(MockRegister::detect());
    backend.reset();
    let machine = Listening(Hosted::new(arena, backend, Noting::default(), 1));
    let per_cpu = || {
        note(|cpu| cpu.frames += u64::from(cpu.window));
        cpu::current()
    };
    let frames = Buddy::new(machine.memory(), FrameTable::on_heap(PAGES), true, 1, per_cpu);
    // SAFETY: all of this memory is free, and nobody else has it.
    unsafe { frames.add(0..PAGES) };
    let kernel = Kernel::new(machine, frames, Config::of(mode), Layout::standard());
    let kernel = kernel.expect("memory");
    kernel.enable_protection().expect("memory");
    kernel
}

/// Runs each operation that the memory manager has, on ranges of several tables, and passes its name when it is done.
fn every_operation<M: Machine>(kernel: &Kernel<M>, mut done: impl FnMut(&str)) {
    const A: u64 = 0x40_0000_0000;
    const PAGES: usize = 1300;
    let (area, other) = (range::<M::Format>(A, PAGES), range::<M::Format>(A + (1 << 30), PAGES));
    let file = kernel.new_file(64, 16).expect("memory");
    let of_file = range(A + (1 << 32), 64);
    {
        let mut space = AddressSpace::new(kernel).expect("memory");
        space.mmap(area, MapFlags::DATA).expect("room");
        space.fault(VirtAddr(A), true).expect("mapped");
        space.fault(VirtAddr(A + 4096), false).expect("mapped");
        done("a first write and a first read");
        let pages = FilePages { file: &file, first: 0, shared: false };
        space.mmap_file(of_file, MapFlags::DATA, pages).expect("room");
        space.fault(of_file.start(), false).expect("mapped");
        done("a fault of sixteen pages of a file");
        space.fault(of_file.start(), true).expect("mapped");
        done("a copy of a file's page");
        space.populate(area).expect("mapped");
        done("populate");
        let mut child = space.fork().expect("memory");
        done("fork");
        child.fault(VirtAddr(A), true).expect("mapped");
        space.fault(VirtAddr(A), true).expect("mapped");
        done("a copy on write, and the write of the one that is left");
        child.mprotect(range(A, 600), false).expect("mapped");
        done("mprotect");
        // What was not protected: a mapping of its own now.
        child
            .mremap(range(A + 600 * 4096, 700), range(other.start().0, 700), false)
            .expect("mapped");
        done("mremap");
        child.discard(range(other.start().0, 300));
        done("discard");
        child.munmap(range(other.start().0, 600)).expect("mapped");
        done("munmap");
        drop(child);
        done("exit");
        let huge = range(A + (1 << 33), 1024);
        space.mmap(huge, MapFlags { order: 9, ..MapFlags::DATA }).expect("room");
        space.populate(huge).expect("mapped");
        done("populate with large folios");
        drop(space.fork().expect("memory"));
        done("fork and exit with large folios");
    }
    kernel.close_file(file);
    let (small, large) =
        (kernel.vmalloc(3).expect("memory"), kernel.vmalloc(1100).expect("memory"));
    done("vmalloc");
    let huge = kernel.vmalloc_huge(1024).expect("memory");
    done("vmalloc_huge");
    for area in [small, large, huge] {
        kernel.vfree(area).expect("allocated");
    }
    kernel.purge_vmalloc();
    done("vfree");
    let frames: Vec<_> = (0..8).map(|_| kernel.frames().new_frame().expect("memory")).collect();
    let addresses: Vec<_> = frames.iter().map(|frame| frame.address()).collect();
    let mapped = kernel.vm_map_ram(&addresses).expect("memory");
    kernel.vm_unmap_ram(mapped, 8).expect("mapped");
    kernel.purge_vmalloc();
    done("vm_map_ram");
    frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
}

fn nothing_foreign_runs_in_a_gate<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::Fused);
    CPU.set(Cpu::default());
    every_operation(&kernel, |what| {
        let cpu = CPU.replace(Cpu::default());
        assert!(cpu.windows > 0, "{what}: no window, so it shows nothing");
        assert_eq!(cpu.heap, 0, "{what}: calls of the heap in a gate");
        assert_eq!(cpu.frames, 0, "{what}: calls of the frame allocator in a gate");
        assert_eq!(cpu.machine, 0, "{what}: calls of the machine in a gate");
        assert_eq!(cpu.interruptible, 0, "{what}: gates with interrupts on");
        let probe = &kernel.machine().probe().0;
        let longest = probe.read().longest_window_stores;
        probe.reset_longest();
        assert!(longest <= GATE_STORES as u64, "{what}: {longest} stores in a gate");
        println!("{what}: {} gates, the longest of {longest} stores", cpu.windows);
    });
}

/// The same of windows that are as long as their operations: what is looked for is there to be found.
fn fused_lean_runs_more_in_its_windows<F: HostedFormat>() {
    let kernel = boot::<F>(Mode::FusedLean);
    CPU.set(Cpu::default());
    let mut sum = Cpu::default();
    every_operation(&kernel, |what| {
        let cpu = CPU.replace(Cpu::default());
        println!(
            "{what}: {} windows, {} heap, {} frames, {} machine",
            cpu.windows, cpu.heap, cpu.frames, cpu.machine
        );
        sum.heap += cpu.heap;
        sum.machine += cpu.machine;
        sum.frames += cpu.frames;
    });
    assert!(sum.heap > 0 && sum.machine > 0 && sum.frames > 0);
}

crate::support::for_both_formats!(
    nothing_foreign_runs_in_a_gate,
    fused_lean_runs_more_in_its_windows
);
