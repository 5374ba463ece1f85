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
use crate::arch::{exceptions, layout};
use crate::protection;
use crate::protection::keys;
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
    /// Whether the window was one for tables with a key of their own.
    of_user_tables: [bool; exceptions::KINDS],
    /// The way back of those that were no gate; see [`leave_by_copy`].
    #[cfg(target_arch = "x86_64")]
    copies: [Frame; exceptions::KINDS],
    /// The address of the frame that interrupted the kernel on a program's root; see [`note_root`].
    #[cfg(target_arch = "x86_64")]
    on_programs_root: [u64; exceptions::KINDS],
}

// SAFETY: only the CPU that a record belongs to reads or writes it, exceptions masked.
unsafe impl Sync for Record {}

const _: () = assert!(size_of::<Record>() == 4096, "a record fits a page of any size");

/// The records. Where they lie nothing but a window can write.
#[unsafe(link_section = ".settled")]
static RECORDS: [Record; crate::cpu::MAX_CPUS] =
    [const { Record(UnsafeCell::new(Kept::EMPTY)) }; crate::cpu::MAX_CPUS];

/// What leads from the linear map's address of a page to its alias.
#[unsafe(link_section = ".settled")]
static TO_ALIAS: Settled<usize> = Settled::new();

impl Kept {
    const EMPTY: Self = Self {
        of: [0; exceptions::KINDS],
        frames: [const { Frame::ZERO }; exceptions::KINDS],
        of_user_tables: [false; exceptions::KINDS],
        #[cfg(target_arch = "x86_64")]
        copies: [const { Frame::ZERO }; exceptions::KINDS],
        #[cfg(target_arch = "x86_64")]
        on_programs_root: [0; exceptions::KINDS],
    };
}

/// Remembers where aliases are, before the final tables are loaded.
pub fn settle(to_alias: usize) {
    TO_ALIAS.settle(|| to_alias);
}

/// The first thing in every exception: closes the window that was interrupted, if `was_open` says so of the frame.
#[inline(always)]
pub fn enter(frame: &mut Frame, was_open: impl FnOnce(&Frame) -> bool) {
    if !protection::has_gates() {
        frame.protection = protection::backend().exception_entry();
    } else if was_open(frame) {
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
    // The register says so still.
    let of_user_tables =
        keys::are_separate() && !protection::backend().is_in::<kpkeys::context::PageTables>();
    // SAFETY: the record is this CPU's, and writable while page tables are, which they are between the two writes of the register. What
    // runs then is the copy.
    unsafe {
        protection::backend().enter::<kpkeys::context::PageTables>();
        let of = (&raw mut (*kept).of).cast::<u64>().add(kind);
        let copy = (&raw mut (*kept).frames).cast::<Frame>().add(kind);
        core::ptr::copy_nonoverlapping(core::ptr::from_ref(frame), copy, 1);
        exceptions::correct(&mut *copy);
        (&raw mut (*kept).of_user_tables).cast::<bool>().add(kind).write(of_user_tables);
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
    let of_user_tables = kept.of_user_tables[kind];
    let kept = writable(record);
    // SAFETY: as in `keep`. What runs from here on is the gate, by its own registers.
    unsafe {
        protection::backend().enter::<kpkeys::context::PageTables>();
        (&raw mut (*kept).of).cast::<u64>().add(kind).write(0);
        exceptions::go_on_after_probe(
            &mut *(&raw mut (*kept).frames).cast::<Frame>().add(kind),
            frame,
        );
        if of_user_tables {
            protection::backend().enter_user_tables();
        }
    }
    own as u64
}

/// Copies a frame to the record, has `corrected` make it one that may be returned by, and returns where the copy is. For a CPU whose return
/// restores the flag that opens windows from the frame (x86-64, EFLAGS.AC): what IRETQ reads, no store can have changed.
///
/// It is used at once, exceptions masked. What can interrupt that still is of another kind.
#[cfg(target_arch = "x86_64")]
pub fn leave_by_copy(frame: &Frame, corrected: impl FnOnce(&mut Frame)) -> &'static Frame {
    let record = record();
    let kind = exceptions::kind_of(frame).unwrap_or(exceptions::KINDS - 1);
    in_record(record, |kept| {
        // SAFETY: as in `in_record`.
        unsafe {
            let copy = (&raw mut (*kept).copies).cast::<Frame>().add(kind);
            core::ptr::copy_nonoverlapping(core::ptr::from_ref(frame), copy, 1);
            corrected(&mut *copy);
        }
    });
    // SAFETY: the copy is this CPU's, and stays until the next return of its kind.
    unsafe { &(*record.0.get()).copies[kind] }
}

/// Notes that the kernel was interrupted on a program's root, which it is on for a few instructions: on the way to the program, and
/// where it reaches its memory. It must go on there, and memory that anyone can write does not say so.
#[cfg(target_arch = "x86_64")]
pub fn note_root(frame: &Frame) {
    set_noted_root(frame, core::ptr::from_ref(frame) as u64);
}

/// Whether that was noted of this frame; it is not any more then.
#[cfg(target_arch = "x86_64")]
pub fn take_noted_root(frame: &Frame) -> bool {
    let Some(kind) = exceptions::kind_of(frame) else { return false };
    // SAFETY: the record is this CPU's, and nobody writes it now.
    let noted = unsafe { (*record().0.get()).on_programs_root[kind] };
    let is_of_this = noted == core::ptr::from_ref(frame) as u64;
    if is_of_this {
        set_noted_root(frame, 0);
    }
    is_of_this
}

#[cfg(target_arch = "x86_64")]
fn set_noted_root(frame: &Frame, to: u64) {
    let Some(kind) = exceptions::kind_of(frame) else { return };
    in_record(record(), |kept| {
        // SAFETY: as in `in_record`.
        unsafe { (&raw mut (*kept).on_programs_root).cast::<u64>().add(kind).write(to) };
    });
}

/// Runs `f` in a window, with where the record can be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn in_record(record: &'static Record, f: impl FnOnce(*mut Kept)) {
    let kept = writable(record);
    // SAFETY: the record is this CPU's, and writable while page tables are, which they are between the two writes of the flag; exceptions
    // are masked.
    unsafe {
        protection::backend().enter::<kpkeys::context::PageTables>();
        f(kept);
        protection::backend().enter::<kpkeys::context::Default>();
    }
}

/// The record of this CPU.
fn record() -> &'static Record {
    &RECORDS[crate::cpu::own_number()]
}

/// Where a record can be written while page tables can.
fn writable(record: &'static Record) -> *mut Kept {
    let linear = layout::linear(image::phys(core::ptr::from_ref(record) as u64));
    match protection::backend().scheme() {
        Scheme::Keys => linear.cast(),
        Scheme::Alias => alias_of_settled(record.0.get()),
    }
}

/// The alias of something that settled during start.
pub fn alias_of_settled<T>(settled: *mut T) -> *mut T {
    let linear = layout::linear(image::phys(settled as u64));
    linear.wrapping_add(TO_ALIAS.get().copied().unwrap_or(0)).cast()
}
