//! Random operands, and the way from a template to what its kernel computes.

use swiftlm_compiler::kernels::{Built, build, scratch_bytes};
use swiftlm_cpu::interp;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::verify::verify;
use swiftlm_ir::kernel::{Kernel, Length};
use swiftlm_ir::map::{Map, MapStep};
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Affine, Float, Format, HeadRow};
use swiftlm_ir::template::{Template, View};
use swiftlm_ir::ty::PAGE_TOKENS;

/// What an output holds before: to be found again wherever a kernel must not write.
pub(crate) const UNTOUCHED: f32 = 777.25;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Rows of an activation and the memory around them.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) view: View,
    pub(crate) width: usize,
    pub(crate) data: Vec<f32>,
}

impl Rows {
    fn filled(view: View, rows: usize, width: usize, value: impl FnMut() -> f32) -> Self {
        let len = (rows - 1) * view.stride + view.offset + width;
        Self { view, width, data: std::iter::repeat_with(value).take(len).collect() }
    }

    pub(crate) fn random(random: &mut Random, view: View, rows: usize, width: usize) -> Self {
        Self::filled(view, rows, width, || random.unit())
    }

    pub(crate) fn untouched(view: View, rows: usize, width: usize) -> Self {
        Self::filled(view, rows, width, || UNTOUCHED)
    }

    pub(crate) fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.data[row * self.view.stride + self.view.offset + col])
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        bytes(&self.data)
    }

    /// The same place with what a kernel left there.
    pub(crate) fn after(&self, bytes: &[u8]) -> Self {
        Self { data: floats(bytes), ..self.clone() }
    }

    /// Compares `rows` rows, and that nothing else was written.
    pub(crate) fn expect(&self, rows: usize, tolerance: f64, want: impl Fn(usize, usize) -> f64) {
        let mut left = self.data.clone();
        for row in 0..rows {
            for col in 0..self.width {
                let (got, want) = (self.at(row, col), want(row, col));
                let error = (got - want).abs();
                assert!(error <= tolerance * (1.0 + want.abs()), "({row}, {col}): got {got}, want {want}");
                left[row * self.view.stride + self.view.offset + col] = UNTOUCHED;
            }
        }
        let stray = left.iter().position(|x| *x != UNTOUCHED);
        assert_eq!(stray, None, "an element outside of the {rows} rows was written");
    }
}

pub(crate) fn bytes<T: bytemuck::NoUninit>(data: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(data).to_vec()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// An encoded matrix.
#[derive(Clone)]
pub(crate) struct Weight {
    pub(crate) ty: WeightType,
    pub(crate) bytes: Vec<u8>,
}

impl Weight {
    pub(crate) fn random(random: &mut Random, format: Format, rows: usize, cols: usize) -> Self {
        let layout = format.layout(rows, cols);
        let mut bytes = vec![0u8; layout.bytes];
        for (i, component) in layout.components.iter().enumerate() {
            let place = &mut bytes[component.offset..component.offset + component.bytes];
            match format {
                Format::Affine(_) | Format::Mxfp4 if i == 0 => place.iter_mut().for_each(|b| *b = random.next() as u8),
                Format::Affine(a) => encode(a.scale, place, || random.unit() / f32::from(1u16 << a.bits)),
                Format::Float(f) => encode(f, place, || random.unit()),
                Format::Mxfp4 => place.iter_mut().for_each(|b| *b = 120 + random.below(8) as u8),
            }
        }
        Self { ty: WeightType { format, rows, cols }, bytes }
    }

    pub(crate) fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.ty.format.decode_host(&self.bytes, self.ty.rows, self.ty.cols, row, col))
    }
}

/// Words of a head of a page in the order of the page, for each as (slot, what, index): whether a code's or a group's.
fn page_words(row: HeadRow, keys: bool) -> Vec<(usize, bool, usize)> {
    let (words, groups) = (row.words(), row.groups());
    let slots = || 0..PAGE_TOKENS;
    let codes: Vec<(usize, bool, usize)> = match keys {
        true => (0..words).flat_map(|w| slots().map(move |s| (s, false, w))).collect(),
        false => slots().flat_map(|s| (0..words).map(move |w| (s, false, w))).collect(),
    };
    codes.into_iter().chain((0..groups).flat_map(|g| slots().map(move |s| (s, true, g)))).collect()
}

/// A matrix of a row for each head's slot of each page, as it lies in pages of keys or of values.
pub(crate) fn to_pages(rows: &Weight, keys: bool) -> Vec<u8> {
    let (row, layout) =
        (HeadRow { format: rows.ty.format, dim: rows.ty.cols }, rows.ty.format.layout(rows.ty.rows, rows.ty.cols));
    let order = page_words(row, keys);
    let part = |part: usize, row: usize, i: usize, bytes: usize| {
        let c = &layout.components[part];
        let at = c.offset + row * c.row_bytes + i * bytes;
        rows.bytes[at..at + bytes].to_vec()
    };
    let heads = (0..rows.ty.rows).step_by(PAGE_TOKENS);
    let word = |(first, (slot, group, i)): (usize, (usize, bool, usize))| match group {
        false => part(0, first + slot, i, 4),
        true => [part(1, first + slot, i, 2), part(2, first + slot, i, 2)].concat(),
    };
    heads.flat_map(|first| order.iter().map(move |o| (first, *o))).flat_map(word).collect()
}

/// The inverse.
pub(crate) fn from_pages(ty: WeightType, bytes: &[u8], keys: bool) -> Weight {
    let (row, layout) = (HeadRow { format: ty.format, dim: ty.cols }, ty.format.layout(ty.rows, ty.cols));
    let (order, mut rows) = (page_words(row, keys), vec![0u8; layout.bytes]);
    let mut put = |part: usize, row: usize, i: usize, bytes: &[u8]| {
        let c = &layout.components[part];
        let at = c.offset + row * c.row_bytes + i * bytes.len();
        rows[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (n, word) in bytes.chunks_exact(4).enumerate() {
        let (slot, group, i) = order[n % order.len()];
        let row = n / order.len() * PAGE_TOKENS + slot;
        match group {
            false => put(0, row, i, word),
            true => {
                put(1, row, i, &word[..2]);
                put(2, row, i, &word[2..]);
            }
        }
    }
    Weight { ty, bytes: rows }
}

fn encode(float: Float, place: &mut [u8], mut value: impl FnMut() -> f32) {
    for slot in place.chunks_exact_mut(float.bytes()) {
        match float {
            Float::F32 => slot.copy_from_slice(&value().to_le_bytes()),
            Float::F16 => slot.copy_from_slice(&half::f16::from_f32(value()).to_le_bytes()),
            Float::Bf16 => slot.copy_from_slice(&half::bf16::from_f32(value()).to_le_bytes()),
        }
    }
}

/// The three plain formats.
pub(crate) fn float_formats() -> Vec<Format> {
    vec![Format::F32, Format::F16, Format::BF16]
}

/// Every affine format.
pub(crate) fn affine_formats() -> Vec<Format> {
    let mut all = vec![];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            for scale in [Float::F32, Float::F16, Float::Bf16] {
                all.push(Format::Affine(Affine::new(bits, group, scale).expect("the format is supported")));
            }
        }
    }
    all
}

/// A dot product in f64.
pub(crate) fn dot(n: usize, a: impl Fn(usize) -> f64, b: impl Fn(usize) -> f64) -> f64 {
    (0..n).map(|i| a(i) * b(i)).sum()
}

/// An epilogue in f64; rounding is left out.
pub(crate) fn map64(map: &Map, inputs: &[f64]) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    map.run(|step, r: &[f64]| match *step {
        MapStep::Input(i) => inputs[i as usize],
        MapStep::Const(c) => f64::from(c),
        MapStep::Add(a, b) => r[a.0 as usize] + r[b.0 as usize],
        MapStep::Mul(a, b) => r[a.0 as usize] * r[b.0 as usize],
        MapStep::Silu(a) => r[a.0 as usize] * sigmoid(r[a.0 as usize]),
        MapStep::GeluTanh(a) => {
            let x = r[a.0 as usize];
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        MapStep::Sigmoid(a) => sigmoid(r[a.0 as usize]),
        MapStep::Tanh(a) => r[a.0 as usize].tanh(),
        MapStep::Min(a, b) => r[a.0 as usize].min(r[b.0 as usize]),
        MapStep::Max(a, b) => r[a.0 as usize].max(r[b.0 as usize]),
        MapStep::Round(a, _) => r[a.0 as usize],
    })
    .expect("the epilogue has a step")
}

/// Steps of so many tokens and rows; page table rows of `table_stride` entries, up to the last of which histories reach.
pub(crate) fn sizes(tokens: usize, rows: usize, table_stride: usize) -> StepSizes {
    let last_position = (table_stride * PAGE_TOKENS - 1) as u32;
    let (tokens, rows, table_stride) = (tokens as u32, rows as u32, table_stride as u32);
    StepSizes { tokens, rows, table_stride, last_position, segments: tokens }
}

/// Verifies a kernel and runs it. Arguments are as long as declared, so that the interpreter sees any access beyond.
pub(crate) fn interpret(kernel: &Kernel, grid: [Groups; 3], mut args: Vec<Vec<u8>>, sizes: StepSizes) -> Vec<Vec<u8>> {
    if let Err(errors) = verify(kernel) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{} is refused:\n{}", kernel.name, errors.join("\n"));
    }
    assert_eq!(kernel.args.len(), args.len(), "arguments of {}", kernel.name);
    for (declared, given) in kernel.args.iter().zip(&args) {
        if let Length::Elements(n) = declared.len {
            let (bytes, name) = (n as usize * declared.elem.bytes(), &declared.name);
            assert_eq!(bytes, given.len(), "bytes of `{name}` of {}", kernel.name);
        }
    }
    let mut slices: Vec<&mut [u8]> = args.iter_mut().map(Vec::as_mut_slice).collect();
    let grid = grid.map(|groups| groups.count(&sizes));
    interp::run(kernel, &mut slices, grid, sizes).unwrap_or_else(|e| panic!("{e}"));
    args
}

/// Builds a template's kernels for steps of at most `chunk` tokens, and runs them. What they leave one another begins as
/// what is no number.
pub(crate) fn run(template: &Template, chunk: usize, mut args: Vec<Vec<u8>>, sizes: StepSizes) -> Vec<Vec<u8>> {
    let given = args.len();
    args.push(vec![0xff; scratch_bytes(template, chunk, chunk)]);
    for Built { kernel, args: taken, grid } in build(template, chunk, chunk) {
        let own = taken.iter().map(|at| args[*at].clone()).collect();
        for (at, after) in taken.iter().zip(interpret(&kernel, grid, own, sizes)) {
            args[*at] = after;
        }
    }
    args.truncate(given);
    args
}
