//! Operations of `kpkeys-pgtable` on the tables of one address space, against a map of pages.
//!
//! Bytes are read four at a time: what is done, where, how many pages, with what. After each operation every page of the room translates as the map
//! says, and in the end the checker finds nothing.

use std::collections::BTreeMap;

use kpkeys_hosted::HostedFormat;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::range::By;
use kpkeys_pgtable::{
    Attrs, Error, Flush, Format, Frames, Level, Machine, PageRange, PhysAddr, Root, VirtAddr,
};

use crate::machine::on_machine;
use crate::support::assert_clean;

const PAGES: usize = 4096;
/// Where the room begins: below the end of what one table of the third level translates, so that tables of all levels differ in it.
/// Bytes of a page of the formats that are fuzzed.
const PAGE_SIZE: u64 = 4096;
const START: u64 = (1 << 39) - 40 * PAGE_SIZE;
/// Pages of the room.
const ROOM: usize = 600;

/// The first byte says which machine and mode, the others what is done.
pub fn run(bytes: &[u8]) {
    let Some((&machine, operations)) = bytes.split_first() else { return };
    on_machine!(machine, PAGES, |kernel| carry_out(&kernel, operations));
}

/// Whether a page may be written, and its frame.
type Model = BTreeMap<usize, (bool, PhysAddr)>;

fn carry_out<M: Machine>(kernel: &Kernel<M>, operations: &[u8])
where
    M::Format: HostedFormat,
{
    let paging = kernel.paging();
    let root = {
        let section = paging.section(paging.kernel());
        paging.new_user_root(&section).expect("there is a frame for a root")
    };
    // One frame is mapped again and again.
    let Some(data) = kernel.frames().allocate(0) else { return };
    let mut model = Model::new();
    for operation in operations.chunks_exact(4) {
        apply(
            kernel,
            &root,
            data,
            &mut model,
            [operation[0], operation[1], operation[2], operation[3]],
        );
        compare(kernel, &root, &model);
    }
    let whole = range(0, ROOM).expect("a good range");
    let section = paging.section(&root);
    paging
        .unmap(&section, &root, whole, |_, _, _| ())
        .expect("what is mapped by pages can be unmapped");
    drop(section);
    free_tables(kernel, &root, whole);
    paging.release_user_root(root);
    kernel.purge_vmalloc();
    assert_clean(kernel, &[]);
}

fn address(page: usize) -> VirtAddr {
    VirtAddr(START).offset(page as u64 * PAGE_SIZE)
}

fn range<F: Format>(first: usize, pages: usize) -> Option<PageRange<F>> {
    PageRange::new(address(first), pages).ok()
}

fn apply<M: Machine>(
    kernel: &Kernel<M>,
    root: &Root,
    data: PhysAddr,
    model: &mut Model,
    [what, at, len, with]: [u8; 4],
) {
    let paging = kernel.paging();
    let first = (usize::from(at) | usize::from(what & 0x30) << 4) % ROOM;
    let pages = usize::from(len).min(ROOM - first);
    let Some(of) = range(first, pages) else { return };
    let section = paging.section(root);
    match what & 3 {
        0 => {
            let write = with & 1 == 0;
            let attrs = if write { Attrs::USER_DATA } else { Attrs::USER_DATA.read_only() };
            let done = paging.map(&section, root, of, attrs, |_| data);
            match (done, (first..first + pages).find(|page| model.contains_key(page))) {
                (Ok(()), None) => {
                    model.extend((first..first + pages).map(|page| (page, (write, data))))
                }
                (Err(Error::AlreadyMapped(va)), Some(page)) => {
                    assert_eq!(va, address(page));
                }
                (Err(Error::OutOfMemory), None) => {}
                (done, taken) => panic!("mapping {of:?} is {done:?}, and {taken:?} is taken"),
            }
        }
        1 => {
            let mut unmapped = 0;
            paging
                .unmap(&section, root, of, |_, _, _| unmapped += 1)
                .expect("pages can be unmapped");
            let before = model.len();
            model.retain(|page, _| !(first..first + pages).contains(page));
            assert_eq!(unmapped, before - model.len());
            drop(section);
            paging.flush(Flush::AddressSpace(root.frame()));
            if with & 1 == 0 {
                free_tables(kernel, root, of);
            }
        }
        _ => {
            let write = with & 1 == 0;
            let change = if write { M::Format::writable } else { M::Format::write_protected };
            // SAFETY: it makes leaves of the same frames, and nothing translates by them.
            let change = unsafe { By::new(change) };
            paging.protect(&section, root, of, change).expect("pages can be protected");
            model.range_mut(first..first + pages).for_each(|(_, page)| page.0 = write);
        }
    }
}

/// Gives back the tables of a range where nothing is mapped any more, but for those that translate something else, or lead to a table beside them.
fn free_tables<M: Machine>(kernel: &Kernel<M>, root: &Root, of: PageRange<M::Format>) {
    let paging = kernel.paging();
    let table = |va: VirtAddr| va.0 / Level::Pte.table_bytes::<M::Format>();
    let tables = table(of.start())..=table(of.start().offset_pages::<M::Format>(of.pages() - 1));
    let stays = |page: &usize| {
        let va = address(*page);
        let is_beside = !tables.contains(&table(va));
        paging.walk(root, va).is_some()
            || is_beside && paging.find_table(root, va, Level::Pte).is_some()
    };
    let first = ((of.start().0 - START) / PAGE_SIZE) as usize;
    let below = (0..first).rev().find(stays).map_or(VirtAddr(0), |page| address(page + 1));
    let above = (first + of.pages()..ROOM).find(stays).map_or(VirtAddr(1 << 47), address);
    let mut unlinked = Vec::new();
    {
        let section = paging.section(root);

        // SAFETY: nobody else works on these tables.
        unsafe { paging.free_tables(&section, root, of, below, above, |ptp| unlinked.push(ptp)) }
            .expect("the tables are empty");
    }
    paging.flush_and_release(Flush::AddressSpace(root.frame()), unlinked);
}

fn compare<M: Machine>(kernel: &Kernel<M>, root: &Root, model: &Model) {
    for page in 0..ROOM {
        let found = kernel.paging().walk(root, address(page)).map(|(level, _, entry)| {
            (M::Format::is_writable(entry), M::Format::frame(level, entry))
        });
        assert_eq!(found, model.get(&page).copied(), "page {page}");
    }
}
