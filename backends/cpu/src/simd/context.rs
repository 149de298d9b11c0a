//! What a micro-kernel is given: arguments checked against what this step reaches, sizes, threads and scratch.

use std::sync::atomic::{AtomicU64, Ordering};

use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::template::View;

use super::isa::{IsaKind, Task};
use super::packed::Packed;
use super::weights::Matrix;
use crate::memory::{Region, Span};
use crate::pool::{PerWorker, Pool};

/// A launch's surroundings.
pub(crate) struct Context<'a> {
    pub(crate) args: &'a [Span],
    pub(crate) sizes: StepSizes,
    pub(crate) pool: &'a Pool,
    pub(crate) isa: IsaKind,
    /// Each worker's own scratch, of at least the bytes that the launch said it needs.
    pub(crate) workers: &'a PerWorker<Region>,
    pub(crate) faults: Faults,
}

/// Scratch of a launch, in floats.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Shared by all workers.
    pub(crate) launch: usize,
    /// Of each worker.
    pub(crate) worker: usize,
}

/// Rows of an activation. The pointer is to the first column of row 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) base: *mut f32,
    pub(crate) stride: usize,
}

/// Whole numbers in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    base: *mut u32,
    len: usize,
}

// SAFETY: addresses; the accesses are made by tasks that write disjoint places.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}
// SAFETY: as above.
unsafe impl Send for Ids {}
// SAFETY: as above.
unsafe impl Sync for Ids {}

impl Rows {
    /// The first column of a row.
    #[inline(always)]
    pub(crate) unsafe fn row(self, i: usize) -> *mut f32 {
        self.base.add(i * self.stride)
    }
}

impl Ids {
    /// Number `i`, which is below the length.
    #[inline(always)]
    pub(crate) fn get(self, i: usize) -> usize {
        debug_assert!(i < self.len, "the length was checked when the launch began");
        // SAFETY: in bounds.
        unsafe { *self.base.add(i) as usize }
    }

    /// Number `i`, if there is one.
    #[inline(always)]
    pub(crate) fn checked(self, i: usize) -> Option<usize> {
        (i < self.len).then(|| self.get(i))
    }

    /// Writes number `i`, which is below the length.
    #[inline(always)]
    pub(crate) fn set(self, i: usize, value: usize) {
        debug_assert!(i < self.len, "the length was checked when the launch began");
        // SAFETY: in bounds, and each place is written by one task.
        unsafe { *self.base.add(i) = value as u32 }
    }
}

/// Data that points outside of its target, found while tasks run: the smallest, so that the report does not vary.
#[derive(Debug)]
pub(crate) struct Faults(AtomicU64);

impl Faults {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// Notes that argument `arg` holds `value`.
    #[cold]
    pub(crate) fn report(&self, arg: usize, value: usize) {
        self.0.fetch_min((arg as u64) << 32 | value as u64 & 0xffff_ffff, Ordering::Relaxed);
    }

    /// The fault, if any, in words.
    pub(crate) fn result(&self) -> Result<(), String> {
        match self.0.load(Ordering::Relaxed) {
            u64::MAX => Ok(()),
            fault => Err(format!("argument {} holds {}, which is out of range", fault >> 32, fault as u32)),
        }
    }
}

impl Context<'_> {
    fn arg(&self, arg: usize) -> Result<Span, String> {
        self.args.get(arg).copied().ok_or_else(|| format!("argument {arg} is missing"))
    }

    fn at_least(&self, arg: usize, what: &str, bytes: usize) -> Result<Span, String> {
        let span = self.arg(arg)?;
        if span.bytes < bytes {
            return Err(format!("argument {arg} ({what}) has {} bytes, this step reaches {bytes}", span.bytes));
        }
        Ok(span)
    }

    /// `rows` rows of `width` floats.
    pub(crate) fn rows(&self, arg: usize, what: &str, view: View, rows: usize, width: usize) -> Result<Rows, String> {
        let floats = if rows == 0 { 0 } else { (rows - 1) * view.stride + view.offset + width };
        let base = self.at_least(arg, what, 4 * floats)?.base.cast::<f32>();
        Ok(Rows { base: base.wrapping_add(view.offset), stride: view.stride })
    }

    /// `len` whole numbers.
    pub(crate) fn ids(&self, arg: usize, what: &str, len: usize) -> Result<Ids, String> {
        Ok(Ids { base: self.at_least(arg, what, 4 * len)?.base.cast(), len })
    }

    /// All whole numbers of an argument.
    pub(crate) fn all_ids(&self, arg: usize) -> Result<Ids, String> {
        let span = self.arg(arg)?;
        Ok(Ids { base: span.base.cast(), len: span.bytes / 4 })
    }

    /// A weight in MLX's order.
    pub(crate) fn matrix(&self, arg: usize, what: &str, ty: WeightType) -> Result<Matrix, String> {
        let span = self.at_least(arg, what, ty.bytes())?;
        if span.packed {
            return Err(format!("argument {arg} ({what}) was rearranged for products of whole numbers, this is none"));
        }
        Ok(Matrix::new(ty, span.base))
    }

    /// A weight that was rearranged; `None` if it was not.
    pub(crate) fn packed(&self, arg: usize, what: &str, ty: WeightType) -> Result<Option<Packed>, String> {
        let span = self.at_least(arg, what, ty.bytes())?;
        Ok(if span.packed { Packed::new(ty, span.base) } else { None })
    }

    /// The whole of an argument.
    pub(crate) fn span(&self, arg: usize) -> Result<Span, String> {
        self.arg(arg)
    }

    /// Runs `make(task)` for every task on the pool with the device's instruction set.
    pub(crate) fn parallel<T: Task<Out = ()>>(&self, tasks: usize, make: impl Fn(usize, *mut f32) -> T + Sync) {
        self.pool.run(tasks, &|worker, task| {
            self.workers.with(worker, |region| {
                // SAFETY: the device chose an available instruction set; tasks answer for their pointers.
                unsafe { self.isa.run(make(task, region.floats())) }
            });
        });
    }
}
