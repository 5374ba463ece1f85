//! What reads bytes that somebody else wrote: device trees, traces, sample files, images, archives, programs.

use kpkeys_program::executable::{Executable, Machine};
use kpkeys_program::{initramfs, stack};
use kpkeys_stats::cost::CostModel;
use kpkeys_stats::record::Recording;
use kpkeys_stats::table::Table;
use kpkeys_trace::{Damage, Summary, TraceReader};

#[allow(dead_code, unused_imports, reason = "a part of the test")]
#[path = "../../../crates/devicetree/tests/damage.rs"]
mod damage;

/// Whatever is taken for a machine could be one.
pub fn devicetree(bytes: &[u8]) {
    damage::survives(bytes);
}

/// What is refused when damage is tolerated is the header, and what is handed out can be summed up. As it is, and with right checksums.
pub fn trace(bytes: &[u8]) {
    read_trace(bytes);
    read_trace(&sealed(bytes));
}

/// The same bytes with right checksums, as far as they are frames: by these damage is found before anything else, and what lies behind is to be reached.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(word.iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte)))
    };
    let mut at = 0;
    loop {
        // Where the frame's checksum is.
        let len = match bytes.get(at) {
            Some(0x89) if at == 0 => word(10).map(|body| 14 + body),
            Some(b'B') => word(at + 18).map(|stored| 22 + stored),
            Some(b'T') => word(at + 1).map(|body| 5 + body),
            _ => None,
        };
        let Some(end) = len.map(|len| at + len).filter(|end| end + 4 <= bytes.len()) else {
            return sealed;
        };
        let sum = crc32fast::hash(&bytes[at..end]);
        sealed[end..end + 4].copy_from_slice(&sum.to_le_bytes());
        at = end + 4;
    }
}

fn read_trace(bytes: &[u8]) {
    let summary =
        |damage| TraceReader::new(bytes, damage).map(|mut reader| Summary::of(&mut reader));
    let (strict, tolerant) = (summary(Damage::Refuse), summary(Damage::Tolerate));
    match (strict, tolerant) {
        (Ok(Ok(_)), tolerant) => assert!(matches!(tolerant, Ok(Ok(_))), "{tolerant:?}"),
        (Err(error), other) => {
            assert!(!error.to_string().is_empty());
            assert!(other.is_err(), "a damaged header is refused in any case");
        }
        (Ok(Err(error)), _) => assert!(!error.to_string().is_empty()),
    }
}

/// What is read makes a table, or an error that says why not.
pub fn samples(bytes: &[u8]) {
    match Recording::read_from(bytes, "input") {
        Err(error) => assert!(error.to_string().contains("input"), "{error}"),
        Ok(recording) => {
            if let Err(error) = Table::build(&recording, &CostModel::graviton3([])) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// Every site is in the image that was read.
pub fn audit(bytes: &[u8]) {
    match kpkeys_audit::audit(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(report) => report.sites.iter().for_each(|site| {
            let _ = site.line();
        }),
    }
}

/// An archive is read to an end, and leads nowhere outside of it.
pub fn archive(bytes: &[u8]) {
    let mut files = 0;
    for file in initramfs::entries(bytes) {
        match file {
            Ok(file) => {
                assert!(
                    !file.path.starts_with('/') && file.path.split('/').all(|part| part != "..")
                );
                assert!(file.data.len() <= bytes.len());
            }
            Err(error) => assert!(error.at <= bytes.len() && !error.to_string().is_empty()),
        }
        files += 1;
    }
    assert!(files <= bytes.len() + 1);
}

/// Pieces of a program that is taken lie in its file, in order, and where programs may be.
pub fn program(bytes: &[u8]) {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let program = match Executable::<4096>::parse(bytes, machine) {
            Ok(program) => program,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        let mut behind = 0;
        for segment in &program.segments {
            assert!(segment.first_page() >= behind);
            assert!(segment.offset + segment.in_file <= bytes.len() as u64);
            assert!(segment.in_file <= segment.in_memory && segment.end() <= 1 << 46);
            behind = segment.last_page_end();
        }
        let (first, end) = program.span();
        assert!(first < end && end == behind);
    }
}

/// Words of any kind make a stack that is aligned, as long as it says, and not longer than it may be.
pub fn stack(bytes: &[u8]) {
    let mut words = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let arguments: Vec<_> = words.by_ref().take_while(|word| !word.is_empty()).collect();
    let environment: Vec<_> = words.collect();
    let top = 0x7fff_ffff_f000;
    let contents = stack::Contents {
        arguments: &arguments,
        environment: &environment,
        auxiliary: &[(6, 4096), (25, 0)][..bytes.len() % 2],
        file: bytes.get(..bytes.len() % 64).unwrap_or(b"/bin/sh"),
        platform: b"x86_64",
        random: [9; 16],
    };
    if let Ok(stack) = stack::layout(top, &contents) {
        assert_eq!((stack.pointer % 16, stack.pointer + stack.bytes.len() as u64), (0, top));
        assert!(stack.bytes.len() < 2 * stack::MAX_BYTES);
    }
}
