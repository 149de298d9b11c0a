//! Reference logits with keys and values in groups of codes.

use swiftlm_golden_tests::fixture::{Row, names};
use swiftlm_golden_tests::run::{Loaded, On, compile, exact, relative_error};
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_models::BuildOptions;

fn build(k: u8, v: u8) -> BuildOptions {
    let format = |bits| Format::Affine(Affine { bits, group: 64, scale: Float::F16 });
    BuildOptions { kv: (format(k), format(v)), ..exact() }
}

fn logits(row: &Row, build: &BuildOptions, on: On, chunk: usize) -> Vec<Vec<f32>> {
    Loaded::new(row, compile(row, build, 512), on.open(2), 1).prompt(0, &row.prompt, chunk)
}

/// What is lost against f32 states is a matter of bits; the tiny rows' random weights are the worst case for it. With
/// experts, tokens near a tie of the router go elsewhere: a bar of its own; with latents, what is lost of one is lost of
/// the keys and the values of all heads: half as much again.
fn bounded(bits: u8, dense: f64, sparse: f64) {
    let errors: Vec<(String, f64, f64)> = (names().into_iter())
        .map(|name| {
            let row = Row::open(&name);
            let error = relative_error(&logits(&row, &build(bits, bits), On::Cpu, 64).concat(), &row.logits);
            let latent = if row.config.get("kv_lora_rank").is_some() { 1.5 } else { 1.0 };
            (name, error, latent * if row.has_experts() { sparse } else { dense })
        })
        .collect();
    let over: Vec<_> = errors.iter().filter(|(_, error, bar)| error > bar).collect();
    assert!(over.is_empty(), "{bits} bits: row, error, bar: {over:?}");
    assert!(errors.iter().any(|(_, error, bar)| *error > bar / 2.0), "a bar that nothing comes near says nothing");
}

#[test]
fn eight_bits_lose_little() {
    bounded(8, 1.6e-2, 8e-2);
}

#[test]
fn four_bits_lose_more() {
    bounded(4, 2.6e-1, 4e-1);
}

/// Codes may differ where a number lies between two, so this is no exact equality.
#[test]
fn micro_kernels_compute_what_the_interpreter_does() {
    for name in ["llama", "qwen3", "deepseek_v3"] {
        let row = Row::open(name);
        for (k, v) in [(8, 8), (4, 4), (8, 4)] {
            let native = logits(&row, &build(k, v), On::Cpu, 64).concat();
            let error = relative_error(&native, &logits(&row, &build(k, v), On::Interpreter, 64).concat());
            assert!(error < 1e-3, "{name}, keys of {k} bits, values of {v}: {error:e}");
        }
    }
}

#[test]
fn chunking_changes_nothing() {
    for (name, bits) in [("llama", 8), ("qwen3", 4), ("deepseek_v3", 8)] {
        let row = Row::open(name);
        let whole = logits(&row, &build(bits, bits), On::Cpu, 512);
        for chunk in [1, 7, 64] {
            assert_eq!(logits(&row, &build(bits, bits), On::Cpu, chunk), whole, "{name} in chunks of {chunk}");
        }
    }
}
