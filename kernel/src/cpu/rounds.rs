//! Rounds: a CPU asks every other CPU for something, by an interrupt, and waits until each has done it.
//!
//! What a page-table page may become depends on it: that no TLB knows a page any more, that no CPU is in a gate that began before. So in `fused` neither the
//! request nor an answer is ordinary memory, and no list says who must be asked: a CPU's number follows from its registers, and how many
//! there are has settled. What is left to ordinary memory is where interrupts go, and whether any round is under way, which spares who waits for a lock the
//! rest: an interrupt that goes astray, or is told that there is no round, is not answered, and the round does not end.
//!
//! No lock keeps rounds apart: each CPU has a request of its own, and answers each of the others'. A CPU that waits, for a lock or for its own
//! round, answers meanwhile ([`arch::irq::relax`]), so that rounds end whatever locks of type `IrqLock` their callers hold.

use super::{Cpu, MAX_CPUS};
use crate::arch;
use crate::lock::IrqsOff;
use crate::protection::guarded::{self, Place};
use core::array;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is asked: two words that the asking architecture understands.
pub type Request = [u64; 2];

/// What a CPU has asked and answered.
#[repr(align(64))]
struct Rounds {
    /// Which of its rounds this is.
    number: AtomicU64,
    request: [AtomicU64; 2],
    /// The last round of each other CPU that this one has answered.
    answers: [AtomicU64; MAX_CPUS],
}

impl Rounds {
    const fn none() -> Self {
        Self {
            number: AtomicU64::new(0),
            request: [const { AtomicU64::new(0) }; 2],
            answers: [const { AtomicU64::new(0) }; MAX_CPUS],
        }
    }
}

type All = [Rounds; MAX_CPUS];

#[unsafe(link_section = ".settled")]
static GUARDED: All = [const { Rounds::none() }; MAX_CPUS];
static ORDINARY: All = [const { Rounds::none() }; MAX_CPUS];
static ALL: Place<All> = Place { guarded: &GUARDED, ordinary: &ORDINARY };

/// How many rounds are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Asks every other online CPU, each of which `notify` interrupts, and returns how many there are once all have answered. What was stored before is seen by
/// those who answer, and what they did by the caller. Must not be called from an NMI.
pub fn ask(request: Request, notify: impl Fn(&Cpu)) -> usize {
    let _irqs_off = IrqsOff::new();
    let this = super::own_number();
    let others = || super::online().filter(move |cpu| cpu.number() != this);
    if others().next().is_none() {
        return 0;
    }
    let all = ALL.get();
    let own = &all[this];
    let number = own.number.load(Ordering::Relaxed) + 1;
    let [first, second] = &own.request;
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    guarded::store([(first, request[0]), (second, request[1]), (&own.number, number)]);
    others().for_each(notify);
    // Read anew from where nobody else can have written it.
    let is_answered = |cpu: &Cpu| {
        let answer = &all[cpu.number()].answers[this];
        answer.load(Ordering::Acquire) == own.number.load(Ordering::Relaxed)
    };
    while !others().all(is_answered) {
        arch::irq::relax();
    }
    UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    others().count()
}

/// Does what others wait for this CPU to do, by `act`: in the handler of the interrupt, and in each loop that waits with interrupts off. Cheap if there is nothing.
pub fn answer(act: impl Fn(Request)) {
    if UNDER_WAY.load(Ordering::Relaxed) == 0 {
        return;
    }
    let _irqs_off = IrqsOff::new();
    let this = super::own_number();
    let all = ALL.get();
    for cpu in super::online() {
        let asked = &all[cpu.number()];
        let answer = &all[this].answers[cpu.number()];
        let number = asked.number.load(Ordering::Acquire);
        if cpu.number() != this && number != answer.load(Ordering::Relaxed) {
            act(array::from_fn(|word| asked.request[word].load(Ordering::Relaxed)));
            guarded::store([(answer, number)]);
        }
    }
}

/// Where answers are kept: one that is never given, a CPU's to itself. For attacks, which may write it back.
pub fn answer_address() -> u64 {
    ALL.get()[0].answers[0].as_ptr() as u64
}
