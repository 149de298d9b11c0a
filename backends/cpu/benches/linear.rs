//! Products of a few rows with weights that lie in main memory, with rounded inputs as by default: `cargo bench -p
//! swiftlm-cpu --bench linear`.
//!
//! Throughput counts the bytes of the weights. Each sample runs a stack of matrices larger than any cache.

mod cases;

use cases::{Case, On};
use divan::Bencher;
use divan::counter::BytesCount;
use swiftlm_ir::quant::{Affine, Float, Format};

fn main() {
    divan::main();
}

fn stack(format: Format, rows: usize, threads: usize) -> Case {
    let on = On { from_memory: rows == 1, ..On::threads(threads) };
    cases::linear(on, format, Some(8), (2048, 8192), rows)
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
        "bf16" => Format::BF16,
        "f16" => Format::F16,
        _ => Format::F32,
    }
}

/// One row: decoding.
#[divan::bench(args = ["4-bit g64", "4-bit g32", "8-bit g64", "6-bit g64", "bf16", "f16", "f32"], consts = [1, 2], sample_count = 20)]
fn one_row<const THREADS: usize>(bencher: Bencher<'_, '_>, name: &str) {
    let mut stack = stack(format(name), 1, THREADS);
    let bytes = stack.layers * stack.bytes;
    bencher.counter(BytesCount::new(bytes)).bench_local(|| stack.run());
}

/// Many rows: prefill. The count is multiply-adds.
#[divan::bench(args = [4, 8, 64, 512], consts = [1, 2], sample_count = 10)]
fn four_bit_rows<const THREADS: usize>(bencher: Bencher<'_, '_>, rows: usize) {
    let mut stack = stack(four(64), rows, THREADS);
    let products = stack.products;
    bencher.counter(divan::counter::ItemsCount::new(products)).bench_local(|| stack.run());
}
