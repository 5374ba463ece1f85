//! For adapters of other crates: ranges in pieces of one window each, which is what the entries of one table translate, at most.

/// What an entry translates, from the lowest level up.
pub const SIZES: [usize; 4] = [1 << 12, 1 << 21, 1 << 30, 1 << 39];

/// The largest page, up to level `highest`, by which `left` bytes can begin to be mapped, and how many of them are such pages in one table.
pub fn to_map(at: usize, to: usize, left: usize, highest: usize) -> (usize, usize) {
    let fits = |size: &&usize| (at | to).is_multiple_of(**size) && left >= **size;
    let highest = highest.clamp(1, SIZES.len());
    let size = *SIZES[..highest].iter().rev().find(fits).unwrap_or(&SIZES[0]);
    let in_table = (size << 9) - at % (size << 9);
    (size, in_table.min(left / size * size))
}

/// How many of `left` bytes are changed in the next window, where the walk ended at an entry that translates `size` bytes: a table of pages,
/// a block, or a hole.
pub fn to_change(at: usize, left: usize, size: usize) -> usize {
    let size = size.max(SIZES[1]);
    (size - at % size).min(left)
}
