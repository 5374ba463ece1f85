//! Whatever a trace says, replaying it neither panics nor loses a frame, nor leaves a table unprotected.

use kpkeys_hosted::boot::Guarded;
use kpkeys_hosted::{Setup, boot_guarded};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::check::{Scratch, check};
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Config, Machine, Mode};
use kpkeys_replay::{History, HistoryError, Replayer, Stage};
use kpkeys_trace::{
    Arch, CopyPolicy, Entry, Event, FaultFlags, Header, Kinds, MapFlags, Method, Outcome,
    PageRange, Protection, RunTimes, SpaceId, SpaceOp, TaskId, TraceWriter, Trailer,
};
use proptest::prelude::*;

/// Address spaces that histories have.
const SPACES: u32 = 4;
/// Pages they use, in a table and a half; and some at the end of what a 57-bit space has.
const PAGES: u64 = 700;
const LAST: u64 = (1 << 45) - 1;

fn header(page_shift: u8, kinds: Kinds) -> Header {
    Header {
        arch: Arch::X86_64,
        page_shift,
        address_bits: 57,
        method: Method::Synthetic,
        kinds,
        started_unix_ns: 0,
        cpus: 1,
        fault_around_bytes: 65536,
        kernel: String::new(),
        huge_pages: String::new(),
        command: Vec::new(),
    }
}

fn range() -> impl Strategy<Value = PageRange> {
    prop_oneof![
        9 => (0..PAGES, 1..40_u64).prop_map(|(first, count)| PageRange { first, count }),
        1 => (0..PAGES).prop_map(|first| PageRange { first, count: PAGES }),
        1 => (0..40_u64).prop_map(|back| PageRange { first: LAST - back, count: back + 1 }),
    ]
}

fn step() -> impl Strategy<Value = (SpaceId, SpaceOp)> {
    let protection = || any::<u8>().prop_map(Protection::from_bits_truncate);
    let space = || (0..SPACES).prop_map(SpaceId);
    let op = prop_oneof![
        1 => Just(SpaceOp::Create),
        1 => space().prop_map(SpaceOp::CopyOf),
        1 => Just(SpaceOp::Destroy),
        6 => (range(), protection(), any::<u8>()).prop_map(|(range, protection, flags)| {
            SpaceOp::Map { range, protection, flags: MapFlags::from_bits_truncate(flags) }
        }),
        3 => range().prop_map(SpaceOp::Unmap),
        4 => (range(), range(), any::<bool>())
            .prop_map(|(from, to, keeps_old)| SpaceOp::Move { from, to, keeps_old }),
        3 => (range(), protection()).prop_map(|(range, protection)| SpaceOp::Protect { range, protection }),
        1 => range().prop_map(SpaceOp::Discard),
        1 => range().prop_map(SpaceOp::MarkUnused),
        2 => range().prop_map(SpaceOp::Populate),
        2 => (range(), prop_oneof![Just(CopyPolicy::Copy), Just(CopyPolicy::Skip), Just(CopyPolicy::Wipe)])
            .prop_map(|(range, policy)| SpaceOp::OnCopy { range, policy }),
        20 => (range(), any::<u8>()).prop_map(|(range, flags)| {
            SpaceOp::Fault { page: range.first, flags: FaultFlags::from_bits_truncate(flags) }
        }),
    ];
    (space(), op)
}

fn frames_unaccounted_for(kernel: &Kernel<Guarded<X86_64>>) -> usize {
    let memory = kernel.machine().memory();
    let (mut bits, mut findings) = (vec![0; Scratch::words(&memory)], Vec::new());
    let report =
        check(kernel.paging(), &[], Scratch::new(&mut bits), |finding| findings.push(finding))
            .expect("scratch memory of the right size");
    assert_eq!(findings, []);
    memory.pages - (kernel.frames().free_frames() + report.ptps + report.spare + report.state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// On a machine where a stray store to a table is SIGSEGV.
    #[test]
    fn any_history_can_be_replayed(
        steps in prop::collection::vec(step(), 1..150),
        writes_known in any::<bool>(),
    ) {
        let kinds = if writes_known { Kinds::all() } else { Kinds::FAULTS };
        for mode in Mode::ALL {
            let setup = Setup { pages: 1 << 14, cpus: 1, config: Config::of(mode) };
            let kernel = boot_guarded::<X86_64>(setup).expect("the host has memory");
            let header = header(12, kinds);
            let file = Stage::file(&kernel, &header).expect("memory");
            let mut replayer = Replayer::new(&kernel, &file, &header);
            (0..SPACES).for_each(|id| replayer.step(SpaceId(id), &SpaceOp::Create).expect("memory"));
            for (id, op) in &steps {
                replayer.step(*id, op).expect("memory");
            }
            drop(replayer);
            kernel.close_file(file);
            prop_assert_eq!(frames_unaccounted_for(&kernel), 1, "the page of zeroes alone stays");
        }
    }
}

fn trace(header: &Header, events: &[Event]) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), header);
    for event in events {
        let entry = Entry { time_ns: 0, task: TaskId(0), event: event.clone() };
        writer.push(&entry).expect("a good event");
    }
    let trailer = Trailer {
        events: events.len() as u64,
        lost: 0,
        late: 0,
        failed_calls: 0,
        foreign_calls: 0,
        teardown_ns: 0,
        outcome: Outcome::Exited(0),
        recorded: RunTimes::default(),
        unrecorded: None,
        gaps: Vec::new(),
    };
    writer.finish(&trailer).expect("memory").1
}

#[test]
fn traces_that_cannot_be_replayed_are_refused() {
    let start = [Event::Start { pid: 1 }];
    let read = |header: &Header| {
        History::read(&trace(header, &start)).map(|history| history.steps().len())
    };
    assert_eq!(read(&header(12, Kinds::all())).expect("a good trace"), 1);
    let error = read(&header(16, Kinds::all())).expect_err("larger pages").to_string();
    assert!(error.contains("64 KiB"), "{error}");
    let no_faults = read(&header(12, Kinds::CALLS | Kinds::TASKS));
    assert!(matches!(no_faults, Err(HistoryError::NoFaults)));
    let whole = trace(&header(12, Kinds::all()), &start);
    for length in 0..whole.len() {
        assert!(matches!(History::read(&whole[..length]), Err(HistoryError::Trace(_))), "{length}");
    }
}
