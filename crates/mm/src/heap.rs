//! The heap, asked in a way that it can refuse.
//!
//! Whatever a request makes the kernel allocate goes through here, so that a heap that is used up is an [`Error::OutOfMemory`] to whoever
//! asked, and nothing more. What must not fail half-way asks for all it will need before it begins.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::Error;

/// A value on the heap.
///
/// # Errors
///
/// [`Error::OutOfMemory`]; the value is dropped then.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, Error> {
    let mut one = with_room_for(1)?;
    one.push(value);
    let one: *mut [T] = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a slice of one element has the layout of the element, at the same address, and the box was given up just now.
    Ok(unsafe { Box::from_raw(one.cast()) })
}

/// An empty vector with room for `len` elements.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub(crate) fn with_room_for<T>(len: usize) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    // `try_reserve` fails without asking the heap if the size cannot be expressed.
    vec.try_reserve_exact(len).map_err(|_| Error::OutOfMemory)?;
    Ok(vec)
}

/// The elements of an iterator.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub(crate) fn collect<T>(values: impl IntoIterator<Item = T>) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    for value in values {
        vec.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        vec.push(value);
    }
    Ok(vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_heap_has_are_refused() {
        assert_eq!(with_room_for::<u64>(usize::MAX / 8 + 1).err(), Some(Error::OutOfMemory));
        assert_eq!(with_room_for::<u64>(isize::MAX as usize / 8).err(), Some(Error::OutOfMemory));
    }

    #[test]
    fn boxes_own_their_values() {
        let value = alloc::rc::Rc::new(5);
        let one = boxed(value.clone()).unwrap();
        assert_eq!((alloc::rc::Rc::strong_count(&value), **one), (2, 5));
        drop(one);
        assert_eq!(alloc::rc::Rc::strong_count(&value), 1);
    }
}
