//! What is just taken, and what is just refused.

use kpkeys_program::executable::{self, Error, MAX_SEGMENTS, Machine};
use kpkeys_program::initramfs::{self, Problem};
use kpkeys_program::stack::{self, Contents, TooLong};

/// Bytes of a page.
const PAGE: u64 = 4096;

type Executable<'a> = executable::Executable<'a, PAGE>;
type Segment = executable::Segment<PAGE>;

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
/// Types of ELF files: one that is linked, one that lies where it says, one that may lie anywhere.
const LINKABLE: u16 = 1;
const FIXED: u16 = 2;
const MOVABLE: u16 = 3;
/// Flags of segments.
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;
/// First address behind those of programs.
const END: u64 = 1 << 46;

/// A program header.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

/// The first page of the file.
const CODE: Header = Header {
    kind: LOAD,
    flags: READ | EXECUTE,
    offset: 0,
    address: 0x40_1000,
    in_file: PAGE,
    in_memory: PAGE,
};
/// The second page.
const DATA: Header =
    Header { flags: READ | WRITE, offset: PAGE, address: 0x40_3000, in_file: PAGE, ..CODE };

/// A file of three pages for x86-64, whose headers begin at byte 64; the third page is of `a`.
fn elf(kind: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([kind, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([entry, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64, 56, headers.len() as u16, 64, 0, 0].map(u16::to_le_bytes).concat());
    for header in headers {
        let Header { kind, flags, offset, address, in_file, in_memory } = *header;
        file.extend([kind, flags].map(u32::to_le_bytes).concat());
        let words = [offset, address, address, in_file, in_memory, PAGE];
        file.extend(words.map(u64::to_le_bytes).concat());
    }
    file.resize(2 * PAGE as usize, 0);
    file.resize(3 * PAGE as usize, b'a');
    file
}

/// What is found of a program with these headers that begins where its code does.
fn found(headers: &[Header]) -> Result<Executable<'static>, Error> {
    parsed(&elf(FIXED, CODE.address, headers)).map(Executable::detached)
}

fn parsed(file: &[u8]) -> Result<Executable<'_>, Error> {
    Executable::parse(file, Machine::X86_64)
}

#[test]
fn a_segment_may_end_where_the_file_and_the_addresses_end() {
    let last = Header { address: END - PAGE, ..CODE };
    assert_eq!(found(&[CODE, last]).unwrap().span(), (CODE.address, END));
    let late = Header { in_memory: PAGE + 1, ..last };
    assert_eq!(found(&[CODE, late]), Err(Error::BadSegment(1)));
    let whole = Header { in_file: 3 * PAGE, in_memory: 3 * PAGE, ..CODE };
    assert_eq!(found(&[whole]).unwrap().segments[0].in_file, 3 * PAGE);
    let long = Header { in_file: 3 * PAGE + 1, in_memory: 4 * PAGE, ..CODE };
    assert_eq!(found(&[long]), Err(Error::BadSegment(0)));
}

#[test]
fn a_segment_begins_in_the_page_behind_the_one_before_or_later() {
    // From an odd page to an even one, and the other way round.
    for start in [0x40_1000, 0x40_2000] {
        let first = Header { address: start, ..CODE };
        let next = Header { offset: PAGE + 8, address: start + PAGE + 8, in_file: 8, ..DATA };
        let program = parsed(&elf(FIXED, start, &[first, next])).map(Executable::detached).unwrap();
        assert_eq!(program.segments[1].first_page(), start + PAGE);
        let within = Header { address: start + 8, ..next };
        let refused = parsed(&elf(FIXED, start, &[first, within])).map(Executable::detached);
        assert_eq!(refused, Err(Error::BadSegment(1)));
    }
}

#[test]
fn segments_without_a_byte_are_left_out() {
    let empty = Header { address: 0, in_file: 0, in_memory: 0, ..DATA };
    assert_eq!(found(&[CODE, empty, DATA]), found_with_count(&[CODE, DATA], 3));
    assert_eq!(found(&[empty]), Err(Error::NoSegments));
    assert_eq!(found(&[]), Err(Error::NoSegments));
}

fn found_with_count(headers: &[Header], header_count: u64) -> Result<Executable<'static>, Error> {
    found(headers).map(|program| Executable { header_count, ..program })
}

#[test]
fn as_many_segments_as_can_be_kept_are_taken() {
    let segments: Vec<_> = (0..=MAX_SEGMENTS as u64)
        .map(|number| Header { address: CODE.address + number * PAGE, ..CODE })
        .collect();
    assert_eq!(found(&segments[1..]).unwrap_err(), Error::BadEntry(CODE.address));
    assert_eq!(found(&segments[..MAX_SEGMENTS]).unwrap().segments.len(), MAX_SEGMENTS);
    assert_eq!(found(&segments), Err(Error::TooManySegments));
}

#[test]
fn permissions_are_the_flags_of_the_segment() {
    for (flags, expected) in [
        (READ, (false, false)),
        (READ | EXECUTE, (false, true)),
        (READ | WRITE, (true, false)),
        (READ | WRITE | EXECUTE, (true, true)),
    ] {
        let Segment { write, execute, .. } =
            found(&[CODE, Header { flags, ..DATA }]).unwrap().segments[1];
        assert_eq!((write, execute), expected, "{flags}");
    }
}

#[test]
fn a_program_begins_in_its_code() {
    let behind = CODE.address + PAGE;
    for (entry, expected) in [
        (CODE.address - 1, Some(Error::BadEntry(CODE.address - 1))),
        (CODE.address, None),
        (behind - 1, None),
        (behind, Some(Error::BadEntry(behind))),
    ] {
        let file = elf(FIXED, entry, &[CODE, DATA]);
        assert_eq!(parsed(&file).err(), expected, "{entry:#x}");
    }
}

#[test]
fn the_headers_are_where_the_segment_that_has_them_is() {
    let headers_at = |headers: &[Header]| found(headers).unwrap().headers;
    let cut = |in_file| Header { in_file, ..CODE };
    assert_eq!(headers_at(&[cut(65)]), CODE.address + 64);
    assert_eq!(headers_at(&[cut(64)]), 0, "they are not loaded");
}

/// The segment has them if it has their first byte.
#[test]
fn headers_may_be_in_the_middle_or_at_the_start_of_any_segment() {
    for offset in [32, 64] {
        let in_file = 64 - offset + 1;
        let second = Header { offset, address: 0x40_3000 + offset, in_file, ..DATA };
        let program = found(&[Header { in_file: 16, ..CODE }, second]).unwrap();
        assert_eq!(program.headers, 0x40_3040, "{offset}");
    }
}

#[test]
fn what_is_movable_says_so_and_what_is_no_program_is_refused() {
    let of_kind = |kind| elf(kind, CODE.address, &[CODE]);
    assert!(!parsed(&of_kind(FIXED)).unwrap().movable);
    assert!(parsed(&of_kind(MOVABLE)).unwrap().movable);
    assert_eq!(parsed(&of_kind(LINKABLE)), Err(Error::NotAProgram(LINKABLE)));
    // Of 32 bits, and of the other byte order.
    for (at, value) in [(4, 1), (5, 2)] {
        let mut file = of_kind(FIXED);
        file[at] = value;
        assert_eq!(parsed(&file), Err(Error::BadHeaders), "byte {at}");
    }
}

/// What is found of a program whose interpreter's name is these bytes, at the end of the file.
fn interpreter(name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let len = name.len() as u64;
    let header =
        Header { kind: INTERPRETER, offset: 3 * PAGE - len, in_file: len, in_memory: len, ..CODE };
    let mut file = elf(FIXED, CODE.address, &[header, CODE]);
    file.truncate(header.offset as usize);
    file.extend(name);
    Ok(parsed(&file)?.interpreter.map(<[u8]>::to_vec))
}

#[test]
fn an_interpreter_is_named_by_one_text_that_is_not_too_long() {
    assert_eq!(interpreter(b"/lib/ld.so\0"), Ok(Some(b"/lib/ld.so".to_vec())));
    assert_eq!(found(&[CODE]).unwrap().interpreter, None);
    for bad in [&b""[..], b"\0", b"/lib/ld.so", b"/lib\0/ld.so\0"] {
        assert_eq!(interpreter(bad), Err(Error::BadInterpreter), "{bad:?}");
    }
    let text = |len: usize| [vec![b'a'; len], vec![0]].concat();
    assert_eq!(interpreter(&text(4095)), Ok(Some(vec![b'a'; 4095])));
    assert_eq!(interpreter(&text(4096)), Err(Error::BadInterpreter));
    for (offset, in_file) in [(3 * PAGE, 1), (u64::MAX, 2)] {
        let outside = Header { kind: INTERPRETER, offset, in_file, ..CODE };
        assert_eq!(found(&[CODE, outside]), Err(Error::BadInterpreter), "{offset:#x}");
    }
}

#[test]
fn errors_of_programs_say_what_was_found() {
    for (error, says) in [
        (Error::NotElf, vec!["ELF"]),
        (Error::BadHeaders, vec!["headers", "64-bit"]),
        (Error::OtherMachine(183, Machine::X86_64), vec!["183", "x86-64"]),
        (Error::OtherMachine(62, Machine::Aarch64), vec!["62", "arm64"]),
        (Error::NotAProgram(4), vec!["type 4"]),
        (Error::NoSegments, vec!["nothing to load"]),
        (Error::TooManySegments, vec!["16"]),
        (Error::BadSegment(7), vec!["program header 7"]),
        (Error::Misaligned(8), vec!["program header 8", "page"]),
        (Error::BadInterpreter, vec!["interpreter"]),
        (Error::BadEntry(0x40_1234), vec!["0x401234"]),
    ] {
        let said = error.to_string();
        assert!(says.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// A file of an archive, with a name that ends as it does in it.
fn entry(fields: [u32; 13], magic: &[u8], name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    fields.iter().for_each(|field| bytes.extend(format!("{field:08X}").bytes()));
    for part in [name, data] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn named(name: &[u8]) -> Vec<u8> {
    let fields = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, name.len() as u32, 0];
    entry(fields, b"070701", name, &[])
}

#[test]
fn every_field_of_a_file_is_the_one_of_its_place() {
    let fields = [0xab, 0x81a4, 1000, 1001, 2, 0x6655_4433, 3, 9, 9, 9, 9, 2, 9];
    for magic in [b"070701", b"070702"] {
        let archive = entry(fields, magic, b"a\0", b"xyz");
        let file = initramfs::entries(&archive).next().unwrap().unwrap();
        assert_eq!((file.path, file.data, file.mode), ("a", &b"xyz"[..], 0x81a4));
        assert_eq!((file.number, file.links, file.modified_s), (0xab, 2, 0x6655_4433));
        assert_eq!((file.user, file.group), (1000, 1001));
    }
}

#[test]
fn a_name_may_be_as_long_as_a_path() {
    let problem = |len| {
        let archive = named(&[vec![b'a'; len], vec![0]].concat());
        initramfs::entries(&archive).next().unwrap().map(|file| file.path.len())
    };
    assert_eq!(problem(4095), Ok(4095));
    assert_eq!(problem(4096).unwrap_err().problem, Problem::BadName);
    for name in [&b""[..], b"a", b"a\0b\0", b"\xff\0"] {
        let error = initramfs::entries(&named(name)).next().unwrap().unwrap_err();
        assert_eq!(error.problem, Problem::BadName, "{name:?}");
    }
}

#[test]
fn a_path_begins_behind_whatever_stands_for_the_root() {
    for (name, path) in [
        (&b"/\0"[..], ""),
        (b".\0", ""),
        (b"./.\0", ""),
        (b".//./bin\0", "bin"),
        (b"..a/.b\0", "..a/.b"),
    ] {
        let archive = named(name);
        assert_eq!(initramfs::entries(&archive).next().unwrap().unwrap().path, path);
    }
}

#[test]
fn an_archive_ends_at_its_first_error_which_says_where_it_is() {
    let first = named(b"one\0");
    let archive = [&first[..], &[b'?'; 200], &first].concat();
    let mut entries = initramfs::entries(&archive);
    assert!(entries.next().unwrap().is_ok());
    let error = entries.next().unwrap().unwrap_err();
    assert_eq!((error.at, error.problem), (first.len(), Problem::NoHeader));
    assert!(entries.next().is_none());
}

#[test]
fn errors_of_archives_say_what_was_found_and_where() {
    for (problem, says) in [
        (Problem::NoHeader, "header"),
        (Problem::CutShort, "cut short"),
        (Problem::NotANumber("uid"), "`uid`"),
        (Problem::BadName, "name"),
        (Problem::Climbs, "`..`"),
    ] {
        let said = initramfs::Error { at: 1234, problem }.to_string();
        assert!(said.contains("byte 1234") && said.contains(says), "{said}");
    }
}

const NOTHING: Contents<'_> = Contents {
    arguments: &[],
    environment: &[],
    auxiliary: &[],
    file: b"/bin/sh",
    platform: b"x86_64",
    random: [9; 16],
};

/// Each takes a pointer, and a byte that ends it. Linux has allowed 32 pages since its first release, and more since 2.6.23.
#[test]
fn arguments_and_environment_may_take_as_much_as_is_allowed_together() {
    assert_eq!(stack::MAX_BYTES, 32 * 4096);
    let text = |len| [vec![b'a'; len]];
    let layout = |argument, variable| {
        let (arguments, environment) = (&text(argument)[..], &text(variable)[..]);
        stack::layout(1 << 40, &Contents { arguments, environment, ..NOTHING }).map(|_| ())
    };
    let room = stack::MAX_BYTES - 2 * (8 + 1);
    assert_eq!(layout(room - 100, 100), Ok(()));
    assert_eq!(layout(room - 100, 101), Err(TooLong));
    assert_eq!(layout(room - 99, 100), Err(TooLong));
}

#[test]
fn the_auxiliary_vector_is_the_callers_and_points_to_texts_and_random_bytes() {
    let contents = Contents { auxiliary: &[(6, 4096), (23, 1)], ..NOTHING };
    let stack = stack::layout(1 << 40, &contents).unwrap();
    let words: Vec<_> =
        stack.bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    // No arguments, two ends of lists.
    assert_eq!(words[..3], [0; 3]);
    let pairs = &words[3..].as_chunks::<2>().0[..6];
    let at = |key| {
        let [_, address] = pairs.iter().find(|pair| pair[0] == key).unwrap();
        &stack.bytes[(address - stack.pointer) as usize..]
    };
    assert_eq!(pairs[..2], [[6, 4096], [23, 1]]);
    assert!(at(15).starts_with(b"x86_64\0"));
    assert!(at(25).starts_with(&[9; 16]));
    assert!(at(31).starts_with(b"/bin/sh\0"));
    assert_eq!(pairs[5], [0, 0], "its end");
}
