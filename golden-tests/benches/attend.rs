//! Attention on a GPU against its memory: `cargo bench -p swiftlm-golden-tests --bench attend [-- PART_OF_A_LINE]`.
//!
//! A case runs the kernels of one launch over enough layers that no cache holds them. `launch` is the time of one of them
//! in a submission of all, `kernels` what its kernels take each on its own by the device's clock. `floor` is the share of
//! it that reading the pages once takes at the rate of a kernel that only reads.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use swiftlm_compiler::kernels::{build, scratch_bytes};
use swiftlm_device::{Device, Launch, RecordingId, Slice, Stage, Usage};
use swiftlm_gpu::GpuDevice;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, KType, Length};
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Archive, Format};
use swiftlm_ir::template::{Attend, Elementwise, Template, View};
use swiftlm_ir::ty::{PAGE_TOKENS, StateType};

/// Bytes that a case reads, or those of 64 layers.
const STACK: usize = 512 << 20;
const WARM_UP: Duration = Duration::from_millis(400);
const ROUNDS: usize = 7;

fn slice(device: &mut GpuDevice, contents: &[u8]) -> Slice {
    let buffer = device.alloc(contents.len(), Usage::ReadWrite, "bench").expect("the device has memory for it");
    device.write(buffer, 0, contents).expect("the buffer was just made");
    Slice { buffer, offset: 0, bytes: contents.len() }
}

/// Best seconds of a submission, and of its kernels by the device's clock.
fn time(device: &mut GpuDevice, recording: RecordingId, sizes: StepSizes, behind: Slice) -> (f64, f64) {
    // A device that has waited for the host runs at a fraction of its clock for a while.
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        device.submit(&[recording], sizes).expect("the launches run");
        device.read(Slice { bytes: 4, ..behind }, &mut [0; 4]).expect("the device is there");
    }
    let best = |seconds: &mut dyn FnMut() -> f64| (0..ROUNDS).map(|_| seconds()).fold(f64::MAX, f64::min);
    let whole = best(&mut || {
        let start = Instant::now();
        device.submit(&[recording], sizes).expect("the launches run");
        device.read(Slice { bytes: 4, ..behind }, &mut [0; 4]).expect("the device is there");
        start.elapsed().as_secs_f64()
    });
    let kernels = best(&mut || {
        let times = device.profile(recording, sizes).expect("the launches run");
        times.iter().map(|launch| launch.nanoseconds as f64 / 1e9).sum()
    });
    (whole, kernels)
}

/// Bytes a second of a kernel that only reads.
fn read_rate(device: &mut GpuDevice) -> f64 {
    const EACH: usize = 8;
    const LANES: usize = 256;
    let vectors = STACK / 16;
    let kb = Kb::new("read", LANES as u32, [1, 1, 1]);
    let from = kb.arg("from", Access::Read, KType::U32X4, Length::Elements(vectors as u64));
    let to = kb.arg("to", Access::ReadWrite, KType::U32, Length::Elements(1));
    let first = kb.group(0).min(kb.dim(vectors / EACH / LANES - 1)).times(EACH * LANES) + kb.lane();
    let loaded: Vec<_> = (0..EACH).map(|i| from.load(first.plus(i * LANES))).collect();
    let sum = loaded.into_iter().reduce(|a, b| a ^ b).expect("something is read");
    let sum = (sum.extract(0) ^ sum.extract(1)) ^ (sum.extract(2) ^ sum.extract(3));
    kb.when(sum.equals(kb.u32(1)), || to.store(kb.u32(0), sum));
    let kernel = device.load(&kb.finish()).expect("the kernel is sound");
    let view = View::dense(1);
    let rows = swiftlm_ir::dim::Sym::Tokens;
    let template = Template::Map(Elementwise { rows, dim: 1, map: Map::identity(), extras: vec![], y: view });
    let template = Arc::new(template);
    let args = vec![slice(device, &vec![7; STACK]), slice(device, &[0; 4])];
    let grid = [Groups::fixed(vectors / EACH / LANES), Groups::fixed(1), Groups::fixed(1)];
    let launches = (0..4).map(|_| Launch::of_kernel(kernel, Arc::clone(&template), args.clone(), grid, "bench"));
    let recording = device.record(launches.collect()).expect("the arguments fit");
    let sizes = StepSizes { tokens: 1, rows: 1, table_stride: 1, last_position: 0, segments: 0 };
    let (_, best) = time(device, recording, sizes, args[1]);
    4.0 * STACK as f64 / best
}

/// `tokens` new tokens behind `depth` old ones: microseconds of a launch, and of its kernels, and bytes of its pages.
fn case(
    device: &mut GpuDevice,
    (heads, kv_heads, dim): (usize, usize, usize),
    (format, archive): (Format, Option<Archive>),
    (depth, tokens): (usize, usize),
) -> (f64, f64, usize) {
    let pages = (depth + tokens).div_ceil(PAGE_TOKENS);
    let last_position = (depth + tokens - 1) as u32;
    let sizes = StepSizes { tokens: tokens as u32, rows: 1, table_stride: pages as u32, last_position, segments: 0 };
    let view = View::dense(heads * dim);
    let template = Template::Attend(Attend {
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
    });
    let mut stages = vec![];
    for built in build(&template, tokens, 1) {
        let kernel = device.load(&built.kernel).expect("the kernel is sound");
        stages.push(Stage { kernel, args: built.args, grid: built.grid });
    }
    let state = StateType::Paged { window: 0, heads: kv_heads, dim, k: format, v: format, latent: None, archive };
    let bytes = state.bytes_read(depth + tokens);
    let layers = (STACK / bytes).clamp(2, 64);
    let ids = |ids: Vec<usize>| -> Vec<u8> { ids.iter().flat_map(|i| (*i as u32).to_le_bytes()).collect() };
    // Small floats in every format, and codes and scales that are finite.
    let small = |n: usize| vec![0x2c; n];
    let q: Vec<u8> = (0..tokens * heads * dim).flat_map(|i| ((i % 13) as f32 * 0.1 - 0.6).to_le_bytes()).collect();
    let q = slice(device, &q);
    let positions = slice(device, &ids((depth..depth + tokens).collect()));
    let sequences = slice(device, &ids(vec![0; tokens]));
    // Neighbours in a sequence are not neighbours in memory.
    let table = slice(device, &ids((0..pages).map(|i| (i * 7 + 3) % pages).collect()));
    let y = slice(device, &vec![0; 4 * tokens * heads * dim]);
    let scratch = scratch_bytes(&template, tokens, 1);
    let scratch = (scratch > 0).then(|| slice(device, &vec![0; scratch]));
    let template = Arc::new(template);
    let mut launches = vec![];
    for _ in 0..layers {
        let mut args = vec![q, positions, sequences, table];
        args.extend([0, 1].map(|part| slice(device, &small(state.page_bytes(part) * pages))));
        if archive.is_some() {
            args.push(table);
            args.extend([2, 3].map(|part| slice(device, &small(state.page_bytes(part) * pages))));
        }
        args.push(y);
        args.extend(scratch);
        let (template, stages) = (Arc::clone(&template), stages.clone());
        launches.push(Launch { template, args, stages, loc: "bench".into() });
    }
    let recording = device.record(launches).expect("the arguments fit");
    let (whole, kernels) = time(device, recording, sizes, y);
    (whole / layers as f64 * 1e6, kernels / layers as f64 * 1e6, bytes)
}

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let models = [("llama-3.2-1b", (32, 8, 64)), ("qwen3-4b", (32, 8, 128)), ("qwen2.5-0.5b", (14, 2, 64))];
    let formats = ["f16", "affine8_g64_f16", "affine4_g64_f16", "k4v4", "k3v3"];
    let places =
        [(0, 1), (2048, 1), (8192, 1), (40_960, 1), (2048, 4), (2048, 8), (0, 64), (2048, 64), (0, 512), (2048, 512)];
    let open = || GpuDevice::open(None).expect("there is a GPU");
    let rate = read_rate(&mut open());
    println!("read {:.0} GB/s", rate / 1e9);
    println!("{:<56} {:>10} {:>10} {:>10} {:>6}", "case", "launch us", "kernels us", "GB/s", "floor");
    for (model, heads) in models {
        for format in formats {
            let mut device = open();
            for (depth, tokens) in places {
                let name = format!("{model} {format} depth {depth} new {tokens}");
                if !name.contains(&wanted) {
                    continue;
                }
                let kv = match format {
                    "k4v4" => (Format::F16, Archive::of_bits(4, 4).ok()),
                    "k3v3" => (Format::F16, Archive::of_bits(3, 3).ok()),
                    plain => (plain.parse().expect("a format"), None),
                };
                let (whole, kernels, bytes) = case(&mut device, heads, kv, (depth, tokens));
                let bytes = bytes as f64;
                println!(
                    "{name:<56} {whole:>10.1} {kernels:>10.1} {:>10.0} {:>6.2}",
                    bytes / kernels / 1e3,
                    bytes / rate / kernels * 1e6
                );
            }
        }
    }
}
