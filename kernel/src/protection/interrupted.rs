//! What an exception does about the window it interrupted.
//!
//! Where windows may be interrupted (modes `unbatched`, `batched` and `fused-lean`), the frame keeps the protection register, as in the
//! Linux series: ordinary memory decides what is open afterwards.
//!
//! Where windows are gates (`fused`), it does not. Interrupts are off in a gate, and no thread switch falls into one; what can still
//! arrive is what cannot be masked: an NMI, a machine check, an SError, or a fault of the code in the gate itself. Then
//!
//! 1. the register, not memory, says whether a gate was open ([`enter`]);
//! 2. if so, what the gate needs to go on, all of its registers and the address to return to, is copied to this CPU's *record*, which is
//!    protected as page tables are and can be written just then; and the CPU is closed, by a constant;
//! 3. on the way back, [`leave`] opens by a constant if the record is that of this very frame, and the entry code returns by the record.
//!    Every other exception returns closed, whatever its frame says.
//!
//! Which record is a CPU's is told by a register. There is one for each kind of exception, since none arrives within itself while its
//! frame is in use: an NMI waits for the IRETQ (arm64: ERET) of the one before, and the rest for theirs.
//!
//! What is left: until step 2 the registers lie on the exception's stack, which another CPU can write for these few instructions.

use crate::arch::entry::Frame;
use crate::arch::{cpu_state, exceptions, layout};
use crate::protection;
use crate::start::image;
use crate::start::settled::Settled;
use core::cell::UnsafeCell;
use kpkeys::{Backend, Scheme};

/// How the entry code returns: kept in a register from [`leave`] on. Anything but these two is the address of the frame to return by.
pub mod way {
    /// By the frame on the stack, as it is.
    pub const AS_SAVED: u64 = 0;
    /// By the frame on the stack, closed.
    pub const CLOSED: u64 = 1;
}

/// A CPU's record: the frames of the gates that were interrupted, by kind of exception, and where each lies on its stack.
#[repr(C, align(4096))]
struct Record(UnsafeCell<Kept>);

#[repr(C)]
struct Kept {
    /// The address of the frame on the stack; zero if none is kept.
    of: [u64; exceptions::KINDS],
    frames: [Frame; exceptions::KINDS],
}

// SAFETY: only the CPU that a record belongs to reads or writes it, exceptions masked.
unsafe impl Sync for Record {}

const _: () = assert!(size_of::<Record>() == 4096, "a record is a page");

/// The records. Where they lie nothing but a window can write.
#[unsafe(link_section = ".settled")]
static RECORDS: [Record; crate::cpu::MAX_CPUS] =
    [const { Record(UnsafeCell::new(Kept::EMPTY)) }; crate::cpu::MAX_CPUS];

/// What leads from the linear map's address of a page to its alias.
#[unsafe(link_section = ".settled")]
static TO_ALIAS: Settled<usize> = Settled::new();

impl Kept {
    const EMPTY: Self =
        Self { of: [0; exceptions::KINDS], frames: [const { Frame::ZERO }; exceptions::KINDS] };
}

/// Remembers where aliases are, before the final tables are loaded.
pub fn settle(to_alias: usize) {
    TO_ALIAS.settle(|| to_alias);
}

/// The first thing in every exception: closes the window that was interrupted.
#[inline(always)]
pub fn enter(frame: &mut Frame) {
    if !protection::has_gates() {
        frame.protection = protection::backend().exception_entry();
    } else if exceptions::interrupted_open(frame) {
        keep(frame);
    }
}

/// Copies the frame of an interrupted gate to the record, and closes.
#[cold]
#[inline(never)]
fn keep(frame: &Frame) {
    let Some(kind) = exceptions::kind_of(frame) else {
        // An interrupt, which a gate keeps off: whoever opened this window is not given it back.
        protection::close();
        return;
    };
    let kept = writable(record());
    // SAFETY: the record is this CPU's, and writable while page tables are, which they are between the two writes of the register. What
    // runs then is the copy.
    unsafe {
        protection::backend().enter::<kpkeys::context::PageTables>();
        let of = (&raw mut (*kept).of).cast::<u64>().add(kind);
        let copy = (&raw mut (*kept).frames).cast::<Frame>().add(kind);
        core::ptr::copy_nonoverlapping(core::ptr::from_ref(frame), copy, 1);
        exceptions::correct(&mut *copy);
        of.write(core::ptr::from_ref(frame) as u64);
        protection::backend().enter::<kpkeys::context::Default>();
    }
}

/// The last thing in every exception: says how to return, and opens if that is to where a gate was.
#[inline(always)]
pub fn leave(frame: &mut Frame) -> u64 {
    if !protection::has_gates() {
        let saved = frame.protection.take(protection::backend());
        // SAFETY: `enter` put it there, in this very exception.
        unsafe { protection::backend().exception_return(saved) };
        return way::AS_SAVED;
    }
    if exceptions::is_from_program(frame) { way::CLOSED } else { resume(frame) }
}

#[inline(never)]
fn resume(frame: &Frame) -> u64 {
    let Some(kind) = exceptions::kind_of(frame) else { return way::CLOSED };
    let record = record();
    // SAFETY: the record is this CPU's, and nobody writes it now.
    let kept = unsafe { &*record.0.get() };
    if kept.of[kind] != core::ptr::from_ref(frame) as u64 {
        return way::CLOSED;
    }
    let own = &raw const kept.frames[kind];
    let kept = writable(record);
    // SAFETY: as in `keep`. What runs from here on is the gate, by its own registers.
    unsafe {
        protection::backend().enter::<kpkeys::context::PageTables>();
        (&raw mut (*kept).of).cast::<u64>().add(kind).write(0);
        exceptions::go_on_after_probe(
            &mut *(&raw mut (*kept).frames).cast::<Frame>().add(kind),
            frame,
        );
    }
    own as u64
}

/// The record of this CPU.
fn record() -> &'static Record {
    &RECORDS[crate::cpu::number_of(cpu_state::own_address())]
}

/// Where a record can be written while page tables can.
fn writable(record: &'static Record) -> *mut Kept {
    let linear = layout::linear(image::phys(core::ptr::from_ref(record) as u64));
    match protection::backend().scheme() {
        Scheme::Keys => linear.cast(),
        Scheme::Alias => linear.wrapping_add(TO_ALIAS.get().copied().unwrap_or(0)).cast(),
    }
}
