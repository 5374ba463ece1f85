//! ELF files, made by hand: code, and the names of functions in it.

/// Where the code of every file made here begins.
pub const BASE: u64 = 0xffff_ffff_8100_0000;
pub const X86_64: u16 = 62;
pub const AARCH64: u16 = 183;
/// ELF types (System V ABI, figure 4-3).
pub const RELOCATABLE: u16 = 1;
pub const EXECUTABLE: u16 = 2;
pub const CORE: u16 = 4;

/// An executable without sections: one segment, readable and executable.
pub fn stripped(machine: u16, code: &[u8]) -> Vec<u8> {
    let mut file = header(EXECUTABLE, machine);
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 56, &1u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    let len = code.len() as u64;
    for word in [120, BASE, BASE, len, len, 16] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// An executable with sections, in which functions have names: offset into the code, and name. Names that begin with `$` are no
/// functions.
pub fn named(machine: u16, code: &[u8], names: &[(u64, &str)]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    for (offset, name) in names {
        symbols.extend((strings.len() as u32).to_le_bytes());
        strings.extend(name.bytes().chain([0]));
        symbols.extend([if name.starts_with('$') { 0 } else { 2 }, 0, 1, 0]);
        symbols.extend((BASE + offset).to_le_bytes());
        symbols.extend(0u64.to_le_bytes());
    }
    let section_names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0";
    let mut file = header(EXECUTABLE, machine);
    let parts = [code, &symbols, &strings, section_names];
    let offsets = parts.map(|part| {
        file.resize(file.len().next_multiple_of(8), 0);
        file.extend(part);
        (file.len() - part.len()) as u64
    });
    file.resize(file.len().next_multiple_of(8), 0);
    let table = file.len() as u64;
    // Name, type, flags, address, and what it is linked with, its first global symbol, and the size of its entries.
    let sections: [(u32, u32, u64, u64, u32, u32, u64); 4] = [
        (1, 1, 6, BASE, 0, 0, 0),
        (7, 2, 0, 0, 3, 1, 24),
        (15, 3, 0, 0, 0, 0, 0),
        (23, 3, 0, 0, 0, 0, 0),
    ];
    file.extend([0; 64]);
    for (index, (name, kind, flags, address, link, info, entry)) in sections.into_iter().enumerate()
    {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        file.extend(address.to_le_bytes());
        file.extend(offsets[index].to_le_bytes());
        file.extend((parts[index].len() as u64).to_le_bytes());
        file.extend(link.to_le_bytes());
        file.extend(info.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(entry.to_le_bytes());
    }
    put(&mut file, 40, &table.to_le_bytes());
    put(&mut file, 58, &[64, 0, 5, 0, 4, 0]);
    file
}

/// The header alone: 64 bytes.
pub fn header(kind: u16, machine: u16) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    put(&mut file, 16, &kind.to_le_bytes());
    put(&mut file, 18, &machine.to_le_bytes());
    put(&mut file, 20, &1u32.to_le_bytes());
    put(&mut file, 24, &BASE.to_le_bytes());
    put(&mut file, 52, &[64, 0, 56, 0]);
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Words of arm64 code.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
