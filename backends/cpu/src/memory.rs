//! Zeroed, 64-byte aligned host memory that the operating system hands out page by page as it is touched.

#![allow(unsafe_code, reason = "aligned zeroed memory has no safe allocator call")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Alignment of every buffer: a cache line, and the widest vector.
const ALIGN: usize = 64;
/// Size and alignment of a huge page.
const HUGE: usize = 2 << 20;
/// What the allocator is asked for: with more it would zero memory by hand, and so touch all of it.
const ASKED: usize = 8;

/// An owned range of memory. Never moves, so pointers into it stay valid while it lives.
#[derive(Debug)]
pub(crate) struct Memory {
    /// First aligned byte.
    base: NonNull<u8>,
    bytes: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` owns its range and hands out only raw pointers and atomics.
unsafe impl Send for Memory {}
// SAFETY: as above; shared access goes through atomics or is ordered by the pool.
unsafe impl Sync for Memory {}

/// A range of bytes of a buffer: base pointer and length. Both are multiples of 4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) base: *mut u8,
    pub(crate) bytes: usize,
    /// Whether it holds a weight that was rearranged.
    pub(crate) packed: bool,
}

// SAFETY: a span is an address; whoever dereferences it answers for the access.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Memory {
    /// At least `bytes` zeroed bytes; `None` where the system has no more.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        Self::aligned(bytes, ALIGN)
    }

    /// Like [`Self::zeroed`], for what will be touched as a whole and read at random: on huge pages where there are any,
    /// as looking up small ones takes long on virtual machines.
    pub(crate) fn zeroed_huge(bytes: usize) -> Option<Self> {
        if bytes < 2 * HUGE {
            return Self::zeroed(bytes);
        }
        let memory = Self::aligned(bytes, HUGE)?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is this allocation's; the advice changes no contents. Refusal only costs speed.
        unsafe {
            libc::madvise(memory.base.as_ptr().cast(), memory.bytes / HUGE * HUGE, libc::MADV_HUGEPAGE);
        }
        Some(memory)
    }

    fn aligned(bytes: usize, align: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(ALIGN)?.max(ALIGN);
        let layout = Layout::from_size_align(bytes.checked_add(align - ASKED)?, ASKED).ok()?;
        // SAFETY: the layout's size is not 0.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skipped = allocation.align_offset(align);
        // SAFETY: the allocation is larger by what aligning can skip.
        let base = unsafe { allocation.add(skipped) };
        Some(Self { base, bytes, allocation, layout })
    }

    /// Bytes, a multiple of 64.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The range `offset .. offset + bytes`, if it lies inside.
    pub(crate) fn span(&self, offset: usize, bytes: usize) -> Option<Span> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes());
        // SAFETY: `offset` lies inside the allocation.
        inside.then(|| Span { base: unsafe { self.base.as_ptr().add(offset) }, bytes, packed: false })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `alloc_zeroed` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

impl Span {
    /// The range as words that may be read and written by many threads; `None` unless it is 4-byte aligned.
    /// Borrowed from the span, which the owner of the memory keeps no longer than the memory.
    pub(crate) fn shared_words(&self) -> Option<&[AtomicU32]> {
        let words = self.base.cast::<AtomicU32>();
        // SAFETY: in bounds by construction; nobody holds plain references into a buffer while a launch runs.
        words.is_aligned().then(|| unsafe { std::slice::from_raw_parts(words, self.bytes / 4) })
    }

    /// Copies into the range; lengths are equal.
    pub(crate) fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes, "the range was cut to the length");
        // SAFETY: in bounds by construction; `bytes` is a reference, so it lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base, bytes.len()) }
    }

    /// Copies from the range; lengths are equal.
    pub(crate) fn read(&self, into: &mut [u8]) {
        assert_eq!(into.len(), self.bytes, "the range was cut to the length");
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.base, into.as_mut_ptr(), into.len()) }
    }
}

/// Scratch that grows to its largest use and stays.
#[derive(Debug, Default)]
pub(crate) struct Region(Option<Memory>);

impl Region {
    /// At least `floats` floats; what it held is lost where it grows. False where the system has no more.
    pub(crate) fn reserve(&mut self, floats: usize) -> bool {
        if self.0.as_ref().map_or(0, Memory::bytes) < 4 * floats {
            self.0 = Memory::zeroed(4 * floats);
        }
        floats == 0 || self.0.is_some()
    }

    /// The first float.
    pub(crate) fn floats(&mut self) -> *mut f32 {
        self.0.as_ref().map_or(std::ptr::null_mut(), |m| m.base.as_ptr().cast())
    }
}
