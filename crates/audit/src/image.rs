//! An image: its code by address, and the names that addresses have.
//!
//! Code is what the file says is executable: sections with that flag, or, where an ELF file has no sections any more, segments.

use object::read::elf::{ElfFile64, FileHeader as _};
use object::read::pe::PeFile64;
use object::{
    Architecture as Machine, BinaryFormat, Endianness, Object, ObjectKind, ObjectSection,
    ObjectSegment, ObjectSymbol, SectionFlags, SegmentFlags, SymbolKind,
};
use serde::Serialize;

use crate::Error;

/// What the code is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// x86-64.
    #[serde(rename = "x86_64")]
    X86_64,
    /// arm64.
    Aarch64,
}

/// Executable bytes and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl Text<'_> {
    /// The address after the last byte. It wraps to 0 at the end of the address space.
    pub fn end(&self) -> u64 {
        self.address.wrapping_add(self.bytes.len() as u64)
    }

    /// Where an address is in it.
    pub fn offset(&self, address: u64) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        (offset < self.bytes.len()).then_some(offset)
    }
}

/// A name that an address in the code has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Symbol {
    /// Its address.
    pub address: u64,
    /// Bytes that belong to it; 0 if the file does not say.
    pub size: u64,
    /// As the file has it.
    pub name: String,
    /// Whether it is said to be a function.
    pub is_function: bool,
}

/// An image that was understood.
#[derive(Debug)]
pub struct Image<'a> {
    /// The file behind it.
    pub(crate) file: object::File<'a>,
    /// `ELF` or `PE`.
    pub format: &'static str,
    /// What the code is for.
    pub architecture: Architecture,
    /// Its code, by address.
    pub text: Vec<Text<'a>>,
    /// Names in it, by address.
    pub symbols: Vec<Symbol>,
    /// Data among code, where the file says so: first address, and the one after the last.
    pub(crate) data: Vec<(u64, u64)>,
}

impl<'a> Image<'a> {
    /// Reads an image.
    ///
    /// # Errors
    ///
    /// Each of [`Error`], for what its name says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let file = open(bytes)?;
        let format = if file.format() == BinaryFormat::Elf { "ELF" } else { "PE" };
        let broken = |error: object::Error| Error::Broken { format, reason: error.to_string() };
        let architecture = architecture(&file)?;
        let mut text = sections(&file).map_err(broken)?;
        if text.is_empty() {
            text = segments(&file).map_err(broken)?;
        }
        text.retain(|text| {
            !text.bytes.is_empty() && text.address.checked_add(text.bytes.len() as u64).is_some()
        });
        if text.is_empty() {
            return Err(Error::NoText);
        }
        text.sort_by_key(|text| text.address);
        let mut symbols = symbols(&file, &text);
        let data = data(&symbols, &text);
        symbols.retain(|symbol| !is_mapping(&symbol.name));
        Ok(Image { file, format, architecture, text, symbols, data })
    }

    /// Addresses at which code surely begins: the entry point and functions, ascending.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let functions = self.symbols.iter().filter(|symbol| symbol.is_function);
        let mut starts: Vec<u64> = functions.map(|symbol| symbol.address).collect();
        starts.push(self.file.entry());
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// Whether an address holds data among code.
    pub(crate) fn is_data(&self, address: u64) -> bool {
        let after = self.data.partition_point(|(start, _)| *start <= address);
        self.data[..after].last().is_some_and(|(_, end)| address < *end)
    }

    /// The name an address belongs to, and how far into it the address is.
    pub fn symbol(&self, address: u64) -> Option<(&Symbol, u64)> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        // The nearest one, unless it says it ends before; a label inside a function says nothing of its end.
        self.symbols[..after].iter().rev().take(8).find_map(|symbol| {
            let offset = address - symbol.address;
            (symbol.size == 0 || offset < symbol.size).then_some((symbol, offset))
        })
    }
}

fn open(bytes: &[u8]) -> Result<object::File<'_>, Error> {
    if let Some(refusal) = refuse(bytes) {
        return Err(refusal);
    }
    if bytes.starts_with(b"\x7fELF") {
        let broken =
            |error: object::Error| Error::Broken { format: "ELF", reason: error.to_string() };
        let header = object::elf::FileHeader64::<Endianness>::parse(bytes).map_err(broken)?;
        header.endian().map_err(broken)?;
        return ElfFile64::<Endianness>::parse(bytes).map(object::File::Elf64).map_err(broken);
    }
    let broken = |error: object::Error| Error::Broken { format: "PE", reason: error.to_string() };
    PeFile64::parse(bytes).map(object::File::Pe64).map_err(broken)
}

/// What can be told from the first bytes to be something else than can be audited.
fn refuse(bytes: &[u8]) -> Option<Error> {
    let at = |offset: usize, magic: &[u8]| {
        bytes.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
    };
    if at(0, b"\x7fELF") {
        return refuse_elf(bytes);
    }
    // Documentation/arch/x86/boot.rst: `HdrS` at 0x202. drivers/firmware/efi/libstub/zboot-header.S: `zimg` at 4.
    if at(0x202, b"HdrS") {
        return Some(Error::CompressedLinux { form: "bzImage" });
    }
    if at(0, b"MZ") && at(4, b"zimg") {
        return Some(Error::CompressedLinux { form: "EFI zboot" });
    }
    if at(0, b"MZ") {
        return refuse_pe(bytes);
    }
    // Documentation/arch/arm64/booting.rst: `ARM\x64` at 56.
    if at(56, b"ARM\x64") {
        return Some(Error::Flat);
    }
    // UEFI PI specification, volume 3, section 3.2.1: `_FVH` at 40.
    if at(40, b"_FVH") {
        return Some(Error::FirmwareVolume);
    }
    let compressed: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ];
    if let Some((_, form)) = compressed.into_iter().find(|(magic, _)| at(0, magic)) {
        return Some(Error::Compressed { form });
    }
    let shown = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let start = if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") };
    Some(Error::NotAnImage { start })
}

/// By the identification and the first fields of the header (System V ABI, chapter 4), which have their places in every class.
fn refuse_elf(bytes: &[u8]) -> Option<Error> {
    let (Some(&class), Some(&data)) = (bytes.get(4), bytes.get(5)) else { return None };
    let big = data == object::elf::ELFDATA2MSB;
    let half = |offset: usize| {
        let pair: [u8; 2] = bytes.get(offset..offset + 2)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
    };
    if class == object::elf::ELFCLASS32 {
        return Some(Error::ThirtyTwoBit {
            architecture: format!("ELF machine {}", half(18).unwrap_or(0)),
        });
    }
    if big {
        return Some(Error::BigEndian);
    }
    match half(16)? {
        object::elf::ET_REL => Some(Error::Relocatable),
        object::elf::ET_CORE => Some(Error::Core),
        _ => None,
    }
}

/// By the COFF header (Microsoft PE format, "COFF File Header").
fn refuse_pe(bytes: &[u8]) -> Option<Error> {
    let word = |offset: usize| {
        bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
    };
    let header = word(0x3c)? as usize;
    if word(header)? != object::pe::IMAGE_NT_SIGNATURE {
        return None;
    }
    let machine = word(header.checked_add(4)?)? as u16;
    let thirty_two = [object::pe::IMAGE_FILE_MACHINE_I386, object::pe::IMAGE_FILE_MACHINE_ARMNT];
    thirty_two
        .contains(&machine)
        .then(|| Error::ThirtyTwoBit { architecture: format!("PE machine {machine:#x}") })
}

fn architecture(file: &object::File<'_>) -> Result<Architecture, Error> {
    if file.kind() == ObjectKind::Relocatable {
        return Err(Error::Relocatable);
    }
    match file.architecture() {
        Machine::X86_64 => Ok(Architecture::X86_64),
        Machine::Aarch64 => Ok(Architecture::Aarch64),
        Machine::Unknown => {
            Err(Error::Architecture { architecture: "an architecture with no name here".into() })
        }
        other => Err(Error::Architecture { architecture: format!("{other:?}") }),
    }
}

fn sections<'a>(file: &object::File<'a>) -> Result<Vec<Text<'a>>, object::Error> {
    let mut text = Vec::new();
    for section in file.sections() {
        let executable = match section.flags() {
            SectionFlags::Elf { sh_flags } => {
                let wanted = u64::from(object::elf::SHF_EXECINSTR | object::elf::SHF_ALLOC);
                sh_flags & wanted == wanted
            }
            SectionFlags::Coff { characteristics } => {
                characteristics & object::pe::IMAGE_SCN_MEM_EXECUTE != 0
            }
            _ => false,
        };
        if executable {
            text.push(Text { address: section.address(), bytes: section.data()? });
        }
    }
    Ok(text)
}

fn segments<'a>(file: &object::File<'a>) -> Result<Vec<Text<'a>>, object::Error> {
    let mut text = Vec::new();
    for segment in file.segments() {
        if matches!(segment.flags(), SegmentFlags::Elf { p_flags } if p_flags & object::elf::PF_X != 0)
        {
            text.push(Text { address: segment.address(), bytes: segment.data()? });
        }
    }
    Ok(text)
}

fn symbols(file: &object::File<'_>, text: &[Text<'_>]) -> Vec<Symbol> {
    let in_text = |address: u64| text.iter().any(|text| text.offset(address).is_some());
    let mut symbols: Vec<Symbol> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| {
            !symbol.is_undefined()
                && matches!(
                    symbol.kind(),
                    SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown
                )
                && in_text(symbol.address())
        })
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some(Symbol {
                address: symbol.address(),
                size: symbol.size(),
                name: name.to_owned(),
                is_function: symbol.kind() == SymbolKind::Text,
            })
        })
        .collect();
    // Of several names at one address, a function's comes last, which is the one that is found first.
    symbols.sort_by(|a, b| {
        let key = |s: &Symbol| (s.address, s.is_function, s.size);
        key(a).cmp(&key(b)).then_with(|| b.name.cmp(&a.name))
    });
    symbols.dedup_by(|a, b| a.address == b.address && a.name == b.name);
    symbols
}

/// Mapping symbols tell code from data (ELF for the Arm 64-bit Architecture, section 4.5.4): `$x`, `$d`, and with a dot and more.
fn is_mapping(name: &str) -> bool {
    matches!(name.as_bytes(), [b'$', b'x' | b'd'] | [b'$', b'x' | b'd', b'.', ..])
}

/// From each `$d` to the next mapping symbol.
fn data(symbols: &[Symbol], text: &[Text<'_>]) -> Vec<(u64, u64)> {
    let mapping: Vec<_> = symbols.iter().filter(|symbol| is_mapping(&symbol.name)).collect();
    let next = mapping.iter().skip(1).map(|symbol| symbol.address).chain([u64::MAX]);
    let ends =
        |start: u64| text.iter().find(|text| text.offset(start).is_some()).map_or(start, Text::end);
    mapping
        .iter()
        .zip(next)
        .filter(|(symbol, _)| symbol.name.starts_with("$d"))
        .map(|(symbol, next)| (symbol.address, next.min(ends(symbol.address))))
        .collect()
}
