//! What is proved: functions of four words that return true for all of them. Each calls the code that kernels run, compiled as it is.
//!
//! What a property compares with is written down here once more, as the manuals have it.

use std::hint::black_box;

use kpkeys::context::{Default, PageTables};
use kpkeys::encoding::{Encoding, Pkrs, Por, Update, decode};
use kpkeys::pan::Control;
use kpkeys::{Access, Pkey};
use kpkeys_pgtable::entry::{
    Aarch64, Aarch64_16K, Aarch64_16KLpa2, Aarch64_64K, Aarch64_64KLpa, Aarch64Lpa2, X86_64,
    X86_64La57, indirection,
};
use kpkeys_pgtable::{
    Attrs, Entry, Format, Level, Memory, MemoryType, PageRange, PhysAddr, VirtAddr,
};

/// A property's code.
pub type Function = extern "C" fn(u64, u64, u64, u64) -> bool;

/// Something that holds for all arguments.
pub struct Property {
    /// What it is called.
    pub name: &'static str,
    /// What it says.
    pub says: &'static str,
    /// Its code.
    pub function: Function,
}

macro_rules! properties {
    ($($name:ident: $says:literal = $code:path;)*) => {
        /// All of them.
        pub const ALL: &[Property] = &[
            $({
                extern "C" fn function(a: u64, b: u64, c: u64, d: u64) -> bool {
                    $code(a, b, c, d)
                }
                Property { name: stringify!($name), says: $says, function }
            },)*
        ];
    };
}

properties! {
    x86_64_leaf: "a leaf is what it was made of, for every level, frame, attributes and key; what cannot be one is refused" = leaf::<X86_64>;
    aarch64_leaf: "the same" = leaf::<Aarch64>;
    x86_64_la57_leaf: "the same" = leaf::<X86_64La57>;
    aarch64_16k_leaf: "the same" = leaf::<Aarch64_16K>;
    aarch64_64k_leaf: "the same" = leaf::<Aarch64_64K>;
    aarch64_lpa2_leaf: "the same" = leaf::<Aarch64Lpa2>;
    aarch64_16k_lpa2_leaf: "the same" = leaf::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_leaf: "the same" = leaf::<Aarch64_64KLpa>;
    x86_64_table: "an entry that points to a table does, and is no leaf" = table::<X86_64>;
    aarch64_table: "the same" = table::<Aarch64>;
    x86_64_la57_table: "the same" = table::<X86_64La57>;
    aarch64_16k_table: "the same" = table::<Aarch64_16K>;
    aarch64_64k_table: "the same" = table::<Aarch64_64K>;
    aarch64_lpa2_table: "the same" = table::<Aarch64Lpa2>;
    aarch64_16k_lpa2_table: "the same" = table::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_table: "the same" = table::<Aarch64_64KLpa>;
    x86_64_kinds: "every entry is nothing, a table or a leaf, and just one of them" = kinds::<X86_64>;
    aarch64_kinds: "the same" = kinds::<Aarch64>;
    x86_64_la57_kinds: "the same" = kinds::<X86_64La57>;
    aarch64_16k_kinds: "the same" = kinds::<Aarch64_16K>;
    aarch64_64k_kinds: "the same" = kinds::<Aarch64_64K>;
    aarch64_lpa2_kinds: "the same" = kinds::<Aarch64Lpa2>;
    aarch64_16k_lpa2_kinds: "the same" = kinds::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_kinds: "the same" = kinds::<Aarch64_64KLpa>;
    x86_64_key: "another key is read back and changes nothing else, of any entry" = with_key::<X86_64>;
    aarch64_key: "the same" = with_key::<Aarch64>;
    x86_64_la57_key: "the same" = with_key::<X86_64La57>;
    aarch64_16k_key: "the same" = with_key::<Aarch64_16K>;
    aarch64_64k_key: "the same" = with_key::<Aarch64_64K>;
    aarch64_lpa2_key: "the same" = with_key::<Aarch64Lpa2>;
    aarch64_16k_lpa2_key: "the same" = with_key::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_key: "the same" = with_key::<Aarch64_64KLpa>;
    x86_64_write_protected: "a write-protected entry cannot be written, is as dirty as before, and otherwise the same" = write_protected::<X86_64>;
    aarch64_write_protected: "the same" = write_protected::<Aarch64>;
    x86_64_la57_write_protected: "the same" = write_protected::<X86_64La57>;
    aarch64_16k_write_protected: "the same" = write_protected::<Aarch64_16K>;
    aarch64_64k_write_protected: "the same" = write_protected::<Aarch64_64K>;
    aarch64_lpa2_write_protected: "the same" = write_protected::<Aarch64Lpa2>;
    aarch64_16k_lpa2_write_protected: "the same" = write_protected::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_write_protected: "the same" = write_protected::<Aarch64_64KLpa>;
    x86_64_protection_taken_back: "a leaf of the linear map is what it was after its protection is taken back" = taken_back::<X86_64>;
    aarch64_protection_taken_back: "the same" = taken_back::<Aarch64>;
    x86_64_la57_protection_taken_back: "the same" = taken_back::<X86_64La57>;
    aarch64_16k_protection_taken_back: "the same" = taken_back::<Aarch64_16K>;
    aarch64_64k_protection_taken_back: "the same" = taken_back::<Aarch64_64K>;
    aarch64_lpa2_protection_taken_back: "the same" = taken_back::<Aarch64Lpa2>;
    aarch64_16k_lpa2_protection_taken_back: "the same" = taken_back::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_protection_taken_back: "the same" = taken_back::<Aarch64_64KLpa>;
    x86_64_old: "only the young flag is cleared" = old::<X86_64>;
    aarch64_old: "the same" = old::<Aarch64>;
    x86_64_la57_old: "the same" = old::<X86_64La57>;
    aarch64_16k_old: "the same" = old::<Aarch64_16K>;
    aarch64_64k_old: "the same" = old::<Aarch64_64K>;
    aarch64_lpa2_old: "the same" = old::<Aarch64Lpa2>;
    aarch64_16k_lpa2_old: "the same" = old::<Aarch64_16KLpa2>;
    aarch64_64k_lpa_old: "the same" = old::<Aarch64_64KLpa>;
    x86_64_settled: "a walker changes no entry that the code takes for settled (SDM 4.8)" = settled_x86_64;
    aarch64_settled: "the same (FEAT_HAFDBS)" = settled_aarch64;
    x86_64_alias: "an alias is for user mode, writable, never executable, of key 0" = alias::<X86_64>;
    aarch64_alias: "the same, and not global" = alias_aarch64;
    aarch64_alias_of_windows: "one that windows load a root for is for the kernel alone, and not global" = alias_of_windows;
    x86_64_writable: "what the code takes for read-only no CPU writes through (R/W is bit 1)" = writable_x86_64;
    aarch64_writable: "the same (AP[2] is bit 7, DBM bit 51)" = writable_aarch64;
    aarch64_contiguous: "only the mark of a run is set" = contiguous;
    aarch64_indirection: "by permission indirection an entry means to EL1 and EL0 what it means without, no more" = indirection_agrees;
    pkrs_closing: "closing closes page tables from any value of the register, and leaves other keys" = closing_pkrs;
    por_closing: "the same" = closing_por;
    pkrs_opening: "opening opens page tables alone" = opening_pkrs;
    por_opening: "the same" = opening_por;
    pkrs_decode: "what is read from the register is what the manual says, for every key" = decode_pkrs;
    por_decode: "the same" = decode_por;
    pan_control: "a CPU that is set up enforces, if it has PAN and E0PD, and no other bit is changed" = pan;
    range_new: "a range is made just of aligned, canonical addresses of one half" = range_new;
    range_contains: "a range contains the addresses from its start to its last" = range_contains;
    range_pieces: "pieces of a range are in one table each, as long as can be, and nothing is left out" = range_pieces;
    address_index: "an address is put together from its indices" = address_index;
    x86_64_la57_address_index: "the same, of five levels" = address_index_la57;
    x86_64_la57_range_new: "a range is made just of addresses of 57 bits" = range_new_la57;
    memory_frames: "frames and addresses of the linear map belong together" = memory_frames;
}

const LEVELS: [Level; 4] = [Level::Pte, Level::Pmd, Level::Pud, Level::Pgd];

#[inline(always)]
fn level(word: u64) -> Level {
    match word & 3 {
        0 => Level::Pte,
        1 => Level::Pmd,
        2 => Level::Pud,
        _ => Level::Pgd,
    }
}

#[inline(always)]
fn key(word: u64) -> Pkey {
    Pkey::new((word & 15) as u8).unwrap_or(Pkey::DEFAULT)
}

#[inline(always)]
fn attrs(word: u64) -> Attrs {
    let bit = |index: u32| word >> index & 1 == 1;
    Attrs {
        write: bit(4),
        execute: bit(5),
        user: bit(6),
        young: bit(7),
        dirty: bit(8),
        key: key(word),
        memory: match word >> 9 & 3 {
            0 => MemoryType::Normal,
            1 => MemoryType::WriteCombining,
            _ => MemoryType::Device,
        },
    }
}

/// An entry on its way through memory, so that the compiler does not conclude anything from how it was made.
#[inline(always)]
fn seen(entry: Entry) -> Entry {
    Entry(black_box(entry.0))
}

#[inline(always)]
fn same(a: Attrs, b: Attrs) -> bool {
    (a.write == b.write)
        & (a.execute == b.execute)
        & (a.user == b.user)
        & (a.young == b.young)
        & (a.dirty == b.dirty)
        & (a.key.number() == b.key.number())
        & (a.memory as u8 == b.memory as u8)
}

/// What the manuals say of a format (SDM vol. 3A, 4.5; Arm ARM D8.2 and D8.3), apart from the code.
trait Manual: Format {
    /// Bits of an offset into a page.
    const PAGE: u32;
    /// Bits of an index into a table.
    const INDEX: u32;
    /// Bits of a physical address.
    const PHYSICAL: u32;
    /// The highest level with blocks.
    const BLOCK: u64;
}

macro_rules! manual {
    ($($format:ident: $page:literal $index:literal $physical:literal $block:literal;)*) => {
        $(impl Manual for $format {
            const PAGE: u32 = $page;
            const INDEX: u32 = $index;
            const PHYSICAL: u32 = $physical;
            const BLOCK: u64 = $block;
        })*
    };
}

manual! {
    X86_64: 12 9 48 2;
    X86_64La57: 12 9 52 2;
    Aarch64: 12 9 48 2;
    Aarch64_16K: 14 11 48 1;
    Aarch64_64K: 16 13 48 1;
    Aarch64Lpa2: 12 9 52 3;
    Aarch64_16KLpa2: 14 11 52 2;
    Aarch64_64KLpa: 16 13 52 2;
}

#[inline(always)]
fn leaf<F: Manual>(frame: u64, of: u64, at: u64, _: u64) -> bool {
    let (level, of) = (level(at), attrs(of));
    let offset = (1 << (F::PAGE as u64 + F::INDEX as u64 * (at & 3))) - 1;
    let fits = at & 3 <= F::BLOCK
        && frame & offset == 0
        && frame >> F::PHYSICAL == 0
        && of.key.number() < F::KEYS;
    match F::leaf(level, PhysAddr(frame), of) {
        None => !fits,
        Some(entry) => {
            let entry = seen(entry);
            fits & F::is_present(entry)
                & F::is_leaf(level, entry)
                & (F::frame(level, entry).0 == frame)
                & same(F::attrs(entry), of)
                & (F::key(entry).number() == of.key.number())
                & (F::is_young(entry) == of.young)
                & !F::is_contiguous(entry)
        }
    }
}

#[inline(always)]
fn table<F: Manual>(frame: u64, user: u64, at: u64, _: u64) -> bool {
    let frame = frame & ((1 << F::PHYSICAL) - (1 << F::PAGE));
    let (entry, level) = (seen(F::table(PhysAddr(frame), user & 1 == 1)), level(at));
    at & 3 == 0
        || F::is_table(level, entry)
            & !F::is_leaf(level, entry)
            & (F::frame(level, entry).0 == frame)
}

#[inline(always)]
fn kinds<F: Manual>(entry: u64, at: u64, _: u64, _: u64) -> bool {
    let (entry, level) = (Entry(entry), level(at));
    let kinds = u8::from(!F::is_present(entry))
        + u8::from(F::is_table(level, entry))
        + u8::from(F::is_leaf(level, entry));
    let frame = F::frame(level, entry).0;
    (kinds == 1)
        & (frame & ((1 << F::PAGE) - 1) == 0)
        & (frame >> F::PHYSICAL == 0)
        & (F::key(entry).number() < F::KEYS)
}

#[inline(always)]
fn with_key<F: Format>(entry: u64, to: u64, at: u64, _: u64) -> bool {
    let (entry, to, level) = (Entry(entry), key(to), level(at));
    if to.number() >= F::KEYS {
        return true;
    }
    let new = seen(F::with_key(entry, to));
    (F::key(new).number() == to.number())
        & (F::with_key(new, F::key(entry)).0 == entry.0)
        & (F::frame(level, new).0 == F::frame(level, entry).0)
        & (F::is_writable(new) == F::is_writable(entry))
        & (F::is_present(new) == F::is_present(entry))
        & (F::is_table(level, new) == F::is_table(level, entry))
}

#[inline(always)]
fn write_protected<F: Format>(entry: u64, at: u64, _: u64, _: u64) -> bool {
    let (entry, level) = (Entry(entry), level(at));
    let new = seen(F::write_protected(entry));
    let (was, is) = (F::attrs(entry), F::attrs(new));
    !F::is_writable(new)
        & same(is, Attrs { write: false, ..was })
        & (F::frame(level, new).0 == F::frame(level, entry).0)
        & (F::is_present(new) == F::is_present(entry))
        & (F::is_table(level, new) == F::is_table(level, entry))
        & (F::write_protected(new).0 == new.0)
}

#[inline(always)]
fn taken_back<F: Format>(frame: u64, at: u64, _: u64, _: u64) -> bool {
    match F::leaf(level(at), PhysAddr(frame), Attrs::KERNEL_DATA) {
        None => true,
        Some(entry) => F::writable(seen(F::write_protected(entry))).0 == entry.0,
    }
}

#[inline(always)]
fn old<F: Format>(entry: u64, at: u64, _: u64, _: u64) -> bool {
    let (entry, level) = (Entry(entry), level(at));
    let new = seen(F::old(entry));
    !F::is_young(new)
        & same(F::attrs(new), Attrs { young: false, ..F::attrs(entry) })
        & ((entry.0 ^ new.0).count_ones_at_most_one())
        & (F::frame(level, new).0 == F::frame(level, entry).0)
}

/// `count_ones() <= 1` without the instruction for it.
trait AtMostOne {
    fn count_ones_at_most_one(self) -> bool;
}

impl AtMostOne for u64 {
    #[inline(always)]
    fn count_ones_at_most_one(self) -> bool {
        self & self.wrapping_sub(1) == 0
    }
}

#[inline(always)]
fn settled_x86_64(entry: u64, _: u64, _: u64, _: u64) -> bool {
    // A walker sets accessed (5) in what is present (0), and dirty (6) in what is writable (1).
    let may = entry & 1 != 0 && (entry >> 5 & 1 == 0 || entry >> 1 & 1 == 1 && entry >> 6 & 1 == 0);
    X86_64::walker_may_flag(Entry(entry)) == may
}

#[inline(always)]
fn settled_aarch64(entry: u64, _: u64, _: u64, _: u64) -> bool {
    // A walker sets AF (10) in what is valid (0), and clears AP[2] (7) where DBM (51) is set.
    let may =
        entry & 1 != 0 && (entry >> 10 & 1 == 0 || entry >> 51 & 1 == 1 && entry >> 7 & 1 == 1);
    Aarch64::walker_may_flag(Entry(entry)) == may
}

#[inline(always)]
fn alias<F: Format>(frame: u64, at: u64, _: u64, _: u64) -> bool {
    let level = level(at);
    match F::alias(level, PhysAddr(frame)) {
        None => F::leaf(level, PhysAddr(frame), Attrs::USER_DATA).is_none(),
        Some(entry) => {
            let entry = seen(entry);
            same(F::attrs(entry), Attrs::USER_DATA)
                & F::is_leaf(level, entry)
                & (F::frame(level, entry).0 == frame)
        }
    }
}

#[inline(always)]
fn alias_aarch64(frame: u64, at: u64, c: u64, d: u64) -> bool {
    // AP[1] is bit 6, nG bit 11, PXN 53, UXN 54.
    let bits = |entry: u64| entry >> 6 & 1 == 1 && entry >> 11 & 1 == 1 && entry >> 53 & 3 == 3;
    alias::<Aarch64>(frame, at, c, d)
        & Aarch64::alias(level(at), PhysAddr(frame)).is_none_or(|entry| bits(entry.0))
}

#[inline(always)]
fn alias_of_windows(frame: u64, at: u64, _: u64, _: u64) -> bool {
    let level = level(at);
    let bits = |entry: u64| entry >> 6 & 1 == 0 && entry >> 11 & 1 == 1 && entry >> 53 & 3 == 3;
    match Aarch64::alias_of_windows(level, PhysAddr(frame)) {
        None => Aarch64::alias(level, PhysAddr(frame)).is_none(),
        Some(entry) => {
            let entry = seen(entry);
            same(Aarch64::attrs(entry), Attrs::KERNEL_DATA)
                & Aarch64::is_leaf(level, entry)
                & (Aarch64::frame(level, entry).0 == frame)
                & bits(entry.0)
        }
    }
}

#[inline(always)]
fn writable_x86_64(entry: u64, _: u64, _: u64, _: u64) -> bool {
    X86_64::is_writable(seen(Entry(entry))) == (entry >> 1 & 1 == 1)
}

#[inline(always)]
fn writable_aarch64(entry: u64, _: u64, _: u64, _: u64) -> bool {
    // AP[2] clear: writable now. DBM set: becomes so by hardware.
    Aarch64::is_writable(seen(Entry(entry))) == (entry >> 7 & 1 == 0 || entry >> 51 & 1 == 1)
}

#[inline(always)]
fn contiguous(entry: u64, at: u64, _: u64, _: u64) -> bool {
    let (old, level) = (Entry(entry), level(at));
    let new = seen(Aarch64::contiguous(old));
    Aarch64::is_contiguous(new)
        & (new.0 & !(1 << 52) == entry & !(1 << 52))
        & same(Aarch64::attrs(new), Aarch64::attrs(old))
        & (Aarch64::frame(level, new).0 == Aarch64::frame(level, old).0)
}

#[inline(always)]
fn indirection_agrees(of: u64, _: u64, _: u64, _: u64) -> bool {
    let of = attrs(of);
    let Some(entry) = Aarch64::leaf(Level::Pte, PhysAddr(0), of) else {
        return of.key.number() >= 8;
    };
    // The index (Arm ARM D8.4): UXN, PXN, DBM, AP[1].
    let index = (entry.0 >> 54 & 1) << 3
        | (entry.0 >> 53 & 1) << 2
        | (entry.0 >> 51 & 1) << 1
        | entry.0 >> 6 & 1;
    let of_register = |register: u64| register >> (index * 4) & 0xf;
    // Read, write, execute of each encoding, 0x8 and up being those that overlays leave alone.
    let rwx = |encoding: u64| match encoding {
        0x0 => Some(0b000),
        0x1 | 0x8 => Some(0b100),
        0x3 | 0xa => Some(0b101),
        0x5 | 0xc => Some(0b110),
        _ => None,
    };
    let execute = of.execute && !of.write;
    let kernel = 0b100 | u64::from(of.write) << 1 | u64::from(execute && !of.user);
    let user = if of.user { 0b100 | u64::from(of.write) << 1 | u64::from(execute) } else { 0 };
    // Kernel mappings follow their key.
    let overlaid = of_register(indirection::PIR_EL1) < 8;
    (rwx(of_register(indirection::PIR_EL1)) == Some(kernel))
        & (rwx(of_register(indirection::PIRE0_EL1)) == Some(user))
        & (overlaid != of.user)
}

#[inline(always)]
fn field(register: u64, key: u64, bits: u64) -> u64 {
    register >> (key * bits) & ((1 << bits) - 1)
}

#[inline(always)]
fn closing_pkrs(register: u64, other: u64, _: u64, _: u64) -> bool {
    let (close, open) = (Update::of::<Pkrs, Default>(), Update::of::<Pkrs, PageTables>());
    let closed = black_box(close.apply(register));
    let other = other & 15;
    (field(closed, 1, 2) == 0b10)
        & (field(closed, 0, 2) == 0)
        & (closed >> 32 == 0)
        & (field(closed, 3, 2) == 0b10)
        & (other < 4 || field(closed, other, 2) == field(register, other, 2))
        & (close.apply(closed) == closed)
        & (close.apply(open.apply(register)) == closed)
}

#[inline(always)]
fn closing_por(register: u64, other: u64, _: u64, _: u64) -> bool {
    let (close, open) = (Update::of::<Por, Default>(), Update::of::<Por, PageTables>());
    let closed = black_box(close.apply(register));
    let other = other & 7;
    (field(closed, 1, 4) == 0b0001)
        & (field(closed, 0, 4) == 0b0111)
        & (closed & 0xffff_ffff_8888_8888 == 0)
        & (field(closed, 3, 4) == 0b0001)
        & (other < 4 || field(closed, other, 4) == field(register, other, 4) & 7)
        & (close.apply(closed) == closed)
        & (close.apply(open.apply(register)) == closed)
}

#[inline(always)]
fn opening_pkrs(register: u64, other: u64, _: u64, _: u64) -> bool {
    let (open, other) = (Update::of::<Pkrs, PageTables>().apply(register), other & 15);
    let closed = Update::of::<Pkrs, Default>().apply(register);
    (field(open, 1, 2) == 0)
        & (open >> 32 == 0)
        & (other == 1 || field(open, other, 2) == field(closed, other, 2))
}

#[inline(always)]
fn opening_por(register: u64, other: u64, _: u64, _: u64) -> bool {
    let (open, other) = (Update::of::<Por, PageTables>().apply(register), other & 7);
    let closed = Update::of::<Por, Default>().apply(register);
    (field(open, 1, 4) == 0b0101)
        & (open & 0xffff_ffff_8888_8888 == 0)
        & (other == 1 || field(open, other, 4) == field(closed, other, 4))
}

#[inline(always)]
fn access(read: bool, write: bool) -> u8 {
    match (read, write) {
        (true, true) => Access::ReadWrite as u8,
        (true, false) => Access::ReadOnly as u8,
        (false, _) => Access::NoAccess as u8,
    }
}

#[inline(always)]
fn is<E: Encoding>(register: u64, of: u64, expected: Option<u8>) -> bool {
    decode::<E>(register, key(of)).map(|access| access as u8) == expected
}

#[inline(always)]
fn decode_pkrs(register: u64, of: u64, _: u64, _: u64) -> bool {
    // AD denies both, WD stores (SDM 5.6.2).
    let (ad, wd) = (register >> (2 * (of & 15)) & 1, register >> (2 * (of & 15) + 1) & 1);
    is::<Pkrs>(register, of, Some(access(ad == 0, ad == 0 && wd == 0)))
}

#[inline(always)]
fn decode_por(register: u64, of: u64, _: u64, _: u64) -> bool {
    let bits = register >> (4 * (of & 7));
    let expected = (of & 15 < 8).then(|| access(bits & 1 == 1, bits & 0b100 != 0));
    is::<Por>(register, of, expected)
}

#[inline(always)]
fn pan(mmfr1: u64, mmfr2: u64, sctlr: u64, tcr: u64) -> bool {
    let control = Control { mmfr1, mmfr2, sctlr, tcr };
    let has = mmfr1 >> 20 & 0xf != 0 && mmfr2 >> 60 != 0;
    let set = control.enforcing();
    // SPAN is bit 23 of SCTLR_EL1, E0PD1 bit 56 of TCR_EL1.
    let enforces = has && sctlr >> 23 & 1 == 0 && tcr >> 56 & 1 == 1;
    (control.supported().is_ok() == has)
        & (set.verify().is_ok() == has)
        & (control.verify().is_ok() == enforces)
        & (set.sctlr ^ sctlr == sctlr & 1 << 23)
        & (set.tcr ^ tcr == !tcr & 1 << 56)
        & (set.mmfr1 == mmfr1)
        & (set.mmfr2 == mmfr2)
}

/// Bits 63 to 47, all of which are the same in a canonical address.
#[inline(always)]
fn half(va: u64) -> u64 {
    va >> 47
}

#[inline(always)]
fn range(start: u64, pages: u64) -> Option<PageRange<X86_64>> {
    PageRange::new(VirtAddr(start), pages as usize).ok()
}

#[inline(always)]
fn range_new(start: u64, pages: u64, _: u64, _: u64) -> bool {
    // The last byte, if that is a number of 64 bits.
    let fits = pages != 0 && pages <= 1 << 35;
    let last = start.wrapping_add((pages << 12).wrapping_sub(1));
    let canonical = half(start) == 0 || half(start) == 0x1_ffff;
    let expected =
        start & 0xfff == 0 && fits && canonical && half(last) == half(start) && last >= start;
    match range(start, pages) {
        None => !expected,
        Some(range) => {
            expected
                & (range.start().0 == start)
                & (range.pages() as u64 == pages)
                & (range.end().0 == last.wrapping_add(1))
        }
    }
}

#[inline(always)]
fn range_contains(start: u64, pages: u64, va: u64, _: u64) -> bool {
    let Some(range) = range(start, pages) else { return true };
    let last = start + ((pages << 12) - 1);
    range.contains(VirtAddr(va)) == (start <= va && va <= last)
}

#[inline(always)]
fn range_pieces(start: u64, pages: u64, at: u64, _: u64) -> bool {
    let Some(range) = range(start, pages) else { return true };
    let (level, shift) = (level(at), 12 + 9 * ((at & 3) + 1));
    let mut pieces = range.by_table(level);
    let Some(first) = pieces.next() else { return false };
    let last = first.start().0 + ((first.pages() as u64) << 12) - 1;
    let whole = first.pages() as u64 == pages;
    let to_the_end = (last + 1) & ((1 << shift) - 1) == 0;
    let goes_on = match pieces.next() {
        None => whole,
        Some(second) => !whole & (second.start().0 == last.wrapping_add(1)),
    };
    (first.start().0 == start)
        & (first.pages() != 0)
        & (first.pages() as u64 <= pages)
        & (start >> shift == last >> shift)
        & (whole | to_the_end)
        & goes_on
}

#[inline(always)]
fn address_index(va: u64, _: u64, _: u64, _: u64) -> bool {
    let address = VirtAddr(va);
    let sum = LEVELS.iter().fold(va & 0xfff, |sum, &level| {
        sum | (address.index::<X86_64>(level) as u64) << (12 + 9 * level as u64)
    });
    let canonical = half(va) == 0 || half(va) == 0x1_ffff;
    let extended = if sum >> 47 == 1 { sum | 0xffff << 48 } else { sum };
    LEVELS.iter().all(|&level| address.index::<X86_64>(level) < 512)
        & (address.is_canonical::<X86_64>() == canonical)
        & (!canonical || extended == va)
        & (address.is_kernel() == (va >> 63 == 1))
}

#[inline(always)]
fn address_index_la57(va: u64, _: u64, _: u64, _: u64) -> bool {
    let address = VirtAddr(va);
    let sum = Level::ALL.iter().fold(va & 0xfff, |sum, &level| {
        sum | (address.index::<X86_64La57>(level) as u64) << (12 + 9 * level as u64)
    });
    let canonical = va >> 56 == 0 || va >> 56 == 0xff;
    let extended = if sum >> 56 == 1 { sum | 0x7f << 57 } else { sum };
    Level::ALL.iter().all(|&level| address.index::<X86_64La57>(level) < 512)
        & (address.is_canonical::<X86_64La57>() == canonical)
        & (!canonical || extended == va)
}

#[inline(always)]
fn range_new_la57(start: u64, pages: u64, _: u64, _: u64) -> bool {
    let canonical = start >> 56 == 0 || start >> 56 == 0xff;
    let to_end = ((1 << 56) - (start & ((1 << 56) - 1))) >> 12;
    let good = (start & 0xfff == 0) & (pages != 0) & canonical & (pages <= to_end);
    let made = PageRange::<X86_64La57>::new(VirtAddr(start), pages as usize);
    made.is_ok_and(|range| range.start().0 == start && range.pages() as u64 == pages) == good
}

#[inline(always)]
fn memory_frames(pa: u64, start: u64, pages: u64, count: u64) -> bool {
    // Memory as a machine has it: below 2^48, in whole GiB from its start.
    let (start, pages) = (start & 0x0000_ffff_c000_0000, pages & ((1 << 36) - 1));
    let memory =
        Memory::<X86_64>::new(PhysAddr(start), pages as usize, VirtAddr(0xffff_8880_0000_0000));
    let bytes = pages * X86_64::PAGE_SIZE;
    let inside = pa >= start && pa - start < bytes;
    let frame = pa & !0xfff;
    let number = memory.frame_number(PhysAddr(frame));
    let counted = count == 0 || count <= pages - (pa.wrapping_sub(start) >> 12).min(pages);
    (memory.contains(PhysAddr(pa), 1) == inside)
        & (!inside || (number as u64) < pages && memory.frame(number).0 == frame)
        & (!inside || memory.linear_address(PhysAddr(pa)).0 - memory.linear.0 == pa - start)
        & (!inside || memory.contains(PhysAddr(pa), count as usize) == counted)
}
