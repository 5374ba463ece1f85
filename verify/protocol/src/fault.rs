//! Faults that can be planted in what stands for a kernel here: its entry code, its switch of threads, its flushes, its callers.
//!
//! Faults of the code under test itself are planted in its source, by the stage `faults`.

/// See the module. Each is found by the rule that it breaks; a test says which.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// A handler that finds its CPU in a lazy section takes that section's window for open: what crashed the fourth version of the Linux series.
    LazySeenByHandler,
    /// Exception entry does not reset the register.
    EntryKeepsRegister,
    /// Exceptions return to what their frame says, which an attacker wrote, though windows are gates.
    ReturnBelievesFrame,
    /// A thread switch leaves the register alone.
    SwitchKeepsRegister,
    /// A thread switch loads what the thread says, which an attacker wrote, though windows are gates.
    SwitchBelievesThread,
    /// A gate leaves interrupts on.
    GateWithInterrupts,
    /// A gate that an NMI interrupted is returned to closed.
    NoRecord,
    /// A record of an interrupted gate is kept after it was used, and serves any frame.
    RecordForAnyFrame,
    /// A flush reaches the calling CPU alone.
    FlushIsLocal,
    /// A flush leaves CPUs out that run no thread.
    FlushLeavesIdleOut,
    /// A flush does nothing.
    FlushIsNone,
    /// A caller frees a page before it flushes.
    FreeBeforeFlush,
    /// A page becomes a table before its mapping is flushed.
    RetypeBeforeFlush,
    /// A handler takes locks of threads.
    HandlerTakesLocks,
    /// Flushes wait for other CPUs with interrupts off.
    FlushWithInterruptsOff,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 15] = [
        Fault::LazySeenByHandler,
        Fault::EntryKeepsRegister,
        Fault::ReturnBelievesFrame,
        Fault::SwitchKeepsRegister,
        Fault::SwitchBelievesThread,
        Fault::GateWithInterrupts,
        Fault::NoRecord,
        Fault::RecordForAnyFrame,
        Fault::FlushIsLocal,
        Fault::FlushLeavesIdleOut,
        Fault::FlushIsNone,
        Fault::FreeBeforeFlush,
        Fault::RetypeBeforeFlush,
        Fault::HandlerTakesLocks,
        Fault::FlushWithInterruptsOff,
    ];
}
