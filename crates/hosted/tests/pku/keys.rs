//! The host's keys are those of the linear map, page by page: Linux says which it has given.

use std::fs;
use std::ops::Range;

use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::arena::HOST_PAGE;
use kpkeys_mm::{AddressSpace, MapFlags};
use kpkeys_pgtable::{Machine, Mode, PageRange, VirtAddr};

use crate::{Keyed, boot, on_keys};

on_keys!(the_host_has_the_keys_of_the_linear_map);

fn the_host_has_the_keys_of_the_linear_map<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = boot::<F>(mode);
        let at_first = compare(&kernel, mode);
        let range = PageRange::new(VirtAddr(0x40_0000_0000), 2000).expect("a good range");
        let mut space = AddressSpace::new(&kernel).expect("there is memory");
        space.mmap(range, MapFlags::DATA).expect("the range is free");
        space.populate(range).expect("there is memory");
        let child = space.fork().expect("there is memory");
        let with_processes = compare(&kernel, mode);
        drop((space, child));
        let after = compare(&kernel, mode);
        match mode {
            Mode::Off => assert_eq!([at_first, with_processes, after], [0; 3]),
            Mode::Unbatched | Mode::Batched => {
                assert!(with_processes > at_first, "{mode:?}: tables got keys");
                assert_eq!(after, at_first, "{mode:?}: and gave them back");
            }
            // Blocks of the pool are keyed ahead.
            _ => assert!(with_processes >= at_first && at_first > 0, "{mode:?}"),
        }
    }
}

/// Compares the key of each page with what Linux says. Returns how many have that of page tables.
fn compare<F: HostedFormat>(kernel: &Keyed<F>, mode: Mode) -> usize {
    let memory = kernel.machine().memory();
    let base = kernel.machine().table(memory.start).addr().get();
    let given = given();
    let mut tables = 0;
    for number in 0..memory.pages {
        let address = base + number * HOST_PAGE;
        let of_host = given.iter().find(|(range, _)| range.contains(&address));
        let of_host = of_host.map(|(_, key)| *key).expect("Linux maps the arena");
        let of_map = kernel.paging().memory_pkey(memory.frame(number)).expect("all is mapped");
        assert_eq!(of_host, of_map.number(), "{mode:?}: frame {number}");
        tables += usize::from(of_map == Pkey::PAGE_TABLES);
    }
    tables
}

/// The mappings of this process with their keys (Linux, `Documentation/filesystems/proc.rst`, smaps).
fn given() -> Vec<(Range<usize>, u8)> {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("Linux tells of mappings");
    let mut given: Vec<(Range<usize>, u8)> = Vec::new();
    for line in smaps.lines() {
        if let Some(key) = line.strip_prefix("ProtectionKey:") {
            given.last_mut().expect("behind its mapping").1 = key.trim().parse().expect("a number");
        } else if let Some(range) = line.split_once(' ').and_then(|(range, _)| addresses(range)) {
            given.push((range, u8::MAX));
        }
    }
    given
}

fn addresses(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}
