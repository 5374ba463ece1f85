//! Which system calls a trace is made of, and what they say.

use crate::event::{Advice, Event, MapFlags, PageRange, Protection};

/// Page size used by the decoding: the native one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    pub shift: u8,
}

impl Pages {
    /// The pages that bytes `start..start + length` touch.
    pub(super) fn range(self, start: u64, length: u64) -> PageRange {
        let end = start.saturating_add(length);
        let last = end.div_ceil(1 << self.shift);
        PageRange::between(start >> self.shift, last)
    }
}

/// The calls that are observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Mmap,
    Munmap,
    Mremap,
    Mprotect,
    Brk,
    Madvise,
    Mlock,
    Shmat,
    Shmdt,
    Fork,
    Exec,
    Exit,
}

/// Their numbers on this architecture.
const NUMBERS: &[(i64, Call)] = &[
    (libc::SYS_mmap, Call::Mmap),
    (libc::SYS_munmap, Call::Munmap),
    (libc::SYS_mremap, Call::Mremap),
    (libc::SYS_mprotect, Call::Mprotect),
    (libc::SYS_pkey_mprotect, Call::Mprotect),
    (libc::SYS_brk, Call::Brk),
    (libc::SYS_madvise, Call::Madvise),
    (libc::SYS_mlock, Call::Mlock),
    (libc::SYS_mlock2, Call::Mlock),
    (libc::SYS_shmat, Call::Shmat),
    (libc::SYS_shmdt, Call::Shmdt),
    (libc::SYS_clone, Call::Fork),
    (libc::SYS_clone3, Call::Fork),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, Call::Fork),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, Call::Fork),
    (libc::SYS_execve, Call::Exec),
    (libc::SYS_execveat, Call::Exec),
    (libc::SYS_exit, Call::Exit),
    (libc::SYS_exit_group, Call::Exit),
];

/// Every number to observe.
pub(super) fn numbers() -> impl Iterator<Item = i64> {
    NUMBERS.iter().map(|&(number, _)| number)
}

impl Call {
    /// The call with this number, if it is observed.
    pub(super) fn from_number(number: i64) -> Option<Self> {
        NUMBERS.iter().find(|&&(known, _)| known == number).map(|&(_, call)| call)
    }

    /// True for the calls whose duration is memory management and nothing else.
    pub(super) fn is_memory(self) -> bool {
        !matches!(self, Self::Fork | Self::Exec | Self::Exit)
    }

    /// True when the call takes pages away, so that another task may be given them before it returns.
    /// Such an event has its place where the call began; all others where it returned.
    pub(super) fn takes_away(self, arguments: &[u64; 6]) -> bool {
        match self {
            Self::Munmap | Self::Shmdt => true,
            Self::Mremap => arguments[2] < arguments[1],
            Self::Madvise => Advice::from_linux(arguments[2]).is_some_and(Advice::drops_pages),
            _ => false,
        }
    }
}

/// True for the values a failing call returns: the negated error numbers.
pub(super) fn failed(result: i64) -> bool {
    (-4095..0).contains(&result)
}

/// What a successful call did, as far as its arguments and result tell. `shmat` and `shmdt` need more and
/// are decoded elsewhere.
pub(super) fn event_of(
    call: Call,
    arguments: &[u64; 6],
    result: i64,
    pages: Pages,
) -> Option<Event> {
    let [first, second, third, fourth, ..] = *arguments;
    let range = pages.range(first, second);
    let event = match call {
        Call::Mmap => Event::Mmap {
            range: pages.range(result as u64, second),
            protection: protection(third),
            flags: map_flags(fourth),
        },
        Call::Munmap => Event::Munmap { range },
        Call::Mremap => remapped(arguments, result as u64, pages),
        Call::Mprotect => Event::Mprotect { range, protection: protection(third) },
        Call::Brk => Event::Brk { address: result as u64 },
        Call::Madvise => Event::Madvise { range, advice: Advice::from_linux(third)? },
        Call::Mlock => Event::Populate { range },
        Call::Shmat | Call::Shmdt | Call::Fork | Call::Exec | Call::Exit => return None,
    };
    let empty = matches!(event, Event::Mprotect { range, .. } | Event::Madvise { range, .. } | Event::Populate { range } if range.count == 0);
    (!empty).then_some(event)
}

/// mremap(old, old length, new length, flags). An old length of 0 maps shared pages a second time.
fn remapped(arguments: &[u64; 6], result: u64, pages: Pages) -> Event {
    let [old, old_length, new_length, flags, ..] = *arguments;
    let to = pages.range(result, new_length);
    if old_length == 0 {
        let protection = Protection::READ | Protection::WRITE;
        return Event::Mmap { range: to, protection, flags: MapFlags::SHARED };
    }
    let keeps_old = flags & libc::MREMAP_DONTUNMAP as u64 != 0;
    Event::Mremap { from: pages.range(old, old_length), to, keeps_old }
}

/// PROT_ bits as a trace has them.
pub(super) fn protection(bits: u64) -> Protection {
    Protection::from_bits_truncate(bits as u8)
}

/// MAP_ bits as a trace has them.
pub(super) fn map_flags(bits: u64) -> MapFlags {
    let has = |flag: libc::c_int| bits & flag as u64 != 0;
    let mut flags = MapFlags::empty();
    // MAP_SHARED_VALIDATE is MAP_SHARED | MAP_PRIVATE, so the shared bit decides.
    flags.set(MapFlags::SHARED, has(libc::MAP_SHARED));
    flags.set(MapFlags::ANONYMOUS, has(libc::MAP_ANONYMOUS));
    flags.set(MapFlags::FIXED, has(libc::MAP_FIXED) || has(libc::MAP_FIXED_NOREPLACE));
    flags.set(MapFlags::GROWS_DOWN, has(libc::MAP_GROWSDOWN));
    let populates = has(libc::MAP_POPULATE) && !has(libc::MAP_NONBLOCK);
    flags.set(MapFlags::POPULATE, populates || has(libc::MAP_LOCKED));
    flags.set(MapFlags::HUGE, has(libc::MAP_HUGETLB));
    flags
}
