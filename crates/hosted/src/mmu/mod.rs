//! A model of the MMU: translates an address through real tables, or says which fault the access raises.
//!
//! It follows the manuals for both formats: what the leaf allows (tables here never restrict), less what PAN or SMAP takes from the
//! kernel, less what the leaf's key may not by the protection register. Where both refuse, the fault is reported as the key's. Tests play the attacker on it: whatever address and
//! whatever register they can think of.

pub mod aarch64;
pub mod x86_64;

use core::sync::atomic::{AtomicU64, Ordering};

use kpkeys::Pkey;
use kpkeys_pgtable::{Entry, Format, Level, Machine, PhysAddr, VirtAddr};

use crate::machine::HostedFormat;

/// What an access wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// The kernel.
    Kernel,
    /// A user program; or the kernel by LDTR and STTR, which are checked as a program's loads and stores.
    User,
}

/// Why an access is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The address is not canonical.
    NotCanonical,
    /// No valid entry at this level; or, at the root, one that is not looked at, since E0PD keeps user programs out of the half.
    NotPresent(Level),
    /// The key lets it through; the leaf forbids it, or PAN or SMAP does.
    Permission(Level),
    /// The key forbids it, whatever the leaf says: the page fault whose error code has the protection-key bit (Intel SDM vol. 3A 4.7), or the
    /// permission fault with the overlay bit (Arm ARM, D8.15.5.1: overlays are checked before base permissions).
    Key(Pkey),
}

/// Accesses that are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Allowed {
    /// Nothing.
    pub const NONE: Allowed = Allowed { read: false, write: false, execute: false };

    /// Everything.
    pub const ALL: Allowed = Allowed { read: true, write: true, execute: true };

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Allowed) -> Allowed {
        Allowed {
            read: self.read && other.read,
            write: self.write && other.write,
            execute: self.execute && other.execute,
        }
    }

    /// Whether an access is among them.
    pub fn allows(self, want: Want) -> bool {
        match want {
            Want::Read => self.read,
            Want::Write => self.write,
            Want::Execute => self.execute,
        }
    }
}

/// What a leaf allows on a CPU, so that a refusal can say whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// What its key lets through, whatever the leaf says: kernel and user.
    pub by_key: [Allowed; 2],
    /// What is allowed by everything together: kernel and user.
    pub allowed: [Allowed; 2],
}

/// Who refuses an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The key, and perhaps the leaf too.
    Key,
    /// The leaf, or PAN or SMAP; not the key.
    Leaf,
}

impl Permissions {
    /// Whether an access is allowed.
    ///
    /// # Errors
    ///
    /// What the hardware reports of one that is not.
    pub fn check(self, want: Want, who: Privilege) -> Result<(), Refusal> {
        if !self.by_key[who as usize].allows(want) {
            return Err(Refusal::Key);
        }
        if !self.allowed[who as usize].allows(want) {
            return Err(Refusal::Leaf);
        }
        Ok(())
    }
}

/// The state of a CPU that decides about accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The protection register: IA32_PKRS or POR_EL1.
    pub register: u64,
    /// The one for user programs, where it is in force: POR_EL0, with TCR2_EL1.E0POE set. PKRU is not modelled.
    pub user_register: Option<u64>,
    /// The kernel is kept from what user programs may access: PSTATE.PAN is set, or CR4.SMAP is and EFLAGS.AC is not.
    pub pan: bool,
    /// User programs are kept from the kernel's half: TCR_EL1.E0PD1 is set, or LASS is on.
    pub e0pd: bool,
    /// arm64's permission indirection, if TCR2_EL1.PIE is set.
    pub indirection: Option<aarch64::Indirection>,
}

impl Cpu {
    /// A CPU with this value in its protection register, PAN or SMAP in force, and nothing else turned on.
    pub fn new(register: u64) -> Cpu {
        Cpu { register, user_register: None, pan: true, e0pd: false, indirection: None }
    }
}

/// A CPU of the model: its root registers and what else decides about its accesses.
#[derive(Clone, Copy, Debug)]
pub struct Mmu<'m, M> {
    machine: &'m M,
    /// Root for addresses of the kernel's half.
    pub kernel_root: PhysAddr,
    /// Root for addresses of the user's half.
    pub user_root: Option<PhysAddr>,
    /// The rest.
    pub cpu: Cpu,
}

impl<'m, M: Machine<Format: HostedFormat>> Mmu<'m, M> {
    /// A CPU with these tables loaded and this value in its protection register; see [`Cpu::new`] for the rest.
    pub fn new(
        machine: &'m M,
        kernel_root: PhysAddr,
        user_root: Option<PhysAddr>,
        register: u64,
    ) -> Self {
        Mmu { machine, kernel_root, user_root, cpu: Cpu::new(register) }
    }

    /// Where an access goes.
    ///
    /// # Errors
    ///
    /// The fault it raises instead.
    pub fn access(&self, va: VirtAddr, want: Want, who: Privilege) -> Result<PhysAddr, Fault> {
        if !va.is_canonical::<M::Format>() {
            return Err(Fault::NotCanonical);
        }
        let kernel_half = va.0 >> 63 == 1;
        if kernel_half && who == Privilege::User && self.cpu.e0pd {
            return Err(Fault::NotPresent(M::Format::ROOT));
        }
        let root = if kernel_half { Some(self.kernel_root) } else { self.user_root };
        let root = root.ok_or(Fault::NotPresent(M::Format::ROOT))?;
        let (level, entry) = self.leaf(root, va).map_err(Fault::NotPresent)?;
        M::Format::permissions(entry, &self.cpu).check(want, who).map_err(
            |refusal| match refusal {
                Refusal::Key => Fault::Key(M::Format::key(entry)),
                Refusal::Leaf => Fault::Permission(level),
            },
        )?;
        let offset = va.0 & (level.entry_bytes::<M::Format>() - 1);
        Ok(M::Format::frame(level, entry).offset(offset))
    }

    /// Stores a word as an attacker in the kernel would: wherever the access goes, or not at all.
    ///
    /// # Errors
    ///
    /// The fault it raises.
    pub fn store(&self, va: VirtAddr, value: u64) -> Result<(), Fault> {
        self.store_as(Privilege::Kernel, va, value)
    }

    /// Stores a word as a program would, or the kernel.
    ///
    /// # Errors
    ///
    /// The fault it raises.
    pub fn store_as(&self, who: Privilege, va: VirtAddr, value: u64) -> Result<(), Fault> {
        let pa = self.access(VirtAddr(va.0 & !7), Want::Write, who)?;
        self.word(pa).store(value, Ordering::Release);
        Ok(())
    }

    /// The leaf that maps an address, or the level whose entry ends the walk.
    pub(crate) fn leaf(&self, root: PhysAddr, va: VirtAddr) -> Result<(Level, Entry), Level> {
        let (mut table, mut level) = (root, M::Format::ROOT);
        loop {
            let slot = table.offset(va.index::<M::Format>(level) as u64 * 8);
            let entry = Entry(self.word(slot).load(Ordering::Acquire));
            if M::Format::is_leaf(level, entry) {
                return Ok((level, entry));
            }
            table = match level.below() {
                Some(below) if M::Format::is_table(level, entry) => {
                    let next = M::Format::frame(level, entry);
                    level = below;
                    next
                }
                _ => return Err(level),
            };
            if !self.machine.memory().contains(table, 1) {
                return Err(level);
            }
        }
    }

    fn word(&self, pa: PhysAddr) -> &AtomicU64 {
        let offset = pa.0 % M::Format::PAGE_SIZE;
        let frame = PhysAddr(pa.0 - offset);
        assert!(self.machine.memory().contains(frame, 1), "{pa:?} is no memory of this machine");
        let address = self.machine.data(frame);
        // SAFETY: the frame is in memory (roots are, and `leaf` checks every table; `store` goes where a leaf of this machine's
        // tables points), the view is writable and lives as long as the machine, and the offset is a multiple of 8 inside the frame.
        // Other accesses to the word are atomic, or the test's own business.
        unsafe { address.add((offset & !7) as usize).cast::<AtomicU64>().as_ref() }
    }
}
