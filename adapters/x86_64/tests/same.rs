//! Every call does what the bare crate's does: on twin memories, with the same frames at hand.

mod support;

use kpkeys_x86_64::{LinearMap, Protection};
use proptest::prelude::*;
use support::{Bare, DATA, Frames, Giant, Huge, System, TestMachine, contents, device, page};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{
    CleanUp, MappedFrame, Mapper, MapperAllSizes, TranslateResult,
};
use x86_64::structures::paging::{Page, PageSize, PageTableFlags, Size4KiB, Translate};

const STARTS: [u64; 3] = [0x40_0000_0000, 0x7f80_0000_0000, 0xffff_c900_0000_0000];

/// One call. Addresses are few, so that calls meet.
#[derive(Clone, Copy, Debug)]
enum Call {
    Map { size: u8, at: u64, to: u64, flags: PageTableFlags, parents: Option<PageTableFlags> },
    Unmap { size: u8, at: u64 },
    Update { size: u8, at: u64, flags: PageTableFlags },
    SetUpper { level: u8, at: u64, flags: PageTableFlags },
    Translate { at: u64 },
    CleanUp { first: u64, last: u64 },
}

fn address() -> impl Strategy<Value = u64> {
    let part =
        |shift: u32| prop::sample::select(vec![0u64, 1, 2, 511]).prop_map(move |i| i << shift);
    (prop::sample::select(STARTS.to_vec()), part(30), part(21), part(12))
        .prop_map(|(start, giant, huge, small)| start + giant + huge + small)
}

fn flags() -> impl Strategy<Value = PageTableFlags> {
    use PageTableFlags as F;
    let more = [F::empty(), F::WRITABLE, F::USER_ACCESSIBLE, F::NO_EXECUTE, F::GLOBAL, F::BIT_9];
    prop::collection::vec(prop::sample::select(more.to_vec()), 0..3)
        .prop_map(|some| some.into_iter().fold(F::PRESENT, |all, one| all | one))
}

fn call() -> impl Strategy<Value = Call> {
    let size = || prop_oneof![4 => Just(1u8), 2 => Just(2), 1 => Just(3)];
    prop_oneof![
        6 => (size(), address(), 0..9u64, flags(), prop::option::of(flags())).prop_map(
            |(size, at, to, flags, parents)| Call::Map { size, at, to, flags, parents }
        ),
        4 => (size(), address()).prop_map(|(size, at)| Call::Unmap { size, at }),
        3 => (size(), address(), flags()).prop_map(|(size, at, flags)| Call::Update { size, at, flags }),
        2 => (2..=4u8, address(), flags())
            .prop_map(|(level, at, flags)| Call::SetUpper { level, at, flags }),
        2 => address().prop_map(|at| Call::Translate { at }),
        1 => (address(), address())
            .prop_map(|(a, b)| Call::CleanUp { first: a.min(b), last: a.max(b) }),
    ]
}

fn of_size<S: PageSize>(at: u64) -> Page<S> {
    Page::containing_address(VirtAddr::new(at))
}

/// The size of the page that an address is mapped by: 0 where it is not.
fn mapped_size(mapper: &impl Translate, at: u64) -> u8 {
    match mapper.translate(VirtAddr::new(at)) {
        TranslateResult::Mapped { frame: MappedFrame::Size4KiB(_), .. } => 1,
        TranslateResult::Mapped { frame: MappedFrame::Size2MiB(_), .. } => 2,
        TranslateResult::Mapped { frame: MappedFrame::Size1GiB(_), .. } => 3,
        _ => 0,
    }
}

/// What the bare crate must not be asked: it would make a block of a table, or a table of a block.
fn is_asked(mapper: &impl Translate, call: Call) -> bool {
    match call {
        Call::Update { size, at, .. } => size == 1 || mapped_size(mapper, at) == size,
        Call::SetUpper { level, at, .. } => mapped_size(mapper, at) < level,
        _ => true,
    }
}

/// Makes the call, and says what came of it.
fn make<T>(mapper: &mut T, frames: &mut Frames, call: Call) -> String
where
    T: MapperAllSizes + Translate + CleanUp,
{
    match call {
        Call::Map { size: 1, at, .. } => map(mapper, of_size::<Size4KiB>(at), call, frames),
        Call::Map { size: 2, at, .. } => map(mapper, of_size::<Huge>(at), call, frames),
        Call::Map { at, .. } => map(mapper, of_size::<Giant>(at), call, frames),
        Call::Unmap { size: 1, at } => format!("{:?}", mapper.unmap(of_size::<Size4KiB>(at))),
        Call::Unmap { size: 2, at } => format!("{:?}", mapper.unmap(of_size::<Huge>(at))),
        Call::Unmap { at, .. } => format!("{:?}", mapper.unmap(of_size::<Giant>(at))),
        Call::Update { size, at, flags } => {
            // SAFETY: a model's tables, here and below.
            unsafe {
                match size {
                    1 => format!("{:?}", mapper.update_flags(of_size::<Size4KiB>(at), flags)),
                    2 => format!("{:?}", mapper.update_flags(of_size::<Huge>(at), flags)),
                    _ => format!("{:?}", mapper.update_flags(of_size::<Giant>(at), flags)),
                }
            }
        }
        Call::SetUpper { level, at, flags } => {
            let page = of_size::<Size4KiB>(at);
            // SAFETY: as above.
            let set = unsafe {
                match level {
                    2 => mapper.set_flags_p2_entry(page, flags),
                    3 => mapper.set_flags_p3_entry(page, flags),
                    _ => mapper.set_flags_p4_entry(page, flags),
                }
            };
            format!("{set:?}")
        }
        Call::Translate { at } => {
            let small = mapper.translate_page(of_size::<Size4KiB>(at));
            format!("{:?} {small:?}", mapper.translate(VirtAddr::new(at)))
        }
        Call::CleanUp { first, last } => {
            let before = frames.given_back.len();
            let range = Page::range_inclusive(of_size(first), of_size(last));
            // SAFETY: tables are used once.
            unsafe { mapper.clean_up_addr_range(range, frames) };
            format!("{} given back", frames.given_back.len() - before)
        }
    }
}

fn map<S: PageSize + std::fmt::Debug>(
    mapper: &mut impl Mapper<S>,
    at: Page<S>,
    call: Call,
    frames: &mut Frames,
) -> String {
    let Call::Map { to, flags, parents, .. } = call else { return String::new() };
    let to = device(to);
    // SAFETY: a model's tables.
    let mapped = unsafe {
        match parents {
            Some(parents) => mapper.map_to_with_table_flags(at, to, flags, parents, frames),
            None => mapper.map_to(at, to, flags, frames),
        }
    };
    format!("{mapped:?}")
}

fn twins() -> (System, Bare) {
    (System::new::<Size4KiB>(), Bare::new::<Size4KiB>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_call_does_what_the_bare_crate_does(calls in prop::collection::vec(call(), 1..80)) {
        let (system, mut bare) = twins();
        let mut frames = system.frames.borrow_mut();
        let mut hardened = system.mapper();
        for call in calls {
            if !is_asked(&bare.mapper(), call) {
                continue;
            }
            let ours = make(&mut hardened, &mut frames, call);
            let (arena, root) = (bare.arena.clone(), bare.root);
            let theirs = make(&mut support::mapper(&arena, root), &mut bare.frames, call);
            prop_assert_eq!(ours, theirs, "{:?}", call);
            let same = contents(&system.arena, system.root()) == contents(&bare.arena, bare.root);
            prop_assert!(same, "tables differ after {:?}", call);
            prop_assert_eq!(frames.left, bare.frames.left, "frames in use after {:?}", call);
        }
        for (level, table) in support::tables(&system.arena, system.root()) {
            prop_assert!(system.protection.protects(table), "level {} at {:?}", level, table);
        }
    }
}

/// The same in a linear map of blocks, which new tables split.
#[test]
fn a_linear_map_of_blocks_translates_as_before() {
    let (mut bare, system) = (Bare::new::<Huge>(), System::new::<Huge>());
    let mut frames = system.frames.borrow_mut();
    let mut hardened = system.mapper();
    for number in 0..600u64 {
        let (at, to) = (page::<Size4KiB>(STARTS[0] + (number << 21)), device(number));
        bare.map(at, to, DATA).unwrap();
        // SAFETY: a model's tables.
        unsafe { hardened.map_to(at, to, DATA, &mut *frames) }.unwrap().ignore();
    }
    for number in 0..support::PAGES {
        let frame = support::frame(number).start_address();
        let address = VirtAddr::new(support::OFFSET + frame.as_u64());
        assert_eq!(hardened.translate_addr(address), Some(frame));
        let TranslateResult::Mapped { flags, frame, .. } = hardened.translate(address) else {
            panic!("{address:?} is mapped");
        };
        // Bit 7 says that it is a block, and means something else in a page.
        let block = !matches!(frame, MappedFrame::Size4KiB(_));
        let huge = PageTableFlags::HUGE_PAGE;
        let expected = if block { DATA | huge } else { DATA };
        assert_eq!(flags & (DATA | huge | PageTableFlags::GLOBAL), expected, "{address:?}");
    }
    for (level, table) in support::tables(&system.arena, system.root()) {
        assert!(system.protection.protects(table), "level {level} at {table:?}");
    }
}

/// The adapter's types are what a kernel puts in a static: one for all CPUs, if its machine is.
#[test]
fn protection_is_shared_as_its_machine_is() {
    fn is_sync<T: Sync>() {}
    is_sync::<Protection<(), LinearMap>>();
    let _ = size_of::<TestMachine>();
}
