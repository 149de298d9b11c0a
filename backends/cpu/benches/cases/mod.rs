//! Launches that benches run, over layers of weights or pages of their own.

#![allow(dead_code, reason = "every bench uses a part of this")]

use std::sync::Arc;

use swiftlm_cpu::{CpuDevice, CpuOptions, IsaKind, Tier};
use swiftlm_device::{Device, Launch, RecordingId, Slice, Usage};
use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Archive, Format};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::template::{Attend, Linear, Template, View};
use swiftlm_ir::ty::{PAGE_TOKENS, StateType};

/// Bytes that a sample reads at least, where it shall come from memory.
const STACK: usize = 128 << 20;

/// A recording of the same launch over different memory.
pub(crate) struct Case {
    device: CpuDevice,
    recording: RecordingId,
    sizes: StepSizes,
    pub(crate) layers: usize,
    /// Of weights or pages of a layer.
    pub(crate) bytes: usize,
    /// Multiply-adds of a layer.
    pub(crate) products: usize,
}

/// On which device, and over how much memory.
#[derive(Clone, Copy)]
pub(crate) struct On {
    pub(crate) isa: IsaKind,
    pub(crate) threads: usize,
    /// Over more layers than any cache holds, or over one.
    pub(crate) from_memory: bool,
}

impl On {
    /// The best instruction set, from memory.
    pub(crate) fn threads(threads: usize) -> Self {
        Self { isa: IsaKind::available()[0], threads, from_memory: true }
    }

    fn device(self) -> CpuDevice {
        let options = CpuOptions { threads: self.threads, tier: Tier::Native };
        CpuDevice::with_isa(options, self.isa).expect("the machine has the instruction set")
    }

    fn layers(self, bytes: usize) -> usize {
        if self.from_memory { STACK.div_ceil(bytes) } else { 1 }
    }
}

impl Case {
    /// Runs it once.
    pub(crate) fn run(&mut self) {
        self.device.submit(&[self.recording], self.sizes).expect("the launch was checked");
    }

    fn new(
        mut device: CpuDevice,
        template: &Arc<Template>,
        sizes: StepSizes,
        layers: usize,
        mut args: impl FnMut(&mut CpuDevice) -> Vec<Slice>,
    ) -> Self {
        let kernel = Kernel { name: "bench".into(), lanes: 1, immediate_max: sizes.words(), ..Kernel::default() };
        let kernel = device.load(&kernel).expect("the native tier takes any kernel");
        let launch = |args| Launch::of_kernel(kernel, Arc::clone(template), args, [Groups::fixed(1); 3], "bench");
        let launches = (0..layers).map(|_| launch(args(&mut device))).collect();
        let recording = device.record(launches).expect("the arguments fit");
        Self { device, recording, sizes, layers, bytes: 0, products: 0 }
    }
}

fn slice(device: &mut CpuDevice, contents: &[u8]) -> Slice {
    let buffer = device.alloc(contents.len(), Usage::ReadWrite, "bench").expect("the machine has memory for it");
    device.write(buffer, 0, contents).expect("the buffer was just made");
    Slice { buffer, offset: 0, bytes: contents.len() }
}

/// A product of `rows` rows, rounded to so many bits, with a weight as large as `[outputs, cols]`.
pub(crate) fn linear(on: On, format: Format, bits: Option<u8>, (cols, outputs): (usize, usize), rows: usize) -> Case {
    let sizes = StepSizes { tokens: rows as u32, rows: 1, table_stride: 1, last_position: 0, segments: 0 };
    let weight = WeightType { format, rows: outputs, cols };
    let template = Arc::new(Template::Linear(Linear {
        rows: Sym::Tokens,
        class: ShapeClass::of(rows),
        weight,
        norm: None,
        round: bits.and_then(|bits| Rounding::of_weight(format, bits)),
        pair: false,
        epilogue: Map::identity(),
        extras: vec![],
        x: View::dense(cols),
        y: View::dense(outputs),
    }));
    let mut device = on.device();
    let x = slice(&mut device, &vec![0x3d; 4 * rows * cols]);
    let y = slice(&mut device, &vec![0; 4 * rows * outputs]);
    let case = Case::new(device, &template, sizes, on.layers(weight.bytes()), |device| {
        let weights = slice(device, &vec![0x3c; weight.bytes()]);
        device.settle(weights, weight, &[&template]).expect("the weight was just written");
        vec![x, weights, y]
    });
    Case { bytes: weight.bytes(), products: rows * outputs * cols, ..case }
}

/// A format by its name, or f16 with TurboQuant codes for older tokens.
fn stored(kv: &str) -> (Format, Option<Archive>) {
    match kv.strip_prefix('k').and_then(|bits| bits.split_once('v')) {
        Some((k, v)) => {
            let bits = |n: &str| n.parse().expect("a number");
            (Format::F16, Some(Archive::of_bits(bits(k), bits(v)).expect("codes of 1 to 4 bits")))
        }
        None => (kv.parse().expect("a format's name"), None),
    }
}

/// Attention of `tokens` new tokens behind `depth` old ones: query heads, KV heads, elements of a head.
pub(crate) fn attend(
    on: On,
    (heads, kv_heads, dim): (usize, usize, usize),
    kv: &str,
    depth: usize,
    tokens: usize,
) -> Case {
    let (format, archive) = stored(kv);
    let pages = (depth + tokens).div_ceil(PAGE_TOKENS);
    let last_position = (depth + tokens - 1) as u32;
    let sizes = StepSizes { tokens: tokens as u32, rows: 1, table_stride: pages as u32, last_position, segments: 0 };
    let view = View::dense(heads * dim);
    let template = Arc::new(Template::Attend(Attend {
        class: ShapeClass::of(tokens),
        heads,
        kv_heads,
        dim,
        scale: 1.0 / (dim as f32).sqrt(),
        window: 0,
        cap: 0.0,
        k_format: format,
        v_format: format,
        latent: None,
        archive,
        rotate_back: archive.is_some(),
        sinks: None,
        q: view,
        y: view,
    }));
    let state = StateType::Paged { window: 0, heads: kv_heads, dim, k: format, v: format, latent: None, archive };
    let bytes = state.bytes_read(depth + tokens);
    let mut device = on.device();
    let ids = |ids: Vec<usize>| -> Vec<u8> { ids.iter().flat_map(|i| (*i as u32).to_le_bytes()).collect() };
    // Floats near 0.1 in every format, and codes and scales that are finite.
    let half = |n: usize| [0xcdu8, 0x2c, 0x66, 0x2d].iter().copied().cycle().take(n).collect::<Vec<u8>>();
    let q: Vec<u8> = (0..tokens * heads * dim).flat_map(|i| ((i % 13) as f32 * 0.1 - 0.6).to_le_bytes()).collect();
    let q = slice(&mut device, &q);
    let positions = slice(&mut device, &ids((depth..depth + tokens).collect()));
    let sequences = slice(&mut device, &ids(vec![0; tokens]));
    // Neighbours in a sequence are not neighbours in memory.
    let table = slice(&mut device, &ids((0..pages).map(|i| (i * 7 + 3) % pages).collect()));
    let y = slice(&mut device, &vec![0; 4 * tokens * heads * dim]);
    let layers = if tokens > 1 { 1 } else { on.layers(bytes) };
    let case = Case::new(device, &template, sizes, layers, |device| {
        let mut pages_of = |part| slice(device, &half(state.page_bytes(part) * pages));
        let mut args = vec![q, positions, sequences, table, pages_of(0), pages_of(1)];
        if archive.is_some() {
            args.extend([table, pages_of(2), pages_of(3)]);
        }
        args.push(y);
        args
    });
    let seen: usize = (depth + 1..=depth + tokens).sum();
    Case { bytes, products: 2 * seen * heads * dim, ..case }
}
