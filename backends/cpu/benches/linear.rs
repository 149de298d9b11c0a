//! Products of a few rows with weights that lie in main memory: `cargo bench -p swiftlm-cpu`.
//!
//! Throughput counts the bytes of the weights. Each sample runs a stack of matrices larger than any cache.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_device::{Device, Launch, RecordingId, Slice, Usage};
use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_ir::template::{Linear, Template, View};

/// Bytes of weights that a sample reads at least.
const STACK: usize = 128 << 20;

fn main() {
    divan::main();
}

struct Stack {
    device: CpuDevice,
    recording: RecordingId,
    sizes: StepSizes,
    bytes: usize,
    multiplications: usize,
}

fn stack(format: Format, cols: usize, outputs: usize, rows: usize, threads: usize) -> Stack {
    let mut device = CpuDevice::new(CpuOptions { threads, tier: Tier::Native });
    let sizes = StepSizes { tokens: rows as u32, rows: 1, table_stride: 1, last_position: 0, segments: 0 };
    let kernel = Kernel { name: "bench".into(), lanes: 1, immediate_max: sizes.words(), ..Kernel::default() };
    let kernel = device.load(&kernel).expect("the native tier takes any kernel");
    let weight = WeightType { format, rows: outputs, cols };
    let template = Arc::new(Template::Linear(Linear {
        rows: Sym::Tokens,
        class: ShapeClass::of(rows),
        weight,
        norm: None,
        round: None,
        pair: false,
        epilogue: Map::identity(),
        extras: vec![],
        x: View::dense(cols),
        y: View::dense(outputs),
    }));
    let mut slice = |bytes: usize, fill: u8| {
        let buffer = device.alloc(bytes, Usage::Weights, "bench").expect("the machine has memory for a stack");
        device.write(buffer, 0, &vec![fill; bytes]).expect("the buffer was just made");
        Slice { buffer, offset: 0, bytes }
    };
    let (x, y) = (slice(4 * rows * cols, 0x3d), slice(4 * rows * outputs, 0));
    let layers = if rows == 1 { STACK.div_ceil(weight.bytes()) } else { 1 };
    let launches = (0..layers)
        .map(|_| {
            let args = vec![x, slice(weight.bytes(), 0x3c), y];
            Launch::of_kernel(kernel, Arc::clone(&template), args, [Groups::fixed(1); 3], "bench")
        })
        .collect();
    let recording = device.record(launches).expect("the arguments fit");
    let multiplications = layers * rows * outputs * cols;
    Stack { device, recording, sizes, bytes: layers * weight.bytes(), multiplications }
}

fn four(group: u16) -> Format {
    Format::Affine(Affine { bits: 4, group, scale: Float::F16 })
}

fn format(name: &str) -> Format {
    match name {
        "4-bit g64" => four(64),
        "4-bit g32" => four(32),
        "8-bit g64" => Format::Affine(Affine { bits: 8, group: 64, scale: Float::F16 }),
        "6-bit g64" => Format::Affine(Affine { bits: 6, group: 64, scale: Float::F16 }),
        "f16" => Format::F16,
        _ => Format::F32,
    }
}

/// One row: decoding.
#[divan::bench(args = ["4-bit g64", "4-bit g32", "8-bit g64", "6-bit g64", "f16", "f32"], consts = [1, 2], sample_count = 20)]
fn one_row<const THREADS: usize>(bencher: Bencher<'_, '_>, name: &str) {
    let mut stack = stack(format(name), 2048, 8192, 1, THREADS);
    let bytes = stack.bytes;
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        stack.device.submit(&[stack.recording], stack.sizes).expect("the launch was checked");
    });
}

/// Many rows: prefill. The count is multiply-adds.
#[divan::bench(args = [4, 8, 64, 512], consts = [1, 2], sample_count = 10)]
fn four_bit_rows<const THREADS: usize>(bencher: Bencher<'_, '_>, rows: usize) {
    let mut stack = stack(four(64), 2048, 8192, rows, THREADS);
    let multiplications = stack.multiplications;
    bencher.counter(divan::counter::ItemsCount::new(multiplications)).bench_local(|| {
        stack.device.submit(&[stack.recording], stack.sizes).expect("the launch was checked");
    });
}
