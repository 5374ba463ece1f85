//! What the kernel's entry code does, step by step: the one part of the protocol that is assembly or bound to a machine's frames, and so is
//! written down again here. What it calls is the real thing: [`Backend::exception_entry`], [`exception_return`](Backend::exception_return),
//! [`thread_switch`](Backend::thread_switch), [`enter`](Backend::enter).
//!
//! Where windows are gates, an attacker has written whatever an exception or a switch saved, always: frames, threads, and what a CPU that closes by
//! hardware restores.

use kpkeys::context::{Default, PageTables};
use kpkeys::{Backend, Saved};

use crate::fault::Fault;
use crate::kernel::Kernel;
use crate::machine::{System, forge};
use crate::world::{self, Command, Context, Kind, Reached};

/// What an exception saves.
struct Frame {
    /// Where it is: as an address on a stack, the same for another exception at the same depth.
    place: u64,
    /// Whether interrupts were on.
    interrupts: bool,
    /// The register as it was found, which a CPU that closes by hardware restores.
    register: u64,
    /// What the entry code saved.
    saved: Saved,
}

/// Takes an exception on the CPU whose turn it is, from entry to return.
pub fn take<S: System>(kernel: &Kernel<S>, kind: Kind) {
    let mut frame = arrive(kernel, kind);
    enter(kernel, kind, &mut frame);
    world::with(|world| world.in_entry_code = false);
    kernel.handle(kind);
    world::with(|world| world.in_entry_code = true);
    leave(kernel, &mut frame);
    go_back::<S>(&frame);
}

/// What the CPU does.
fn arrive<S: System>(kernel: &Kernel<S>, kind: Kind) -> Frame {
    let saved = kernel.backend().initial();
    world::with(|world| {
        world.in_entry_code = true;
        if world.own_context().window {
            world.reach(Reached::ExceptionInWindow);
            if kind == Kind::Nmi {
                world.reach(Reached::NmiInWindow);
            }
        }
        let thread = world.own_thread();
        thread.contexts.push(Context {
            kind: Some(kind),
            window: false,
            wait: None,
            allocates: false,
            seen: kind as u64,
        });
        let place = thread.contexts.len() as u64;
        let keeps = world.has(Fault::EntryKeepsRegister);
        let cpu = world.own_cpu();
        let register = cpu.register;
        if S::CLOSED_BY_HARDWARE && !keeps {
            cpu.register = S::CLOSED;
        }
        Frame { place, interrupts: std::mem::replace(&mut cpu.interrupts, false), register, saved }
    })
}

/// The entry code.
fn enter<S: System>(kernel: &Kernel<S>, kind: Kind, frame: &mut Frame) {
    if world::with(|world| world.has(Fault::EntryKeepsRegister)) {
        return;
    }
    if !keeps_records() {
        frame.saved = kernel.backend().exception_entry();
    } else if S::is_open(frame.register) {
        // SAFETY: what runs is the copy of the frame, in entry code.
        unsafe { kernel.backend().enter::<PageTables>() };
        // An interrupt is kept off by a gate: whoever opened this window is not given it back.
        if kind == Kind::Nmi && !world::with(|world| world.has(Fault::NoRecord)) {
            world::with(|world| {
                world.own_cpu().record = Some((frame.place, frame.register));
            });
        }
        // SAFETY: closing.
        unsafe { kernel.backend().enter::<Default>() };
    }
}

/// The exit code.
fn leave<S: System>(kernel: &Kernel<S>, frame: &mut Frame) {
    if world::with(|world| world.has_gates()) {
        forge::<S>(&mut frame.saved);
    }
    if !keeps_records() {
        if world::with(|world| world.has(Fault::ReturnBelievesFrame)) && S::CLOSED_BY_HARDWARE {
            frame.register = !S::CLOSED;
        }
        let saved = frame.saved.take(kernel.backend());
        // SAFETY: this exception's own, as far as it is believed.
        unsafe { kernel.backend().exception_return(saved) };
        return;
    }
    let record = world::with(|world| {
        let any = world.has(Fault::RecordForAnyFrame);
        let record = &mut world.own_cpu().record;
        if any { *record } else { record.take_if(|record| record.0 == frame.place) }
    });
    frame.register = S::CLOSED;
    if let Some((_, register)) = record {
        // SAFETY: what runs next is the gate that was interrupted, as its record says.
        unsafe { kernel.backend().enter::<PageTables>() };
        frame.register = register;
    }
}

/// What the CPU does.
fn go_back<S: System>(frame: &Frame) {
    world::with(|world| {
        let cpu = world.own_cpu();
        if S::CLOSED_BY_HARDWARE {
            cpu.register = frame.register;
        }
        cpu.interrupts = frame.interrupts;
        world.own_thread().contexts.pop();
        world.in_entry_code = false;
    });
}

/// Whether what was open is put back from records alone.
fn keeps_records() -> bool {
    world::with(|world| world.has_gates() && !world.has(Fault::ReturnBelievesFrame))
}

/// Gives the CPU to its idle thread, and goes on when another one gives it back.
pub fn give_cpu_away<S: System>(kernel: &Kernel<S>) {
    let thread = world::with(|world| {
        world.in_entry_code = true;
        if world.own_thread().contexts.iter().any(|context| context.window) {
            world.reach(Reached::SwitchInWindow);
        }
        world.own_cpu().thread.expect("code runs in threads")
    });
    let cpu = world::with(|world| world.cpu);
    switch(kernel, &mut kernel.saved.borrow_mut()[thread], &mut kernel.idle.borrow_mut()[cpu]);
    let yielder = world::with(|world| {
        let yielder = world.own_thread().yielder;
        world.own_cpu().thread = None;
        world.own_cpu().interrupts = true;
        world.in_entry_code = false;
        yielder
    });
    // SAFETY: this thread's own yielder, as in `world::stop`.
    while let Command::Take(kind) = unsafe { (*yielder).suspend(()) } {
        take(kernel, kind);
    }
}

/// Lets a CPU that is idle go on with a thread.
pub fn take_thread<S: System>(kernel: &Kernel<S>, cpu: usize, thread: usize) {
    world::with(|world| {
        world.cpu = cpu;
        world.in_entry_code = true;
    });
    switch(kernel, &mut kernel.idle.borrow_mut()[cpu], &mut kernel.saved.borrow_mut()[thread]);
    world::with(|world| {
        world.in_entry_code = false;
        let own = &mut world.threads[thread];
        let (in_handler, moved) = (own.contexts.len() > 1, own.cpu != cpu);
        own.cpu = cpu;
        world.own_cpu().thread = Some(thread);
        world.own_cpu().interrupts = !in_handler;
        if moved {
            world.reach(Reached::Migration);
        }
    });
}

fn switch<S: System>(kernel: &Kernel<S>, previous: &mut Saved, next: &mut Saved) {
    let (gates, keeps, believes) = world::with(|world| {
        let has = |fault| world.has(fault);
        (world.has_gates(), has(Fault::SwitchKeepsRegister), has(Fault::SwitchBelievesThread))
    });
    if keeps {
        return;
    }
    if gates {
        forge::<S>(next);
    }
    // SAFETY: the states of the two threads; closing.
    unsafe {
        if gates && !believes {
            kernel.backend().enter::<Default>();
        } else {
            kernel.backend().thread_switch(previous, next);
        }
    }
}
