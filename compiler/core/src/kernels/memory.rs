//! Memories of recurrent layers in registers: a row of a head's matrix S, the part that makes one element of a value, needs no
//! other, so a run of lanes holds it over all tokens of a segment.

use swiftlm_ir::kernel::builder::{E, Kb, V};

use super::operand::{RUN, Rows, sum_of_run};
use super::segment::State;

/// Rows of S of a workgroup, a run of lanes each.
pub(super) const VALUES: usize = 8;

/// Elements of a row of S that one lane holds, with their columns; columns behind the last are no elements.
#[derive(Debug)]
pub(super) struct Row<'k> {
    kb: &'k Kb,
    key: usize,
    pub(super) held: Vec<(E<'k>, V<'k>)>,
}

impl<'k> Row<'k> {
    /// The row whose element of a column `load` gives.
    pub(super) fn new(kb: &'k Kb, key: usize, load: impl Fn(E<'k>) -> E<'k>) -> Self {
        let lane = kb.lane().modulo(RUN as usize);
        let columns = (0..key.div_ceil(RUN as usize)).map(|i| lane.plus(i * RUN as usize));
        let mut row = Self { kb, key, held: vec![] };
        row.held = columns.map(|col| (col, kb.var(row.inside(col, &load)))).collect();
        row
    }

    /// `value` of a column, 0 behind the last.
    fn inside(&self, col: E<'k>, value: impl Fn(E<'k>) -> E<'k>) -> E<'k> {
        if self.key.is_multiple_of(RUN as usize) {
            return value(col);
        }
        let last = self.kb.dim(self.key - 1);
        col.le(last).select(value(col.min(last)), self.kb.f32(0.0))
    }

    /// The elements of a vector that lie at this lane's columns.
    pub(super) fn part(&self, of: Rows<'k>, token: E<'k>, first: E<'k>) -> Vec<E<'k>> {
        self.held.iter().map(|(col, _)| self.inside(*col, |col| of.load(token, first + col))).collect()
    }

    /// What the elements are.
    pub(super) fn values(&self) -> Vec<E<'k>> {
        self.held.iter().map(|(_, v)| v.get()).collect()
    }

    /// Writes the elements.
    pub(super) fn store(&self, state: State<'k>, place: impl Fn(E<'k>) -> E<'k>) {
        for (col, value) in &self.held {
            let value = value.get();
            self.kb.when(col.lt(self.kb.dim(self.key)), || state.store(place(*col), value));
        }
    }
}

/// Dot product of two vectors that a run of lanes holds.
pub(super) fn dot<'k>(kb: &'k Kb, a: &[E<'k>], b: &[E<'k>]) -> E<'k> {
    let sum = a.iter().zip(b).map(|(a, b)| *a * *b).reduce(|sum, term| sum + term).unwrap_or(kb.f32(0.0));
    sum_of_run(kb, sum)
}

/// `ln(1 + e^x)`. Where `e^x` is small the logarithm's series takes the place of a sum that would swallow it.
pub(super) fn softplus<'k>(kb: &'k Kb, x: E<'k>) -> E<'k> {
    let power = (-x.abs()).exp();
    // ln(1 + p) = 2 artanh(p / (2 + p)), and p / (2 + p) is at most a third.
    let ratio = power / (kb.f32(2.0) + power);
    let square = ratio * ratio;
    let series = [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0];
    let sum = series.into_iter().map(|c: f64| kb.f32(c as f32)).reduce(|sum, c| sum * square + c);
    x.max(kb.f32(0.0)) + kb.f32(2.0) * ratio * sum.unwrap_or(kb.f32(1.0))
}
