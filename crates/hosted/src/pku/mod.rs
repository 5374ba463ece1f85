//! Keys of the host for page tables of the machine: x86-64 protection keys for user pages, on Linux.
//!
//! A page-table page of the machine is then protected as in a kernel: by a key that the CPU checks at each store, and a window is the real
//! instruction. What differs is who holds the entry with the key: the host's page tables, which follow the machine's linear map
//! ([`HostKeys`]), by a system call for each change.
//!
//! Keys belong to a process. Contexts know them by number, so this process must be given those very numbers: the lowest that are free, as
//! Linux gives them out (`pkeys(7)`).

mod host_keys;

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::arena::HOST_PAGE;
pub use host_keys::HostKeys;
use kpkeys::Pkey;
use kpkeys::pku::InitError;
pub use kpkeys::pku::Pku;

/// The same backend, where tables of address spaces have a key of their own in mode `fused`.
pub type SeparatePku =
    kpkeys::keyed::Keyed<kpkeys::pku::Pkru, kpkeys::encoding::Pkrs, kpkeys::keyed::Separate>;

/// The keys that contexts manage.
const MANAGED: [Pkey; 3] = [Pkey::PAGE_TABLES, Pkey::WRITE_RARELY, Pkey::USER_TABLES];
/// What the thread that allocates a key may do with its pages at first: load them (`PKEY_DISABLE_WRITE`, Linux,
/// `include/uapi/asm-generic/mman-common.h`).
const LOADS_ONLY: libc::c_ulong = 2;

/// Why this process has no keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The CPU or the kernel does not have them.
    Missing(InitError),
    /// `pkey_alloc` failed with this error number.
    NotGiven(Pkey, i32),
    /// Something else in this process has the key that contexts mean.
    Taken(Pkey),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Missing(InitError::NotSupported) => write!(
                f,
                "{}; it is in Intel's server CPUs since Skylake and AMD's since Zen 3",
                InitError::NotSupported
            ),
            Refused::Missing(InitError::NotEnabled) => write!(
                f,
                "{}: Linux 4.9 or newer does, built with X86_INTEL_MEMORY_PROTECTION_KEYS and booted without nopku",
                InitError::NotEnabled
            ),
            Refused::Missing(InitError::RegisterMismatch) => InitError::RegisterMismatch.fmt(f),
            Refused::NotGiven(key, errno) => write!(
                f,
                "the kernel gives this process no key {}: {}",
                key.number(),
                io::Error::from_raw_os_error(*errno)
            ),
            Refused::Taken(key) => {
                write!(f, "key {} is in use by something else in this process", key.number())
            }
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        io::Error::new(io::ErrorKind::Unsupported, refused)
    }
}

/// The keys are this process's; asked for once.
///
/// # Errors
///
/// Why it has none, the same each time.
pub fn check() -> Result<(), Refused> {
    static KEYS: OnceLock<Result<(), Refused>> = OnceLock::new();
    *KEYS.get_or_init(|| {
        Pku::check().map_err(Refused::Missing)?;
        MANAGED.into_iter().try_for_each(allocate)
    })
}

/// The backend, with the calling thread outside of windows. Each thread that loads or stores page tables must have called this, or come from
/// one that had: a thread that is older than the keys may not even load.
///
/// # Errors
///
/// As [`check`].
pub fn ready() -> Result<Pku, Refused> {
    check()?;
    // SAFETY: `check` allocated the keys that contexts manage, which are never given back and which nothing else in this process was given.
    unsafe { Pku::init() }.map_err(Refused::Missing)
}

fn allocate(key: Pkey) -> Result<(), Refused> {
    // SAFETY: takes numbers and touches no memory.
    let given = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0 as libc::c_ulong, LOADS_ONLY) };
    if given == libc::c_long::from(key.number()) {
        return Ok(());
    }
    if given < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
        return Err(Refused::NotGiven(key, errno));
    }
    // SAFETY: gives back the key of a moment ago, which no page has. Should that fail, a key is lost that nothing would have used.
    let _ = unsafe { libc::syscall(libc::SYS_pkey_free, given) };
    Err(Refused::Taken(key))
}

/// Gives pages of a mapping a key; they can be loaded and stored as far as that lets them.
///
/// # Errors
///
/// What the kernel says.
///
/// # Safety
///
/// The pages must be the caller's own mapping, readable and writable, and what is done with them must not depend on their being so.
pub(crate) unsafe fn set_key(view: NonNull<u8>, pages: Range<usize>, key: Pkey) -> io::Result<()> {
    let page_bytes = HOST_PAGE;
    let start = view.as_ptr().wrapping_add(pages.start * page_bytes);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pkey_mprotect,
            start,
            pages.len() * page_bytes,
            libc::c_long::from(protection),
            libc::c_long::from(key.number()),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
