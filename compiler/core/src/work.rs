//! What a launch must move and compute at least, known before anything runs: the floor that a measurement is held against.
//!
//! A byte counts once a launch, whatever the kernels do: weights as they are stored, activations of the step's rows, of a
//! history what a query may see. What the kernels of one launch leave one another does not count.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::quant::{ArchiveRow, Format, HeadRow, Turbo};
use swiftlm_ir::template::{Attend, Extra, Linear, Norm, Template};
use swiftlm_ir::ty::PAGE_TOKENS;

/// A step of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Tokens of the step.
    pub tokens: usize,
    /// Those that want logits.
    pub rows: usize,
    /// Tokens of the sequence before them.
    pub before: usize,
}

/// Bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Additions and multiplications; anything slower counts as one.
    pub flops: u64,
}

impl Work {
    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { read, written, flops } = other;
        Self { read: self.read + read, written: self.written + written, flops: self.flops + flops }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(works: I) -> Self {
        works.fold(Self::default(), std::ops::Add::add)
    }
}

/// Bytes of a row of `n` values of a weight.
fn row(format: Format, n: usize) -> usize {
    format.layout(1, n).components.iter().map(|component| component.row_bytes).sum()
}

/// Bytes of one head of one token of a history.
fn head(format: Format, dim: usize) -> usize {
    HeadRow { format, dim }.page_bytes() / PAGE_TOKENS
}

/// Bytes of one head of a page of an archive.
fn coded(format: Turbo, dim: usize) -> usize {
    ArchiveRow::new(format, dim).map_or(0, |row| row.page_bytes())
}

fn work(read: usize, written: usize, flops: usize) -> Work {
    Work { read: read as u64, written: written as u64, flops: flops as u64 }
}

/// Inputs of an epilogue over `rows` rows of `width` elements.
fn extras(extras: &[Extra], rows: usize, width: usize) -> usize {
    let bytes = |extra: &Extra| match extra {
        Extra::Column(format) => row(*format, width),
        Extra::Element(_) => 4 * rows * width,
        Extra::Part { .. } => 0,
    };
    extras.iter().map(bytes).sum()
}

fn norm(norm: Option<&Norm>, width: usize) -> usize {
    norm.map_or(0, |norm| row(norm.weight, width))
}

/// The work of one launch of a step.
pub fn work_of(template: &Template, step: &StepShape) -> Work {
    let rows = match template.rows() {
        Sym::Tokens => step.tokens,
        Sym::Rows => step.rows,
    };
    match template {
        Template::Embed(t) => {
            let n = rows * t.weight.cols;
            work(rows * (4 + row(t.weight.format, t.weight.cols)), 4 * n, n)
        }
        Template::RmsNorm(t) => {
            let n = rows * t.heads * t.dim;
            let columns = extras(&t.extras, rows, t.heads * t.dim);
            work(4 * n + norm(Some(&t.norm), t.weights()) + columns, 4 * n, 4 * n)
        }
        Template::Linear(t) => linear(t, rows),
        Template::Rope(t) => {
            let n = rows * t.heads * t.dim;
            work(4 * n + 4 * rows * t.rotated + norm(t.norm.as_ref(), t.dim), 4 * n, 3 * rows * t.heads * t.rotated)
        }
        // The butterflies of three rounds.
        Template::Rotate(t) => {
            let n = rows * t.heads * t.dim;
            work(4 * n, 4 * n, 3 * n * t.dim.max(2).ilog2() as usize)
        }
        Template::Append(t) => {
            let n = rows * t.heads;
            work(8 * n * t.dim, n * (head(t.k_format, t.dim) + head(t.v_format, t.dim)), 0)
        }
        Template::RopeAppend(t) => {
            let (kv, dim) = (&t.append, t.append.dim);
            let heads = t.heads + 2 * kv.heads;
            let norms = norm(t.q_norm.as_ref(), dim) + norm(t.k_norm.as_ref(), dim);
            let pages = rows * kv.heads * (head(kv.k_format, dim) + head(kv.v_format, dim));
            let turned = rows * (t.heads + kv.heads);
            work(
                4 * rows * (heads * dim + t.rotated) + norms,
                4 * rows * t.heads * dim + pages,
                turned * (3 * t.rotated + 4 * dim),
            )
        }
        Template::LatentAppend(t) => {
            let (dim, turned) = (t.latent + t.rest, if t.rotation.is_some() { t.rest } else { 0 });
            let read = 4 * rows * (dim + turned) + norm(t.norm.as_ref(), t.latent);
            work(read, rows * head(t.format, dim), rows * (3 * turned + 4 * t.latent))
        }
        Template::HeadLinear(t) => {
            // The rows of each head that are used.
            let weights = t.heads * t.len * row(t.weight.format, t.weight.cols);
            let (inputs, outputs) = (t.heads * t.dim, t.heads * (t.outputs() + t.rest()));
            let flops = 2 * rows * t.heads * t.len * t.weight.cols;
            work(weights + 4 * rows * inputs, 4 * rows * outputs, flops)
        }
        Template::Archive(t) => {
            let full = (step.before + step.tokens) / PAGE_TOKENS - step.before / PAGE_TOKENS;
            let vectors = full * PAGE_TOKENS * t.heads;
            let read = vectors * (head(t.k_format, t.dim) + head(t.v_format, t.dim));
            let written = full * t.heads * (coded(t.archive.k, t.dim) + coded(t.archive.v, t.dim));
            work(read, written, 4 * vectors * t.dim)
        }
        Template::Attend(t) => attend(t, step),
        Template::ShortConv(t) => {
            let (n, state) = (rows * t.channels, 4 * t.channels * (t.taps - 1));
            let weight = row(t.weight, t.channels * t.taps) + extras(&t.extras, rows, t.channels);
            work(4 * n + weight + if step.before > 0 { state } else { 0 }, 4 * n + state, 2 * n * t.taps)
        }
        Template::Delta(t) => {
            let (states, state) = (t.heads * t.key * t.value, 4 * t.heads * t.key * t.value);
            let inputs = rows * (2 * t.key_heads * t.key + t.heads * (t.value + 2));
            let decay = t.decay.map(|format| row(format, t.heads)).iter().sum::<usize>();
            let read = 4 * inputs + decay + if step.before > 0 { state } else { 0 };
            // Decay, S k, the outer product and S q.
            work(read, 4 * rows * t.heads * t.value + state, 7 * rows * states)
        }
        Template::Ssm(t) => {
            let (states, state) = (t.heads * t.key * t.value, 4 * t.heads * t.key * t.value);
            let inputs = rows * (2 * t.groups * t.key + t.heads * (t.value + 1));
            let weights = t.weights.map(|format| row(format, t.heads)).iter().sum::<usize>();
            let read = 4 * inputs + weights + extras(&t.extras, rows, t.heads * t.value);
            // Decay, the outer product and S C.
            let read = read + if step.before > 0 { state } else { 0 };
            work(read, 4 * rows * t.heads * t.value + state, 5 * rows * states)
        }
        Template::Route(t) => {
            let chosen = rows * t.top_k;
            let bias = t.bias.map_or(0, |format| row(format, t.experts));
            work(4 * rows * t.experts + bias, 8 * chosen, rows * t.experts * (2 + t.top_k))
        }
        Template::ExpertLinear(t) => {
            let (ranks, n) = (rows * t.top_k, t.weight.rows / t.experts.max(1));
            let inputs = if t.x_per_rank { ranks } else { rows };
            let outputs = if t.pair { n / 2 } else { n };
            // The most experts that so many tokens can be sent to.
            let touched = ranks.min(t.experts);
            let weights = t.expert_bytes() * touched;
            work(weights + 4 * inputs * t.weight.cols + 4 * ranks, 4 * ranks * outputs, 2 * ranks * n * t.weight.cols)
        }
        Template::Combine(t) => {
            let n = rows * t.dim;
            work(4 * rows * t.top_k * (t.dim + 1) + extras(&t.extras, rows, t.dim), 4 * n, 2 * n * t.top_k)
        }
        Template::Rows(t) => work(4 * rows * (t.dim + 1), 4 * rows * t.dim, 0),
        Template::ArgMax(t) => work(4 * rows * t.dim, 4 * rows, rows * t.dim),
        Template::Map(t) => work(extras(&t.extras, rows, t.dim), 4 * rows * t.dim, rows * t.dim),
    }
}

fn linear(t: &Linear, rows: usize) -> Work {
    let (inputs, outputs) = (rows * t.weight.cols, rows * t.outputs());
    let read = t.weight.bytes() + norm(t.norm.as_ref(), t.weight.cols) + extras(&t.extras, rows, t.outputs());
    let norms = if t.norm.is_some() { 4 * inputs } else { 0 };
    work(read + 4 * inputs, 4 * outputs, 2 * rows * t.weight.rows * t.weight.cols + norms)
}

/// A history that several tokens of a step see is read once for all of them.
fn attend(t: &Attend, step: &StepShape) -> Work {
    let limit = if t.window == 0 { usize::MAX } else { t.window };
    let seen: usize = (step.before + 1..=step.before + step.tokens).map(|keys| keys.min(limit)).sum();
    let history = (step.before + step.tokens).min(limit.saturating_add(step.tokens - 1));
    let values = if t.latent.is_some() { 0 } else { head(t.v_format, t.dim) };
    let plain = head(t.k_format, t.dim) + values;
    let bytes = match &t.archive {
        None => history * plain,
        Some(a) => {
            let recent = history.min(a.first + a.recent());
            recent * plain + (history - recent) * (coded(a.k, t.dim) + coded(a.v, t.dim)) / PAGE_TOKENS
        }
    };
    let rows = |dim: usize| 4 * step.tokens * t.heads * dim;
    let sinks = t.sinks.map_or(0, |float| t.heads * float.bytes());
    let (read, written) = (rows(t.dim) + t.kv_heads * bytes + sinks, rows(t.value_dim()));
    work(read, written, 2 * seen * t.heads * (t.dim + t.value_dim()))
}
