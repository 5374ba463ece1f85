//! A model of the MMU: translates an address through real tables, or says which fault the access raises.
//!
//! It follows the manuals for both formats: permissions of the leaf (tables here never restrict), then the key of the leaf against
//! the protection register. Tests play the attacker on it: whatever address and whatever register they can think of.

use core::sync::atomic::{AtomicU64, Ordering};

use kpkeys::encoding::{self, Encoding};
use kpkeys::{Access, Pkey};
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
    /// The kernel, with user pages out of its reach (SMAP, PAN).
    Kernel,
    /// A user program.
    User,
}

/// Why an access is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The address is not canonical.
    NotCanonical,
    /// No valid entry at this level.
    NotPresent(Level),
    /// The leaf forbids it.
    Permission(Level),
    /// The leaf allows it, its key does not: the page fault whose error code has the protection-key bit (x86-64), or the permission
    /// fault with the overlay bit (arm64).
    Key(Pkey),
}

/// A CPU of the model: its root registers and its protection register.
#[derive(Clone, Copy, Debug)]
pub struct Mmu<'m, M> {
    machine: &'m M,
    /// Root for addresses of the kernel's half.
    pub kernel_root: PhysAddr,
    /// Root for addresses of the user's half.
    pub user_root: Option<PhysAddr>,
    /// The protection register.
    pub register: u64,
}

impl<'m, M: Machine<Format: HostedFormat>> Mmu<'m, M> {
    /// A CPU with these tables loaded and this value in its protection register.
    pub fn new(
        machine: &'m M,
        kernel_root: PhysAddr,
        user_root: Option<PhysAddr>,
        register: u64,
    ) -> Self {
        Mmu { machine, kernel_root, user_root, register }
    }

    /// Where an access goes.
    ///
    /// # Errors
    ///
    /// The fault it raises instead.
    pub fn access(&self, va: VirtAddr, want: Want, who: Privilege) -> Result<PhysAddr, Fault> {
        let (level, entry) = self.leaf(va)?;
        let attrs = M::Format::attrs(entry);
        let allowed = match want {
            Want::Read => true,
            Want::Write => attrs.write,
            Want::Execute => attrs.execute,
        };
        if !allowed || attrs.user != (who == Privilege::User) {
            return Err(Fault::Permission(level));
        }
        if !attrs.user {
            self.check_key(attrs.key, want)?;
        }
        let offset = va.0 & (level.entry_bytes() - 1);
        Ok(M::Format::frame(level, entry).offset(offset))
    }

    /// Stores a word as an attacker would: wherever the access goes, or not at all.
    ///
    /// # Errors
    ///
    /// The fault it raises.
    pub fn store(&self, va: VirtAddr, value: u64) -> Result<(), Fault> {
        let pa = self.access(VirtAddr(va.0 & !7), Want::Write, Privilege::Kernel)?;
        self.word(pa).store(value, Ordering::Release);
        Ok(())
    }

    fn leaf(&self, va: VirtAddr) -> Result<(Level, Entry), Fault> {
        if !va.is_canonical() {
            return Err(Fault::NotCanonical);
        }
        let kernel_half = va.0 >> 63 == 1;
        let root = if kernel_half { Some(self.kernel_root) } else { self.user_root };
        let mut table = root.ok_or(Fault::NotPresent(Level::Pgd))?;
        let mut level = Level::Pgd;
        loop {
            let slot = table.offset(va.index(level) as u64 * 8);
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
                _ => return Err(Fault::NotPresent(level)),
            };
            if !self.machine.memory().contains(table, 1) {
                return Err(Fault::NotPresent(level));
            }
        }
    }

    fn check_key(&self, key: Pkey, want: Want) -> Result<(), Fault> {
        type EncodingOf<M> = <<M as Machine>::Format as HostedFormat>::Encoding;
        let access = encoding::decode::<EncodingOf<M>>(self.register, key);
        let allowed = match want {
            Want::Read => access != Some(Access::NoAccess),
            Want::Write => access == Some(Access::ReadWrite),
            Want::Execute => executable::<EncodingOf<M>>(self.register, key),
        };
        if allowed { Ok(()) } else { Err(Fault::Key(key)) }
    }

    fn word(&self, pa: PhysAddr) -> &AtomicU64 {
        let frame = PhysAddr(pa.0 & !0xfff);
        let address = self.machine.data(frame);
        // SAFETY: the frame is in memory (roots are, and `leaf` checks every table; `store` goes where a leaf of this machine's
        // tables points), the view is writable and lives as long as the machine, and the offset is a multiple of 8 inside the frame.
        // Other accesses to the word are atomic, or the test's own business.
        unsafe { address.add((pa.0 & 0xff8) as usize).cast::<AtomicU64>().as_ref() }
    }
}

/// Whether the register allows instruction fetches from pages of a key. PKRS has no say in them (Intel SDM vol. 3A 5.6.2); POR
/// has a bit for them, bit 1 of the field (Arm ARM, POR_EL1).
fn executable<E: Encoding>(register: u64, key: Pkey) -> bool {
    let has_execute_bit = E::KEY0 & 0b10 != 0;
    !has_execute_bit || register >> (u32::from(key.number()) * E::BITS) & 0b10 != 0
}
