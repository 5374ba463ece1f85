//! Holding leaves against the types of what they map, in the gate that stores them.
//!
//! What is judged is what is stored: an entry is loaded from the caller's memory once, into a register, and no other CPU can change a type meanwhile
//! without being noticed. Data that is mapped gets its mark first, so that at no moment an entry maps data without one.

use core::panic::Location;

use super::frame_type::FrameType;
use super::rules::{LeafRule, Noted, Violation};
use super::types::{NO_WORD, Types};
use crate::addr::{Level, PhysAddr};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::machine::Machine;
use crate::section::{Marks, Section, TypesWindow};
use crate::table::{Slot, Slots};

/// What leaves of one kind are held against, for the length of a gate.
pub(crate) struct Admission<'a, F: Format> {
    types: &'a Types<F>,
    rule: LeafRule,
    /// What the word of a frame is that such a leaf may map, and that has its mark: nearly every frame's. If it may map no data, what no word is.
    usual: u32,
    to_alias: usize,
    /// Where what is audited is noted.
    noted: &'a Noted,
    by: &'static Location<'static>,
}

/// What is asked of each frame first, apart from the rest: by value, it is in registers while entries are stored.
pub(crate) struct Usual<F: Format> {
    types: Types<F>,
    word: u32,
}

impl<F: Format> Usual<F> {
    /// Whether a frame is what nearly every frame is that such a leaf maps.
    #[inline(always)]
    pub(crate) fn is(&self, frame: PhysAddr) -> bool {
        self.types.has_word(frame, self.word)
    }
}

impl<'a, F: Format> Admission<'a, F> {
    #[inline(always)]
    fn new(
        types: &'a Types<F>,
        mark: u32,
        section: &'a Section<'_, impl Machine<Format = F>>,
        leaf: Entry,
        by: &'static Location<'static>,
    ) -> Self {
        let rule = LeafRule::of::<F>(section.space(), leaf);
        let usual = if rule.admits_data() { mark } else { NO_WORD };
        Admission { types, rule, usual, to_alias: section.to_alias(), noted: section.noted(), by }
    }

    /// See [`Usual`].
    #[inline(always)]
    pub(crate) fn usual(&self) -> Usual<F> {
        Usual { types: self.types.by_value(), word: self.usual }
    }

    /// Whether such a leaf may map a frame that is not [`Usual`], which is marked then; or must be already, where the window is not one for `marks`.
    #[cold]
    #[inline(never)]
    pub(crate) fn admits_unusual(&self, marks: Marks<'_>, frame: PhysAddr) -> bool {
        let is = self.types.of(frame);
        if !self.rule.admits_type(is) {
            return self.types.audits() && self.note(frame);
        }
        // What is no data needs no mark: it never becomes a table.
        !is.is_data() || self.marks(marks, frame)
    }

    /// Marks a frame, or asks whether that was done already where it cannot be.
    fn marks(&self, marks: Marks<'_>, frame: PhysAddr) -> bool {
        match marks {
            Marks::Here(window) => {
                self.types.mark(&window, self.to_alias, frame, self.usual).is_ok()
            }
            Marks::Before(_) => self.types.is_marked_as(frame, self.usual),
        }
    }

    /// Marks a frame that is not [`Usual`] before the window in which it is judged, if such a leaf may map it.
    fn mark_before(&self, window: &TypesWindow<'_>, frame: PhysAddr) {
        let is = self.types.of(frame);
        if is.is_data() && self.rule.admits_type(is) {
            // What is refused here is refused there.
            let _ = self.marks(Marks::Here(*window), frame);
        }
    }

    /// Notes a leaf that is stored although its frame does not admit it.
    fn note(&self, frame: PhysAddr) -> bool {
        let violation = self.rule.violation(self.types, frame, None, self.by);
        self.noted.note(Violation { stored: true, ..violation });
        true
    }
}

impl<'m, M: Machine> Section<'m, M> {
    /// Holds the table that an entry is in against its type, and returns what leaves like `leaf` in it are held against.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is no such table.
    #[inline(always)]
    pub(crate) fn admission<'a>(
        &'a self,
        types: &'a Types<M::Format>,
        slot: Slot<'_>,
        level: Level,
        (mark, leaf): (u32, Entry),
        by: &'static Location<'static>,
    ) -> Result<Admission<'a, M::Format>, Error> {
        self.check_table(types, slot, level, by)?;
        Ok(Admission::new(types, mark, self, leaf, by))
    }

    /// Holds a leaf at a level against the types of what it maps, and its table against the table's.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    pub(crate) fn admit(
        &self,
        marks: Marks<'_>,
        types: &Types<M::Format>,
        (slot, level): (Slot<'_>, Level),
        leaf: Entry,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        self.check_table(types, slot, level, by)?;
        self.admit_leaf(marks, types, marks.word(types), (slot, level), leaf, by)
    }

    /// [`admit`](Self::admit) for a table that was looked at in this gate. `mark` is what [`Types::mapped_word`] said in it.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    pub(crate) fn admit_leaf(
        &self,
        marks: Marks<'_>,
        types: &Types<M::Format>,
        mark: u32,
        (slot, level): (Slot<'_>, Level),
        leaf: Entry,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        if !M::Format::is_present(leaf) {
            return Ok(());
        }
        let admission = Admission::new(types, mark, self, leaf, by);
        let (first, usual) = (M::Format::frame(level, leaf), admission.usual());
        for page in 0..level.entry_pages::<M::Format>() as u64 {
            let frame = first.offset(page * M::Format::PAGE_SIZE);
            if !usual.is(frame) && !admission.admits_unusual(marks, frame) {
                return Err(self.refused(&admission, frame, slot, by));
            }
        }
        Ok(())
    }

    /// Whether a leaf maps a frame that has no mark of this number: [`mark_leaf`](Self::mark_leaf) is due before it is stored, where that cannot be done in one window.
    pub(crate) fn lacks_mark(
        &self,
        types: &Types<M::Format>,
        mark: u32,
        (level, leaf): (Level, Entry),
    ) -> bool {
        frames_of::<M::Format>(level, leaf).any(|frame| !types.has_word(frame, mark))
    }

    /// Marks what a leaf maps, as far as it may.
    pub(crate) fn mark_leaf(
        &self,
        window: &TypesWindow<'_>,
        types: &Types<M::Format>,
        mark: u32,
        (level, leaf): (Level, Entry),
    ) {
        self.mark_before(window, types, mark, leaf, frames_of::<M::Format>(level, leaf));
    }

    /// Marks frames that leaves like `leaf` are to map, as far as these may, before the window in which they are judged.
    #[inline]
    pub(crate) fn mark_before(
        &self,
        window: &TypesWindow<'_>,
        types: &Types<M::Format>,
        mark: u32,
        leaf: Entry,
        frames: impl Iterator<Item = PhysAddr>,
    ) {
        let admission = Admission::new(types, mark, self, leaf, Location::caller());
        let usual = admission.usual();
        for frame in frames.filter(|&frame| !usual.is(frame)) {
            admission.mark_before(window, frame);
        }
    }

    /// What is said of a frame that a leaf may not map.
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(
        &self,
        admission: &Admission<'_, M::Format>,
        frame: PhysAddr,
        slot: Slot<'_>,
        by: &'static Location<'static>,
    ) -> Error {
        self.refuse_in_window(admission.rule.violation(
            admission.types,
            frame,
            Some(slot.address()),
            by,
        ))
    }

    /// While a sweep is under way, marks what a leaf maps that is stored to another place than it was found at: the sweep may have looked there
    /// before, and look at the first too late. Returns whether it may be stored there: where marks are made before, it may not if it was found only since.
    #[inline(always)]
    pub(crate) fn mark_moved(
        &self,
        marks: Marks<'_>,
        types: Option<&Types<M::Format>>,
        leaf: Entry,
    ) -> bool {
        let Some(types) = types else { return true };
        let frame = M::Format::frame(Level::Pte, leaf);
        match marks {
            Marks::Here(window) => {
                // What is no data needs no mark.
                let _: Result<(), FrameType> =
                    types.mark(&window, self.to_alias(), frame, types.mapped_word());
                true
            }
            Marks::Before(word) => types.is_marked_as(frame, word) || !types.is_data(frame),
        }
    }

    /// Marks what the leaves of a run map, before the window in which they are stored to another place.
    pub(crate) fn mark_before_move(&self, window: &TypesWindow<'_>, leaves: Slots<'_>, word: u32) {
        let Some(types) = self.types() else { return };
        let leaves = leaves.iter().map(|slot| slot.load_relaxed());
        for leaf in leaves.filter(|leaf| M::Format::is_present(*leaf)) {
            let frame = M::Format::frame(Level::Pte, leaf);
            // As above.
            let _: Result<(), FrameType> = types.mark(window, self.to_alias(), frame, word);
        }
    }
}

/// The frames that a leaf maps; none if it maps nothing.
fn frames_of<F: Format>(level: Level, leaf: Entry) -> impl Iterator<Item = PhysAddr> {
    let (first, pages) = (F::frame(level, leaf), level.entry_pages::<F>() as u64);
    let pages = if F::is_present(leaf) { pages } else { 0 };
    (0..pages).map(move |page| first.offset(page * F::PAGE_SIZE))
}
