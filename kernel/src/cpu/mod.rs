//! The CPUs and what each keeps for itself.
//!
//! [`this`] finds the running CPU's entry. A thread may be moved to another CPU at any
//! moment interrupts are on, so callers that must not be moved hold an
//! [`IrqsOff`](crate::lock::IrqsOff).

pub mod calls;
pub mod fault;
pub mod rounds;
pub mod stack;

use crate::start::settled::Settled;
use crate::{arch, sched};
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// CPUs the kernel can use. More stay off, with a warning.
pub const MAX_CPUS: usize = 64;

/// A CPU's number: 0 for the one that booted, the others in the firmware's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct CpuId(pub usize);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a CPU keeps for itself. Everything is shared-safe; most of it only its own CPU writes.
pub struct Cpu {
    /// Its number.
    pub id: CpuId,
    /// Whether it runs threads.
    online: AtomicBool,
    /// Timer ticks it has taken.
    pub ticks: AtomicU64,
    /// Measures the time that programs take on it.
    pub meter: sched::accounting::Meter,
    /// The scheduler's state for it.
    pub sched: sched::CpuState,
    /// A function to run in an interrupt on it.
    pub interrupt_call: calls::Mailbox,
    /// A function to run in an NMI on it.
    pub nmi_call: calls::Mailbox,
    /// A function to run in the handler of an asynchronous error on it.
    pub error_call: calls::Mailbox,
    /// The control bits the CPU reported about itself, as `Features` bits; see `control`.
    pub control: AtomicU64,
    /// The architecture's state for it.
    pub arch: arch::cpu_state::CpuState,
}

impl Cpu {
    const fn new(id: usize) -> Self {
        Self {
            id: CpuId(id),
            online: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            meter: sched::accounting::Meter::new(),
            sched: sched::CpuState::new(),
            interrupt_call: calls::Mailbox::new(),
            nmi_call: calls::Mailbox::new(),
            error_call: calls::Mailbox::new(),
            control: AtomicU64::new(0),
            arch: arch::cpu_state::CpuState::new(id),
        }
    }

    /// Whether it runs threads. Once start is over no ordinary memory says so, since a flush leaves out who does not.
    pub fn is_online(&self) -> bool {
        match ONLINE.get() {
            Some(&online) => self.number() < online,
            None => self.online.load(Ordering::Acquire),
        }
    }

    /// Its number, which its address says.
    pub fn number(&self) -> usize {
        number_of(core::ptr::from_ref(self) as u64)
    }

    /// Declares that this CPU takes interrupts and runs threads from now on.
    pub fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }
}

static CPUS: [Cpu; MAX_CPUS] = all();

/// How many CPUs run threads, once all do: they are numbered from 0 without gaps.
#[unsafe(link_section = ".settled")]
static ONLINE: Settled<usize> = Settled::new();

/// Settles which CPUs run threads: those that do now.
pub fn settle() -> usize {
    *ONLINE.settle(|| CPUS.iter().filter(|cpu| cpu.online.load(Ordering::Acquire)).count())
}

const fn all() -> [Cpu; MAX_CPUS] {
    let mut cpus = [const { MaybeUninit::uninit() }; MAX_CPUS];
    let mut id = 0;
    while id < MAX_CPUS {
        cpus[id] = MaybeUninit::new(Cpu::new(id));
        id += 1;
    }
    // SAFETY: the loop has made every one of them, and the layout is the same.
    unsafe { core::mem::transmute(cpus) }
}

/// The running CPU.
pub fn this() -> &'static Cpu {
    &CPUS[arch::cpu_state::current_index()]
}

/// The running CPU's number, which a register says and no memory.
pub fn own_number() -> usize {
    number_of(arch::cpu_state::own_address())
}

/// The number of the CPU whose entry, or a part of it, is at this address. For what no memory but the address itself may decide.
pub fn number_of(address: u64) -> usize {
    let first = (&raw const CPUS) as u64;
    (address.wrapping_sub(first) as usize / size_of::<Cpu>()).min(MAX_CPUS - 1)
}

/// The CPU with this number; `None` when the kernel has no such CPU.
pub fn get(id: CpuId) -> Option<&'static Cpu> {
    CPUS.get(id.0)
}

/// The CPUs that run threads, by rising number.
pub fn online() -> impl Iterator<Item = &'static Cpu> {
    CPUS.iter().filter(|cpu| cpu.is_online())
}
