//! What an arm64 machine that has no device tree says of itself: in ACPI's tables (ACPI Specification 6.5; offsets are those of its tables).
//!
//! | table | what is read |
//! |---|---|
//! | MADT (5.2.12) | CPUs, and where the interrupt controller's registers are |
//! | GTDT (5.2.25) | the interrupts of the timers |
//! | FADT (5.2.9) | whether there is PSCI, and how it is called |
//! | SPCR (Microsoft, "Serial Port Console Redirection Table") | the serial line that the console is on |
//!
//! Tables are firmware's input: each has its signature, its length and its checksum looked at, and each number is read within its length.

use alloc::vec::Vec;
use core::fmt;

/// What is wrong with the tables, or with the machine that they describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A table is not there.
    Missing(&'static str),
    /// The bytes of this table do not sum to zero (5.2.6).
    Checksum(&'static str),
    /// This table ends before something that is to be in it.
    Short(&'static str),
    /// No CPU is usable.
    NoCpus,
    /// There is no interrupt controller, or one of another version.
    Controller(u8),
    /// The redistributors lie in more places than are taken: so many.
    Redistributors(usize),
    /// The timers' interrupts are none of a CPU's own.
    Timer,
    /// The console is on a serial line of another kind, by the number that it has there (Microsoft, "Debug Port Table 2", table 3).
    Console(u8),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing("SPCR") => {
                f.write_str("ACPI names no serial line for a console (there is no SPCR)")
            }
            Self::Missing(table) => write!(f, "ACPI: there is no {table}"),
            Self::Checksum(table) => write!(f, "ACPI: the checksum of the {table} is wrong"),
            Self::Short(table) => write!(f, "ACPI: the {table} ends too early"),
            Self::NoCpus => f.write_str("ACPI: no CPU in the MADT is enabled"),
            Self::Controller(0) => f.write_str("ACPI: the MADT has no interrupt distributor"),
            Self::Controller(version) => {
                write!(f, "the interrupt controller is a GIC of version {version}, not 2, 3 or 4")
            }
            Self::Redistributors(places) => write!(
                f,
                "redistributors lie in {places} places; {MAX_REDISTRIBUTORS} are as many as are taken"
            ),
            Self::Timer => {
                f.write_str("ACPI: the GTDT has no timer of EL1 with an interrupt from 16 to 31")
            }
            Self::Console(kind) => write!(
                f,
                "the serial line is of kind {kind:#x} by ACPI's SPCR; the kernel has a driver for PL011 (0x3, 0xd, 0xe)"
            ),
        }
    }
}

impl core::error::Error for Error {}

/// Places of redistributors, as the kernel takes them.
pub const MAX_REDISTRIBUTORS: usize = 8;
/// Longest table that is read.
const MAX_TABLE: usize = 1 << 20;

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// Addresses of registers: the first, and how many bytes.
pub type Registers = (u64, u64);

/// The interrupt controller's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controller {
    /// GICv2.
    V2 {
        /// The distributor's.
        distributor: Registers,
        /// Those that each CPU sees its own at.
        cpu_interface: Registers,
    },
    /// GICv3 and later.
    V3 {
        /// The distributor's.
        distributor: Registers,
        /// The redistributors', one behind the other in each place.
        redistributors: Vec<Registers>,
    },
}

/// A timer's interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerInterrupt {
    /// Which of a CPU's own, 0 to 15.
    pub ppi: u32,
    /// It is an edge, not a level.
    pub edge: bool,
    /// It is asserted by a low level, or a falling edge.
    pub low: bool,
}

/// An arm64 machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// How PSCI is called, where there is PSCI.
    pub psci: Option<Conduit>,
    /// The affinities of usable CPUs, by `MPIDR_EL1`.
    pub cpus: Vec<u64>,
    /// The interrupt controller.
    pub controller: Controller,
    /// The timers of Secure EL1, Non-secure EL1, of virtual time, and of EL2.
    pub timers: [Option<TimerInterrupt>; 4],
    /// The address of the PL011 that the console is on.
    pub console: u64,
}

impl Description {
    /// Reads the tables behind the root pointer at `root`, by `bytes`, which returns so many bytes from an address up if they can be read.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn read<'a>(
        root: u64,
        bytes: impl Fn(u64, usize) -> Option<&'a [u8]>,
    ) -> Result<Self, Error> {
        let tables = Tables::new(root, bytes)?;
        let madt = tables.get(b"APIC", "MADT")?;
        Ok(Self {
            psci: psci(&tables.get(b"FACP", "FADT")?)?,
            cpus: cpus(&madt)?,
            controller: controller(&madt)?,
            timers: timers(&tables.get(b"GTDT", "GTDT")?)?,
            console: console(&tables.get(b"SPCR", "SPCR")?)?,
        })
    }
}

/// A table, or a structure in one.
#[derive(Clone, Copy)]
struct Table<'a> {
    name: &'static str,
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(Error::Short(self.name))
    }

    fn u8(&self, at: usize) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.array(at)?))
    }

    fn u16(&self, at: usize) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    fn u32(&self, at: usize) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    fn u64(&self, at: usize) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    /// The structures from `first` on, each of which begins with its kind and its length, of one kind.
    fn structures(self, first: usize, kind: u8) -> impl Iterator<Item = Table<'a>> {
        let mut rest = self.bytes.get(first..).unwrap_or_default();
        let all = core::iter::from_fn(move || {
            let &[kind, len, ..] = rest else { return None };
            let (bytes, behind) = rest.split_at_checked(len.into()).filter(|_| len >= 2)?;
            rest = behind;
            Some((kind, Table { name: self.name, bytes }))
        });
        all.filter(move |(of, _)| *of == kind).map(|(_, structure)| structure)
    }
}

/// The tables that the root pointer leads to.
struct Tables<'a, F> {
    bytes: F,
    root: Table<'a>,
}

/// Bytes of every table's header (5.2.6).
const HEADER: usize = 36;

impl<'a, F: Fn(u64, usize) -> Option<&'a [u8]>> Tables<'a, F> {
    fn new(root: u64, bytes: F) -> Result<Self, Error> {
        const POINTER: &str = "root pointer (RSDP)";
        let pointer = bytes(root, HEADER).ok_or(Error::Missing(POINTER))?;
        let pointer = Table { name: POINTER, bytes: pointer };
        let is_new = pointer.array(0)? == *b"RSD PTR " && pointer.u8(15)? >= 2;
        let at = if is_new { pointer.u64(24)? } else { return Err(Error::Missing(POINTER)) };
        let root = table(&bytes, at, b"XSDT", "XSDT").ok_or(Error::Missing("XSDT"))??;
        Ok(Self { bytes, root })
    }

    fn get(&self, signature: &[u8; 4], name: &'static str) -> Result<Table<'a>, Error> {
        let list = self.root.bytes.get(HEADER..).unwrap_or_default();
        let (pointers, _) = list.as_chunks::<8>();
        let mut found = pointers
            .iter()
            .filter_map(|at| table(&self.bytes, u64::from_le_bytes(*at), signature, name));
        found.next().unwrap_or(Err(Error::Missing(name)))
    }
}

/// The table at an address, if it has this signature.
fn table<'a>(
    bytes: &impl Fn(u64, usize) -> Option<&'a [u8]>,
    at: u64,
    signature: &[u8; 4],
    name: &'static str,
) -> Option<Result<Table<'a>, Error>> {
    let header = Table { name, bytes: bytes(at, 8).filter(|_| at != 0)? };
    if header.array(0) != Ok(*signature) {
        return None;
    }
    let len = header.u32(4).map_or(0, |len| len as usize);
    if !(HEADER..=MAX_TABLE).contains(&len) {
        return Some(Err(Error::Short(name)));
    }
    let bytes = bytes(at, len)?;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    Some(if sum == 0 { Ok(Table { name, bytes }) } else { Err(Error::Checksum(name)) })
}

/// Table 5.10: flags of Arm's boot architecture.
fn psci(fadt: &Table<'_>) -> Result<Option<Conduit>, Error> {
    const COMPLIANT: u16 = 1 << 0;
    const USE_HVC: u16 = 1 << 1;
    let flags = fadt.u16(129)?;
    let conduit = if flags & USE_HVC != 0 { Conduit::Hvc } else { Conduit::Smc };
    Ok((flags & COMPLIANT != 0).then_some(conduit))
}

/// Where the MADT's structures begin.
const FIRST: usize = 44;
/// Its structures (5.2.12.14 to 17): of a CPU, of the distributor, of redistributors.
const GICC: u8 = 0x0b;
const GICD: u8 = 0x0c;
const GICR: u8 = 0x0e;

/// The structures of usable CPUs.
fn usable<'a>(madt: &Table<'a>) -> Result<Vec<Table<'a>>, Error> {
    const ENABLED: u32 = 1 << 0;
    let mut usable = Vec::new();
    for cpu in madt.structures(FIRST, GICC) {
        if cpu.u32(12)? & ENABLED != 0 {
            usable.push(cpu);
        }
    }
    Ok(usable)
}

fn cpus(madt: &Table<'_>) -> Result<Vec<u64>, Error> {
    let cpus: Vec<u64> =
        usable(madt)?.iter().map(|cpu| cpu.u64(68)).collect::<Result<_, Error>>()?;
    if cpus.is_empty() { Err(Error::NoCpus) } else { Ok(cpus) }
}

fn controller(madt: &Table<'_>) -> Result<Controller, Error> {
    const V2_DISTRIBUTOR: u64 = 0x1000;
    const V2_CPU_INTERFACE: u64 = 0x2000;
    const V3_DISTRIBUTOR: u64 = 0x1_0000;
    let distributor = madt.structures(FIRST, GICD).next().ok_or(Error::Controller(0))?;
    let (at, version) = (distributor.u64(8)?, distributor.u8(20)?);
    let redistributors = redistributors(madt, version)?;
    match version {
        0 | 3 | 4 if !redistributors.is_empty() => {
            if redistributors.len() > MAX_REDISTRIBUTORS {
                return Err(Error::Redistributors(redistributors.len()));
            }
            Ok(Controller::V3 { distributor: (at, V3_DISTRIBUTOR), redistributors })
        }
        0 | 2 => {
            let first = usable(madt)?.first().ok_or(Error::NoCpus)?.u64(32)?;
            Ok(Controller::V2 {
                distributor: (at, V2_DISTRIBUTOR),
                cpu_interface: (first, V2_CPU_INTERFACE),
            })
        }
        3 | 4 => Err(Error::Redistributors(0)),
        other => Err(Error::Controller(other)),
    }
}

/// All of them in as few places as there are: by structures of their own, or else by each CPU's (IHI 0069, 12.10: two frames of 64 KiB, or four from
/// version 4 on).
fn redistributors(madt: &Table<'_>, version: u8) -> Result<Vec<Registers>, Error> {
    let mut places = Vec::new();
    for range in madt.structures(FIRST, GICR) {
        places.push((range.u64(4)?, range.u32(12)?.into()));
    }
    if places.is_empty() {
        let each = if version >= 4 { 4 << 16 } else { 2 << 16 };
        for cpu in usable(madt)? {
            places.push((cpu.u64(60)?, each));
        }
    }
    places.retain(|place| place.0 != 0);
    places.sort_unstable();
    places.dedup_by(|next, before| {
        let follows = before.0.checked_add(before.1) == Some(next.0);
        if follows {
            before.1 += next.1;
        }
        follows
    });
    Ok(places)
}

/// Table 5.117: the interrupt of each timer, and how it is signalled.
fn timers(gtdt: &Table<'_>) -> Result<[Option<TimerInterrupt>; 4], Error> {
    const EDGE: u32 = 1 << 0;
    const LOW: u32 = 1 << 1;
    let mut timers = [None; 4];
    for (timer, at) in timers.iter_mut().zip([48, 56, 64, 72]) {
        let (interrupt, flags) = (gtdt.u32(at)?, gtdt.u32(at + 4)?);
        *timer = (16..32).contains(&interrupt).then(|| TimerInterrupt {
            ppi: interrupt - 16,
            edge: flags & EDGE != 0,
            low: flags & LOW != 0,
        });
    }
    if timers[1].is_none() && timers[2].is_none() { Err(Error::Timer) } else { Ok(timers) }
}

/// A PL011, or what SBSA calls a generic UART, which is a part of one.
fn console(spcr: &Table<'_>) -> Result<u64, Error> {
    const PL011: [u8; 3] = [0x03, 0x0d, 0x0e];
    let (kind, space, address) = (spcr.u8(36)?, spcr.u8(40)?, spcr.u64(44)?);
    let is_pl011 = PL011.contains(&kind) && space == 0 && address != 0;
    if is_pl011 { Ok(address) } else { Err(Error::Console(kind)) }
}
