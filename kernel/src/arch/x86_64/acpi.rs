//! Which CPUs there are: ACPI's Multiple APIC Description Table (ACPI 6.5, 5.2.12).
//!
//! Read once at boot, while the boot tables still map the first 4 GiB one to one. Tables
//! are firmware's input: every length is checked, nothing is assumed aligned, and a table
//! that does not add up is refused by name.

use crate::cpu::MAX_CPUS;
use arrayvec::ArrayVec;
use core::fmt;

/// What was wrong with which table.
#[derive(Debug)]
pub enum AcpiError {
    /// The loader gave no root pointer.
    NoRootPointer,
    /// A structure at this physical address lacks its signature or lies beyond 4 GiB.
    NotFound(&'static str, u64),
    /// The bytes of this table do not sum to zero (ACPI 6.5, 5.2.6).
    Checksum(&'static str),
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => f.write_str("the boot loader passed no ACPI root pointer"),
            Self::NotFound(table, address) => {
                write!(f, "ACPI: no {table} where it should be (searched from {address:#x})")
            }
            Self::Checksum(table) => write!(f, "ACPI: the checksum of the {table} is wrong"),
        }
    }
}

/// The CPUs, by local APIC id, in the table's order.
pub struct Topology {
    /// Local APIC ids of usable CPUs.
    pub apic_ids: ArrayVec<u8, MAX_CPUS>,
    /// Usable CPUs beyond [`MAX_CPUS`], which stay off.
    pub left_out: usize,
}

/// Reads the CPUs from the tables behind the root pointer.
///
/// # Errors
///
/// [`AcpiError`] when a table is missing or damaged.
///
/// # Safety
///
/// The boot tables must be in use and the firmware's tables unwritten.
pub unsafe fn cpus(rsdp: u64) -> Result<Topology, AcpiError> {
    if rsdp == 0 {
        return Err(AcpiError::NoRootPointer);
    }
    // SAFETY: forwarded.
    let root = unsafe { root_table(rsdp) }?;
    // SAFETY: forwarded.
    let madt = unsafe { find_madt(&root, rsdp) }?;
    Ok(read_madt(madt))
}

/// RSDT or XSDT: a header and physical addresses of the other tables.
struct RootTable {
    body: &'static [u8],
    entry_len: usize,
}

const RSDP_LEN: usize = 36;
const HEADER_LEN: usize = 36;

/// # Safety
///
/// As [`cpus`].
unsafe fn root_table(rsdp: u64) -> Result<RootTable, AcpiError> {
    // SAFETY: forwarded.
    let pointer = unsafe { bytes(rsdp, RSDP_LEN) }.ok_or(AcpiError::NotFound("RSDP", rsdp))?;
    if &pointer[..8] != b"RSD PTR " {
        return Err(AcpiError::NotFound("RSDP", rsdp));
    }
    let revision = pointer[15];
    let xsdt = u64_at(pointer, 24);
    let (address, signature, entry_len, name) = if revision >= 2 && xsdt != 0 {
        (xsdt, b"XSDT", 8, "XSDT")
    } else {
        (u64::from(u32_at(pointer, 16)), b"RSDT", 4, "RSDT")
    };
    // SAFETY: forwarded.
    let body = unsafe { table(address, signature, name) }?;
    Ok(RootTable { body, entry_len })
}

/// # Safety
///
/// As [`cpus`].
unsafe fn find_madt(root: &RootTable, rsdp: u64) -> Result<&'static [u8], AcpiError> {
    for entry in root.body.chunks_exact(root.entry_len) {
        let address =
            if root.entry_len == 8 { u64_at(entry, 0) } else { u64::from(u32_at(entry, 0)) };
        // SAFETY: forwarded.
        match unsafe { table(address, b"APIC", "MADT") } {
            Err(AcpiError::NotFound(..)) => {}
            found => return found,
        }
    }
    Err(AcpiError::NotFound("MADT", rsdp))
}

/// The bytes behind the header of the table at `address`, if it has this signature.
///
/// # Safety
///
/// As [`cpus`].
unsafe fn table(
    address: u64,
    signature: &[u8; 4],
    name: &'static str,
) -> Result<&'static [u8], AcpiError> {
    let missing = AcpiError::NotFound(name, address);
    // SAFETY: forwarded.
    let Some(header) = (unsafe { bytes(address, HEADER_LEN) }) else { return Err(missing) };
    let len = u32_at(header, 4) as usize;
    if &header[..4] != signature || len < HEADER_LEN {
        return Err(missing);
    }
    // SAFETY: forwarded.
    let Some(whole) = (unsafe { bytes(address, len) }) else { return Err(missing) };
    if whole.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return Err(AcpiError::Checksum(name));
    }
    Ok(&whole[HEADER_LEN..])
}

/// Entries of type 0 are local APICs; a CPU is usable when flag 0 (enabled) is set (ACPI
/// 6.5, 5.2.12.2).
fn read_madt(body: &[u8]) -> Topology {
    const FIXED_PART: usize = 8;
    const LOCAL_APIC: u8 = 0;
    let mut topology = Topology { apic_ids: ArrayVec::new(), left_out: 0 };
    let mut rest = body.get(FIXED_PART..).unwrap_or_default();
    while let [kind, len, ..] = *rest
        && len >= 2
        && usize::from(len) <= rest.len()
    {
        let (entry, tail) = rest.split_at(usize::from(len));
        rest = tail;
        if kind == LOCAL_APIC
            && entry.len() >= 8
            && u32_at(entry, 4) & 1 != 0
            && topology.apic_ids.try_push(entry[3]).is_err()
        {
            topology.left_out += 1;
        }
    }
    topology
}

/// # Safety
///
/// As [`cpus`].
unsafe fn bytes(address: u64, len: usize) -> Option<&'static [u8]> {
    const MAPPED: u64 = 4 << 30;
    let end = address.checked_add(len as u64)?;
    // SAFETY: within the first 4 GiB, which the boot tables map one to one and readable;
    // unwritten as the caller promises.
    (address != 0 && end <= MAPPED)
        .then(|| unsafe { core::slice::from_raw_parts(address as *const u8, len) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
