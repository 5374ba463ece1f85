//! Whatever is wrong with an archive or a program is named, and nothing panics.

use kpkeys_program::executable::{self, Error, Machine};
use kpkeys_program::initramfs::{self, Problem};
use kpkeys_program::stack::{self, Contents, TooLong};
use proptest::prelude::*;

/// A file as an archive has it.
fn file(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let fields = [7, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    let mut bytes = b"070701".to_vec();
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive() -> Vec<u8> {
    let files = [
        file(".", 0o040_755, &[]),
        file("./bin", 0o040_755, &[]),
        file("/bin/sh", 0o100_755, b"contents"),
        file("link", 0o120_777, b"bin/sh"),
        file("TRAILER!!!", 0, &[]),
    ];
    files.concat()
}

#[test]
fn an_archive_is_read_file_by_file() {
    let archive = archive();
    let read: Result<Vec<_>, _> = initramfs::entries(&archive).collect();
    let read = read.unwrap();
    let names: Vec<_> = read.iter().map(|entry| entry.path).collect();
    assert_eq!(names, ["", "bin", "bin/sh", "link"]);
    assert_eq!((read[2].data, read[2].mode), (&b"contents"[..], 0o100_755));
    assert_eq!(read[3].data, b"bin/sh");
}

#[test]
fn archives_follow_one_another() {
    let both = [archive(), vec![0; 512], archive(), vec![0; 12]].concat();
    assert_eq!(initramfs::entries(&both).filter_map(Result::ok).count(), 8);
}

#[test]
fn an_archive_cut_anywhere_is_cut_short() {
    let archive = archive();
    let whole = archive.len();
    for end in 0..whole {
        let last = initramfs::entries(&archive[..end]).last();
        let problem = last.map(|last| last.map_err(|error| error.problem));
        // The padding of the trailer may be missing.
        if end >= whole - 3 {
            continue;
        }
        assert_eq!(problem.unwrap().unwrap_err(), Problem::CutShort, "cut at {end}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let problem = |bytes: &[u8]| initramfs::entries(bytes).last().unwrap().unwrap_err().problem;
    assert_eq!(problem(&[0x1f; 200]), Problem::NoHeader);
    assert_eq!(problem(&file("../etc/passwd", 0, &[])), Problem::Climbs);
    assert_eq!(problem(&file("a/../../b", 0, &[])), Problem::Climbs);
    assert_eq!(problem(&file("", 0, &[])), Problem::BadName);
    let mut damaged = file("name", 0, &[]);
    damaged[6 + 6 * 8] = b'x';
    assert_eq!(problem(&damaged), Problem::NotANumber("filesize"));
    let mut huge = file("name", 0, &[]);
    huge[6 + 6 * 8..][..8].copy_from_slice(b"ffffffff");
    assert_eq!(problem(&huge), Problem::CutShort);
}

/// Bytes of a page.
const PAGE: u64 = 4096;

type Executable<'a> = executable::Executable<'a, PAGE>;

/// A program of two segments, for x86-64.
fn program() -> Vec<u8> {
    let mut bytes = vec![0; 3 * PAGE as usize];
    bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &0x40_1000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    for (place, (flags, offset, address, in_file, in_memory)) in [
        (5_u32, 0_u64, 0x40_0000_u64, 0x1800_u64, 0x1800_u64),
        (6, 0x1800, 0x40_2800, 0x100, 0x3000),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 64 + place * 56;
        put(at, &1_u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (word, value) in [offset, address, address, in_file, in_memory, PAGE].iter().enumerate()
        {
            put(at + 8 + 8 * word, &value.to_le_bytes());
        }
    }
    bytes
}

/// Sets a word of the second program header.
fn with(word: usize, value: u64) -> Vec<u8> {
    let mut bytes = program();
    bytes[64 + 56 + 8 * word..][..8].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Result<Executable<'_>, Error> {
    Executable::parse(bytes, Machine::X86_64)
}

#[test]
fn a_program_is_read_segment_by_segment() {
    let bytes = program();
    let program = parse(&bytes).unwrap();
    assert_eq!((program.entry, program.headers, program.movable), (0x40_1000, 0x40_0040, false));
    assert_eq!(program.span(), (0x40_0000, 0x40_6000));
    assert_eq!((program.segments[0].execute, program.segments[0].write), (true, false));
    assert_eq!((program.segments[1].in_file, program.segments[1].in_memory), (0x100, 0x3000));
}

#[test]
fn what_is_wrong_with_a_program_is_named() {
    assert_eq!(parse(b"#!/bin/sh\n").unwrap_err(), Error::NotElf);
    assert_eq!(
        Executable::parse(&program(), Machine::Aarch64).unwrap_err(),
        Error::OtherMachine(62, Machine::Aarch64)
    );
    // File offset, address, bytes in the file, bytes in memory.
    assert_eq!(parse(&with(1, 1 << 40 | 0x800)).unwrap_err(), Error::BadSegment(1));
    assert_eq!(parse(&with(2, 1 << 47 | 0x800)).unwrap_err(), Error::BadSegment(1));
    assert_eq!(parse(&with(2, u64::MAX - 0x7ff)).unwrap_err(), Error::BadSegment(1));
    assert_eq!(parse(&with(2, 0x40_1800)).unwrap_err(), Error::BadSegment(1));
    assert_eq!(parse(&with(2, 0x40_2801)).unwrap_err(), Error::Misaligned(1));
    assert_eq!(parse(&with(4, 0x4000)).unwrap_err(), Error::BadSegment(1));
    assert_eq!(parse(&with(5, u64::MAX)).unwrap_err(), Error::BadSegment(1));
    // On pages of 16 KiB the second segment begins in the page that the first is in.
    let short = program();
    let on_long_pages = executable::Executable::<16384>::parse(&short, Machine::X86_64);
    assert_eq!(on_long_pages.unwrap_err(), Error::BadSegment(1));
    let mut elsewhere = program();
    elsewhere[24..32].copy_from_slice(&0x40_2800_u64.to_le_bytes());
    assert_eq!(parse(&elsewhere).unwrap_err(), Error::BadEntry(0x40_2800));
    for end in 4..64 + 2 * 56 {
        assert!(parse(&program()[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_stack_is_aligned_and_points_to_its_texts() {
    let top = 0x7fff_0000;
    let arguments = [b"sh".to_vec(), b"-c".to_vec()];
    let contents = Contents {
        arguments: &arguments,
        environment: &[b"HOME=/".to_vec()],
        auxiliary: &[(6, 4096)],
        file: b"/bin/sh",
        platform: b"x86_64",
        random: [9; 16],
    };
    let stack = stack::layout(top, &contents).unwrap();
    let word = |place: usize| u64::from_le_bytes(stack.bytes[8 * place..][..8].try_into().unwrap());
    let text = |address: u64| {
        let bytes = &stack.bytes[(address - stack.pointer) as usize..];
        bytes.split(|&byte| byte == 0).next().unwrap().to_vec()
    };
    assert_eq!((stack.pointer % 16, stack.pointer + stack.bytes.len() as u64), (0, top));
    assert_eq!(
        (word(0), text(word(1)), text(word(2)), word(3)),
        (2, b"sh".to_vec(), b"-c".to_vec(), 0)
    );
    assert_eq!((text(word(4)), word(5), word(6), word(7)), (b"HOME=/".to_vec(), 0, 6, 4096));
    let long = [vec![b'a'; stack::MAX_BYTES]];
    let refused = stack::layout(top, &Contents { arguments: &long, ..contents });
    assert_eq!(refused, Err(TooLong));
}

proptest! {
    /// One word of a program changed to anything: an answer, and one whose promises hold.
    #[test]
    fn damaged_programs_are_refused_or_fit(at in 0_usize..176, value: [u8; 8]) {
        let mut bytes = program();
        bytes[at..at + 8].copy_from_slice(&value);
        if let Ok(program) = parse(&bytes) {
            let mut behind = 0;
            for segment in &program.segments {
                prop_assert!(segment.first_page() >= behind);
                prop_assert!(segment.offset + segment.in_file <= bytes.len() as u64);
                prop_assert!(segment.in_file <= segment.in_memory && segment.end() <= 1 << 46);
                behind = segment.last_page_end();
            }
        }
    }

    /// Any bytes, and any bytes in the middle of an archive: no panic, and an end.
    #[test]
    fn damaged_archives_are_read_to_an_end(at in 0_usize..600, junk: Vec<u8>) {
        let mut bytes = archive();
        let at = at.min(bytes.len());
        bytes.splice(at..at, junk.iter().copied());
        prop_assert!(initramfs::entries(&bytes).count() <= bytes.len() + 1);
        prop_assert!(initramfs::entries(&junk).count() <= junk.len() + 1);
    }
}
