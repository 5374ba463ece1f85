//! The file format: everything written comes back, everything damaged is refused with its place, and no
//! bytes whatever make the reader panic.

use kpkeys_trace::{
    Accounted, Advice, Arch, Damage, Entry, Event, FaultFlags, ForkFlags, Gap, GapCause, Header,
    Kinds, Malformed, MapFlags, Method, Outcome, PageRange, Protection, RunTimes, Summary, TICK_NS,
    TaskId, TaskTimes, TraceError, TraceReader, TraceWriter, Trailer,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn header() -> Header {
    Header {
        arch: Arch::X86_64,
        page_shift: 12,
        address_bits: 47,
        method: Method::Synthetic,
        kinds: Kinds::all(),
        started_unix_ns: 1_700_000_000_000_000_000,
        cpus: 2,
        fault_around_bytes: 65536,
        kernel: "Linux 6.18".to_owned(),
        huge_pages: "madvise".to_owned(),
        command: vec![b"cc".to_vec(), b"\xff not UTF-8".to_vec()],
    }
}

fn trailer() -> Trailer {
    Trailer {
        events: 0,
        lost: 7,
        late: 1,
        failed_calls: 2,
        foreign_calls: 3,
        teardown_ns: 4,
        outcome: Outcome::Signalled(9),
        recorded: RunTimes { real_ns: 10, user_ns: 11, system_ns: 12 },
        unrecorded: Some(RunTimes { real_ns: 13, user_ns: 14, system_ns: 15 }),
        gaps: vec![Gap {
            cause: GapCause::Survived,
            count: 2,
            names: vec!["sleep (100)".to_owned()],
        }],
    }
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &header());
    for entry in entries {
        writer.push(entry).expect("a valid event");
    }
    let (size, bytes) = writer.finish(&trailer()).expect("writing to memory");
    assert_eq!(size, bytes.len() as u64);
    bytes
}

/// Everything that can be read, and the error that ended it.
fn read(bytes: &[u8]) -> (Vec<Entry>, Result<Trailer, TraceError>) {
    let mut entries = Vec::new();
    let mut reader = match TraceReader::new(bytes, Damage::Refuse) {
        Ok(reader) => reader,
        Err(error) => return (entries, Err(error)),
    };
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => {
                return (entries, Ok(reader.trailer().cloned().expect("a whole trace has one")));
            }
            Err(error) => return (entries, Err(error)),
        }
    }
}

/// Two tasks and a few events: small enough to try every byte.
fn small() -> Vec<Entry> {
    let range = PageRange { first: 0x7_f000_0000, count: 3 };
    let events = [
        (0, Event::Start { pid: 100 }),
        (0, Event::Exec { name: b"sh".to_vec() }),
        (
            0,
            Event::Mmap {
                range,
                protection: Protection::READ | Protection::WRITE,
                flags: MapFlags::ANONYMOUS,
            },
        ),
        (0, Event::Fault { page: range.first, flags: FaultFlags::WRITE }),
        (0, Event::Fork { child: TaskId(1), pid: 101, flags: ForkFlags::empty() }),
        (1, Event::Fault { page: range.first, flags: FaultFlags::WRITE | FaultFlags::PROTECTION }),
        (1, Event::Exit { status: Some(0) }),
        (0, Event::Munmap { range }),
        (0, Event::Exit { status: None }),
    ];
    let entry = |(index, (task, event)): (usize, _)| Entry {
        time_ns: index as u64 * 1000,
        task: TaskId(task),
        event,
    };
    events.into_iter().enumerate().map(entry).collect()
}

#[test]
fn a_small_trace_comes_back() {
    let bytes = write(&small());
    let (entries, end) = read(&bytes);
    assert_eq!(entries, small());
    assert_eq!(end.expect("a whole trace"), Trailer { events: 9, ..trailer() });
    let reader = TraceReader::new(bytes.as_slice(), Damage::Refuse).expect("a header");
    assert_eq!(*reader.header(), header());
}

/// The same trace as the first version of the format had it: without gaps.
fn as_version_1(entries: &[Entry]) -> Vec<u8> {
    let without_gaps = Trailer { gaps: Vec::new(), ..trailer() };
    let mut writer = TraceWriter::new(Vec::new(), &header());
    entries.iter().for_each(|entry| writer.push(entry).expect("a valid event"));
    let (_, mut bytes) = writer.finish(&without_gaps).expect("writing to memory");
    bytes[8] = 1;
    let length = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index])) as usize
    };
    let seal = |bytes: &mut Vec<u8>, from: usize, to: usize| {
        let sum = crc32fast::hash(&bytes[from..to]).to_le_bytes();
        bytes.splice(to..to + 4, sum);
    };
    let header_end = 14 + length(&bytes, 10);
    seal(&mut bytes, 0, header_end);
    // One block, whose stored length is the last field of its head; then the trailer, whose last byte is
    // the number of gaps.
    let block = header_end + 4;
    let trailer = block + 22 + length(&bytes, block + 18) + 4;
    let body = length(&bytes, trailer + 1) - 1;
    let end = trailer + 5 + body;
    assert_eq!(bytes.remove(end), 0);
    bytes.splice(trailer + 1..trailer + 5, (body as u32).to_le_bytes());
    seal(&mut bytes, trailer, end);
    bytes
}

#[test]
fn a_trace_of_the_first_version_is_read() {
    let (entries, end) = read(&as_version_1(&small()));
    assert_eq!(entries, small());
    let expected = Trailer { events: 9, gaps: Vec::new(), ..trailer() };
    assert_eq!(end.expect("a whole trace"), expected);
}

#[test]
fn a_trace_cut_at_any_byte_is_refused_there() {
    let bytes = write(&small());
    for length in 0..bytes.len() {
        let (_, end) = read(&bytes[..length]);
        match end.expect_err("a part is no trace") {
            TraceError::Truncated { offset, .. } => assert_eq!(offset, length as u64),
            other => panic!("cut at {length}: {other}"),
        }
    }
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let bytes = write(&small());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let (_, end) = read(&damaged);
            assert!(end.is_err(), "bit {bit} of byte {at} was not missed");
        }
    }
}

#[test]
fn what_follows_the_trailer_is_refused() {
    let mut bytes = write(&small());
    bytes.push(0);
    let (entries, end) = read(&bytes);
    assert_eq!(entries, small());
    assert!(matches!(end, Err(TraceError::Part { part: "trailer", .. })));
}

/// Events that fill several blocks.
fn long() -> Vec<Entry> {
    let mut entries = vec![small().swap_remove(0)];
    let mut page = 1u64;
    for index in 1..400_000u64 {
        page = page.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442695040888963407);
        let event = Event::Fault { page: page >> 29, flags: FaultFlags::empty() };
        entries.push(Entry { time_ns: index * 1000, task: TaskId(0), event });
    }
    entries
}

#[test]
fn the_part_before_the_damage_can_be_used() {
    let entries = long();
    let mut bytes = write(&entries);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert!(matches!(read(&bytes).1, Err(TraceError::Checksum { part: "block", .. })));

    let mut reader = TraceReader::new(bytes.as_slice(), Damage::Tolerate).expect("a header");
    let mut used = Vec::new();
    while let Some(entry) = reader.next_entry().expect("damage is tolerated") {
        used.push(entry);
    }
    assert!(used.len() > entries.len() / 4 && used.len() < entries.len());
    assert_eq!(used, entries[..used.len()]);
    assert!(reader.trailer().is_none());
    let Some(TraceError::Checksum { offset, .. }) = reader.damage() else {
        panic!("the damage is kept");
    };
    assert!(*offset < middle as u64);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = write(&small());
    bytes[8] = 3;
    let error = read(&bytes).1.expect_err("version 3 is not known");
    assert!(matches!(error, TraceError::NewerVersion { found: 3, supported: 2 }));
    assert!(error.to_string().contains("version 3"));
}

#[test]
fn another_file_is_not_a_trace() {
    for bytes in [&b"#!/bin/sh\n"[..], b"\x7fELF", b"\x89PNG\r\n\x1a\n0000"] {
        assert!(matches!(read(bytes).1, Err(TraceError::NotATrace)));
    }
}

/// A trace whose header promises wider addresses than `bits` afterwards: the checksum is made to fit.
fn narrowed(entries: &[Entry], bits: u8) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &Header { address_bits: 57, ..header() });
    entries.iter().for_each(|entry| writer.push(entry).expect("valid with 57 bits"));
    let (_, mut bytes) = writer.finish(&trailer()).expect("memory");
    let body = u32::from_le_bytes(bytes[10..14].try_into().expect("four bytes")) as usize;
    bytes[16] = bits;
    let sum = crc32fast::hash(&bytes[..14 + body]);
    bytes[14 + body..18 + body].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn addresses_outside_the_user_half_are_refused_with_the_event() {
    let mut entries = small();
    entries.truncate(4);
    let page = 1 << 40;
    entries.push(Entry {
        time_ns: 9000,
        task: TaskId(0),
        event: Event::Fault { page, flags: FaultFlags::empty() },
    });
    let error = read(&narrowed(&entries, 47)).1.expect_err("not a user address");
    let TraceError::Event { index: 4, reason, .. } = error else { panic!("{error}") };
    assert_eq!(reason, Malformed::NonCanonical { page, bits: 47 });
}

#[test]
fn a_range_may_end_at_the_end_of_the_address_space_and_not_beyond() {
    let end = 1u64 << (47 - 12);
    let mut writer = TraceWriter::new(Vec::new(), &header());
    writer.push(&small()[0]).expect("a start");
    let mut munmap = |first, count| {
        let event = Event::Munmap { range: PageRange { first, count } };
        writer.push(&Entry { time_ns: 0, task: TaskId(0), event })
    };
    assert!(munmap(end - 2, 2).is_ok());
    assert!(munmap(end - 2, 3).is_err());
    assert!(munmap(end, 1).is_err());
    assert!(munmap(5, u64::MAX).is_err());
    assert!(munmap(5, 0).is_err());
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let mut writer = TraceWriter::new(Vec::new(), &header());
    let entry = |time_ns, task, event| Entry { time_ns, task: TaskId(task), event };
    let exit = Event::Exit { status: None };
    let start = Event::Start { pid: 1 };
    assert!(writer.push(&entry(5000, 0, exit.clone())).is_err(), "never started");
    assert!(writer.push(&entry(5000, 1, start.clone())).is_err(), "not the next number");
    assert!(writer.push(&entry(5000, 0, start.clone())).is_ok());
    assert!(writer.push(&entry(5000, 0, start)).is_err(), "started twice");
    assert!(writer.push(&entry(4000, 0, exit.clone())).is_err(), "time backwards");
    assert!(writer.push(&entry(5000, 0, exit.clone())).is_ok());
    assert!(writer.push(&entry(5000, 0, exit)).is_err(), "gone");
    let (_, bytes) = writer.finish(&trailer()).expect("memory");
    assert_eq!(read(&bytes).0.len(), 2, "refused events leave nothing behind");
}

/// Any event of a live task 0 or 1, or the fork of the next task.
fn event() -> impl Strategy<Value = Event> {
    let range = || {
        (0..1u64 << 35, 1..1u64 << 20)
            .prop_map(|(first, count)| PageRange { first, count: count.min((1 << 35) - first) })
    };
    let protection = || (0..8u8).prop_map(Protection::from_bits_truncate);
    let advice = prop_oneof![
        Just(Advice::DontNeed),
        Just(Advice::Free),
        Just(Advice::PopulateWrite),
        Just(Advice::GuardRemove)
    ];
    let status = prop_oneof![Just(None), any::<u32>().prop_map(Some)];
    prop_oneof![
        8 => (0..1u64 << 35, 0..16u8).prop_map(|(page, flags)| Event::Fault {
            page,
            flags: FaultFlags::from_bits_truncate(flags),
        }),
        1 => (range(), protection(), 0..128u8).prop_map(|(range, protection, flags)| Event::Mmap {
            range,
            protection,
            flags: MapFlags::from_bits_truncate(flags),
        }),
        1 => range().prop_map(|range| Event::Munmap { range }),
        1 => range().prop_map(|range| Event::Populate { range }),
        1 => (range(), range(), any::<bool>())
            .prop_map(|(from, to, keeps_old)| Event::Mremap { from, to, keeps_old }),
        1 => (range(), protection())
            .prop_map(|(range, protection)| Event::Mprotect { range, protection }),
        1 => (0..1u64 << 47).prop_map(|address| Event::Brk { address }),
        1 => (range(), advice).prop_map(|(range, advice)| Event::Madvise { range, advice }),
        1 => vec(any::<u8>(), 0..15).prop_map(|name| Event::Exec { name }),
        1 => any::<[u64; 12]>().prop_map(|n| Event::Times(Box::new(times(n)))),
        1 => any::<u64>().prop_map(|count| Event::Lost { count }),
        1 => (any::<u32>(), 0..8u8).prop_map(|(pid, flags)| Event::Fork {
            child: TaskId(0),
            pid,
            flags: ForkFlags::from_bits_truncate(flags),
        }),
        1 => status.prop_map(|status| Event::Exit { status }),
    ]
}

fn times(n: [u64; 12]) -> TaskTimes {
    TaskTimes {
        accounted: n[0].is_multiple_of(2).then_some(Accounted {
            user_ns: n[1],
            system_ns: n[2],
            cpu_ns: n[3],
            minor_faults: n[4],
            major_faults: n[5],
        }),
        faults: n[6],
        fault_ns: n[7],
        slow_faults: n[8],
        slow_fault_ns: n[9],
        call_ns: n[10],
        fork_ns: n[11],
        exec_ns: n[0],
    }
}

/// Events made into a valid history: tasks numbered in order, none used after its exit.
fn history() -> impl Strategy<Value = Vec<Entry>> {
    vec((0..1u64 << 20, any::<proptest::sample::Index>(), event()), 0..300).prop_map(|steps| {
        let start = Entry { time_ns: 0, task: TaskId(0), event: Event::Start { pid: 1 } };
        let (mut entries, mut alive, mut next, mut ticks) = (vec![start], vec![0], 1, 0);
        for (step, who, mut event) in steps {
            if alive.is_empty() {
                break;
            }
            let rank = who.index(alive.len());
            let task = TaskId(alive[rank]);
            match &mut event {
                Event::Fork { child, .. } => {
                    *child = TaskId(next);
                    alive.push(next);
                    next += 1;
                }
                Event::Exit { .. } => {
                    alive.remove(rank);
                }
                _ => {}
            }
            ticks += step;
            entries.push(Entry { time_ns: ticks * TICK_NS, task, event });
        }
        entries
    })
}

proptest! {
    #[test]
    fn any_history_comes_back(entries in history()) {
        let (found, end) = read(&write(&entries));
        prop_assert_eq!(end.expect("a whole trace").events, entries.len() as u64);
        prop_assert_eq!(found, entries);
    }

    #[test]
    fn any_history_can_be_summed_up(entries in history()) {
        let bytes = write(&entries);
        let mut reader = TraceReader::new(bytes.as_slice(), Damage::Refuse).expect("a header");
        let summary = Summary::of(&mut reader).expect("a whole trace");
        prop_assert_eq!(summary.events, entries.len() as u64);
        let faults = entries.iter().filter(|entry| matches!(entry.event, Event::Fault { .. }));
        prop_assert_eq!(summary.counts.faults, Some(faults.count() as u64));
    }

    #[test]
    fn arbitrary_bytes_are_refused_calmly(bytes in vec(any::<u8>(), 0..2000)) {
        prop_assert!(read(&bytes).1.is_err());
    }

    /// Damage that the checksum does not see, because it is made to fit.
    #[test]
    fn arbitrary_blocks_with_good_checksums_never_panic(
        payload in vec(any::<u8>(), 0..600),
        packing in 0u8..3,
        events in 0u32..50,
        unpacked in prop_oneof![0u32..2000, any::<u32>()],
    ) {
        let mut bytes = write(&[]);
        // The trailer begins after the header, whose length is known.
        let body = u32::from_le_bytes(bytes[10..14].try_into().expect("four bytes")) as usize;
        bytes.truncate(18 + body);
        let mut block = vec![b'B', packing];
        block.extend(events.to_le_bytes());
        block.extend(0u64.to_le_bytes());
        block.extend(if packing == 0 { payload.len() as u32 } else { unpacked }.to_le_bytes());
        block.extend((payload.len() as u32).to_le_bytes());
        block.extend(&payload);
        block.extend(crc32fast::hash(&block).to_le_bytes());
        bytes.extend(block);
        prop_assert!(read(&bytes).1.is_err());
        let mut reader = TraceReader::new(bytes.as_slice(), Damage::Tolerate).expect("a header");
        while reader.next_entry().expect("damage is tolerated").is_some() {}
        prop_assert!(reader.damage().is_some());
    }
}
