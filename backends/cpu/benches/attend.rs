//! Attention against the memory bus: `cargo bench -p swiftlm-cpu --bench attend [-- PART_OF_A_LINE]`.
//!
//! Each case runs over enough layers that no cache holds them, in rounds that are interleaved with the other cases and
//! with the probe of read bandwidth. The probe gives the best of some passes, so a case counts by its best round, too;
//! the median beside it shows how busy the machine was. `floor` is the time to read the pages once.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::sync::Arc;
use std::time::Instant;

use swiftlm_cpu::{CpuDevice, CpuOptions, Tier, read_bandwidth};
use swiftlm_device::{Device, Launch, RecordingId, Slice, Usage};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Archive, Format};
use swiftlm_ir::template::{Attend, Template, View};
use swiftlm_ir::ty::{PAGE_TOKENS, StateType};

/// Bytes of pages that a sample reads at least.
const STACK: usize = 128 << 20;
const ROUNDS: usize = 15;
const THREADS: usize = 2;

struct Case {
    name: String,
    device: CpuDevice,
    recording: RecordingId,
    sizes: StepSizes,
    layers: usize,
    /// Of one layer.
    bytes: usize,
    flops: f64,
    seconds: Vec<f64>,
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

/// `tokens` new tokens behind `depth` old ones.
fn case(model: &str, heads: (usize, usize, usize), kv: &str, depth: usize, tokens: usize) -> Case {
    let ((heads, kv_heads, dim), (format, archive)) = (heads, stored(kv));
    let mut device = CpuDevice::new(CpuOptions { threads: THREADS, tier: Tier::Native });
    let pages = (depth + tokens).div_ceil(PAGE_TOKENS);
    let last_position = (depth + tokens - 1) as u32;
    let sizes = StepSizes { tokens: tokens as u32, rows: 1, table_stride: pages as u32, last_position, segments: 0 };
    let kernel = Kernel { name: "bench".into(), lanes: 1, immediate_max: sizes.words(), ..Kernel::default() };
    let kernel = device.load(&kernel).expect("the native tier takes any kernel");
    let view = View::dense(heads * dim);
    let template = Attend {
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
    };
    let state = StateType::Paged { window: 0, heads: kv_heads, dim, k: format, v: format, latent: None, archive };
    let bytes = state.bytes_read(depth + tokens);
    let layers = if tokens > 1 { 1 } else { STACK.div_ceil(bytes) };
    let mut slice = |contents: &[u8]| {
        let buffer = device.alloc(contents.len(), Usage::ReadWrite, "bench").expect("the machine has memory for it");
        device.write(buffer, 0, contents).expect("the buffer was just made");
        Slice { buffer, offset: 0, bytes: contents.len() }
    };
    let ids = |ids: Vec<usize>| -> Vec<u8> { ids.iter().flat_map(|i| (*i as u32).to_le_bytes()).collect() };
    // Floats near 0.1 in every format, and codes and scales that are finite.
    let half = |n: usize| [0xcdu8, 0x2c, 0x66, 0x2d].iter().copied().cycle().take(n).collect::<Vec<u8>>();
    let q: Vec<u8> = (0..tokens * heads * dim).flat_map(|i| ((i % 13) as f32 * 0.1 - 0.6).to_le_bytes()).collect();
    let q = slice(&q);
    let positions = slice(&ids((depth..depth + tokens).collect()));
    let sequences = slice(&ids(vec![0; tokens]));
    // Neighbours in a sequence are not neighbours in memory.
    let table = slice(&ids((0..pages).map(|i| (i * 7 + 3) % pages).collect()));
    let y = slice(&vec![0; 4 * tokens * heads * dim]);
    let launches = (0..layers)
        .map(|_| {
            let mut pages_of = |part| slice(&half(state.page_bytes(part) * pages));
            let mut args = vec![q, positions, sequences, table, pages_of(0), pages_of(1)];
            if archive.is_some() {
                args.extend([table, pages_of(2), pages_of(3)]);
            }
            args.push(y);
            let template = Arc::new(Template::Attend(template.clone()));
            Launch::of_kernel(kernel, template, args, [Groups::fixed(1); 3], "bench")
        })
        .collect();
    let recording = device.record(launches).expect("the arguments fit");
    let seen: usize = (depth + 1..=depth + tokens).sum();
    let name = format!("{model} {kv} depth {depth} new {tokens}");
    let flops = 4.0 * (seen * heads * dim) as f64;
    Case { name, device, recording, sizes, layers, bytes, flops, seconds: vec![] }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let models = [("llama-3.2-1b", (32, 8, 64)), ("qwen2.5-0.5b", (14, 2, 64)), ("qwen3-4b", (32, 8, 128))];
    let formats = ["f16", "bf16", "affine8_g64_f16", "affine4_g64_f16", "k4v4", "k4v3", "k3v3"];
    let places = [(512, 1), (4096, 1), (40_960, 1), (0, 512), (4096, 512)];
    let mut cases = vec![];
    for (model, heads) in models {
        for format in formats {
            for (depth, tokens) in places {
                let name = format!("{model} {format} depth {depth} new {tokens}");
                if wanted.split('+').all(|w| name.contains(w)) {
                    cases.push(case(model, heads, format, depth, tokens));
                }
            }
        }
    }
    let mut bandwidths = vec![];
    for _ in 0..ROUNDS {
        bandwidths.push(read_bandwidth(THREADS));
        for case in &mut cases {
            let start = Instant::now();
            case.device.submit(&[case.recording], case.sizes).expect("the launch was checked");
            case.seconds.push(start.elapsed().as_secs_f64() / case.layers as f64);
        }
    }
    let bandwidth = bandwidths.iter().copied().fold(0.0, f64::max);
    println!("{THREADS} threads, read bandwidth {:.1} GB/s", bandwidth / 1e9);
    println!(
        "{:<52} {:>10} {:>10} {:>10} {:>8} {:>8} {:>10}",
        "case", "KiB", "best us", "floor us", "share", "GFLOP/s", "median us"
    );
    for case in &mut cases {
        let (middle, floor) = (median(&mut case.seconds), case.bytes as f64 / bandwidth);
        let seconds = case.seconds[0];
        let (us, kib, rate) = (seconds * 1e6, case.bytes as f64 / 1024.0, case.flops / seconds / 1e9);
        println!(
            "{:<52} {kib:>10.0} {us:>10.1} {:>10.1} {:>8.2} {rate:>8.1} {:>10.1}",
            case.name,
            floor * 1e6,
            floor / seconds,
            middle * 1e6
        );
    }
}
