//! A system for the checker: violations are planted in it one at a time and taken back, so that it is clean before and after each.

use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::{Attrs, Config, Entry, Format, Level, PhysAddr, Root, VirtAddr};

use super::{KERNEL, Keys, Place, Protection, SMALL, System, USER, pages};

/// Pages in 1 GiB.
const ONE_BLOCK: usize = 1 << 18;

/// A system with a user and a kernel mapping in use.
pub struct Victim<F: HostedFormat, S: Protection = Keys> {
    pub system: System<F, S>,
    pub user: Root,
    pub data: PhysAddr,
    config: Config,
}

impl<F: HostedFormat, S: Protection> Victim<F, S> {
    pub fn new(config: Config) -> Self {
        let memory = if config.linear == Level::Pud { ONE_BLOCK } else { SMALL };
        let system = System::boot(config, memory);
        system.paging.link_kernel_half(pages(KERNEL, 1)).unwrap();
        let (user, data) = (system.new_user_root(), system.data_block(2));
        system.map(&user, pages(USER, 4), Attrs::USER_DATA, data).unwrap();
        system.map(system.paging.kernel(), pages(KERNEL, 4), Attrs::KERNEL_DATA, data).unwrap();
        let victim = Victim { system, user, data, config };
        assert_eq!(victim.findings(), [], "clean before: {config:?}");
        victim
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.system.findings(&[&self.user])
    }

    /// Plants an entry, passes what the checker finds, and takes it back.
    pub fn with_planted(&self, place: Place, entry: Entry, look: impl FnOnce(&[Finding])) {
        self.system.plant(place.table, place.index, entry);
        // What types say of it besides is another test's business (`frame_types`).
        let mut findings = self.findings();
        findings.retain(|finding| {
            !matches!(
                finding,
                Finding::WrongType { .. }
                    | Finding::ForbiddenLeaf { .. }
                    | Finding::UnmarkedLeaf { .. }
            )
        });
        look(&findings);
        self.system.plant(place.table, place.index, place.entry);
        assert_eq!(self.findings(), [], "clean after: {:?}", self.config);
    }

    /// A user table of each level, the root included.
    pub fn user_table(&self, level: Level) -> PhysAddr {
        let mut table = self.user.frame();
        let mut at = F::ROOT;
        while at > level {
            table = F::frame(at, self.system.read(table, USER.index::<F>(at)));
            at = at.below().expect("above the last level");
        }
        table
    }

    /// Where the entry of a frame's alias is.
    pub fn alias_place(&self, frame: PhysAddr) -> Place {
        let va = self.system.paging.alias_of(frame).expect("it has a place");
        self.system.place(self.system.paging.alias_root(), va)
    }

    /// A page of each half that nothing maps: its root, its address, and what would map data there.
    pub fn unmapped_pages(&self) -> [(&Root, VirtAddr, Attrs); 2] {
        [
            (self.system.paging.kernel(), KERNEL.offset_pages::<F>(9), Attrs::KERNEL_DATA),
            (&self.user, USER.offset_pages::<F>(9), Attrs::USER_DATA),
        ]
    }

    pub fn empty_slot(&self, level: Level, root: &Root, va: VirtAddr) -> Place {
        let place = self.system.place(root, va);
        assert!(place.entry.is_empty() && place.level == level, "{place:?}");
        place
    }
}

/// Levels of a user's tables, the root's last.
pub fn levels<F: Format>() -> impl DoubleEndedIterator<Item = Level> + Clone {
    Level::ALL.into_iter().filter(|&level| level <= F::ROOT)
}
