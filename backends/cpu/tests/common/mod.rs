//! Runs single launches on the native tier, and makes their operands. References are computed in f64 by each test.

#![allow(dead_code, reason = "every test program uses a part of this")]

pub(crate) mod history;

use std::sync::Arc;

use swiftlm_cpu::{CpuDevice, CpuOptions, IsaKind, Tier};
use swiftlm_device::{Device, DeviceError, Launch, Slice, Usage};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::quant::{Affine, Float, Format};
use swiftlm_ir::template::Template;
use swiftlm_ir::ty::PAGE_TOKENS;

/// Numbers from a seed: xorshift.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 20) as usize % n
    }
    /// In -1 to 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A page table of `sequences · stride` different pages in random order.
pub(crate) fn shuffled(random: &mut Random, sequences: usize, stride: usize) -> Vec<u32> {
    let mut table: Vec<u32> = (0..(sequences * stride) as u32).collect();
    for i in (1..table.len()).rev() {
        table.swap(i, random.below(i + 1));
    }
    table
}

pub(crate) fn bytes_of(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn bytes_of_ids(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn ids_of(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn encode(float: Float, x: f32) -> Vec<u8> {
    match float {
        Float::F32 => x.to_le_bytes().to_vec(),
        Float::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
        Float::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

fn decode(float: Float, bytes: &[u8], i: usize) -> f64 {
    match float {
        Float::F32 => f64::from(f32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap())),
        Float::F16 => half::f16::from_le_bytes(bytes[2 * i..][..2].try_into().unwrap()).to_f64(),
        Float::Bf16 => half::bf16::from_le_bytes(bytes[2 * i..][..2].try_into().unwrap()).to_f64(),
    }
}

/// A weight with random contents: its bytes, and its values by rows.
pub(crate) struct Weight {
    pub(crate) ty: WeightType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) values: Vec<f64>,
}

impl Weight {
    pub(crate) fn random(random: &mut Random, format: Format, rows: usize, cols: usize) -> Self {
        let mut values = vec![];
        let mut bytes = vec![];
        match format {
            Format::Float(float) => {
                for _ in 0..rows * cols {
                    bytes.extend(encode(float, random.float()));
                    values.push(decode(float, &bytes, values.len()));
                }
            }
            Format::Affine(Affine { bits, group, scale }) => {
                let (bits, group) = (bits as usize, group as usize);
                let codes: Vec<u8> = (0..rows * cols * bits / 8).map(|_| random.next() as u8).collect();
                let groups = rows * cols / group;
                let levels = f64::from(1u32 << bits);
                let mut part = |factor: f64| -> Vec<u8> {
                    (0..groups).flat_map(|_| encode(scale, (f64::from(random.float()) * factor) as f32)).collect()
                };
                let (scales, biases) = (part(2.0 / levels), part(0.5));
                for i in 0..rows * cols {
                    let (row, col) = (i / cols, i % cols);
                    // A code's bits, lowest first, wherever its row's bit stream has them.
                    let code = (0..bits).fold(0u32, |code, b| {
                        let at = row * cols * bits + col * bits + b;
                        code | u32::from(codes[at / 8] >> (at % 8) & 1) << b
                    });
                    values
                        .push(decode(scale, &scales, i / group) * f64::from(code) + decode(scale, &biases, i / group));
                }
                for part in [codes, scales, biases] {
                    bytes.extend(part);
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
            }
            Format::Mxfp4 => {}
        }
        if format == Format::Mxfp4 {
            let codes: Vec<u8> = (0..rows * cols / 2).map(|_| random.next() as u8).collect();
            let scales: Vec<u8> = (0..rows * cols / 32).map(|_| 120 + random.below(8) as u8).collect();
            // By the definition: a sign, two bits of exponent with bias 1, one of mantissa.
            values.extend((0..rows * cols).map(|i| {
                let code = codes[i / 2] >> (4 * (i % 2)) & 15;
                let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1));
                let magnitude =
                    if exponent == 0 { mantissa / 2.0 } else { (1.0 + mantissa / 2.0) * 2f64.powi(exponent - 1) };
                let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                sign * magnitude * 2f64.powi(i32::from(scales[i / 32]) - 127)
            }));
            for part in [codes, scales] {
                bytes.extend(part);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let ty = WeightType { format, rows, cols };
        assert_eq!(bytes.len(), ty.bytes());
        Self { ty, bytes, values }
    }

    /// Sets all codes to the largest; they take the first `bytes` bytes.
    pub(crate) fn fill_codes(&mut self, bytes: usize) {
        self.bytes[..bytes].fill(255);
        let WeightType { format, rows, cols } = self.ty;
        let Format::Affine(Affine { bits, group, scale }) = format else { return };
        let parts = format.layout(rows, cols).components;
        for (i, value) in self.values.iter_mut().enumerate() {
            let part = |n: usize| decode(scale, &self.bytes[parts[n].offset..], i / group as usize);
            *value = part(1) * f64::from((1u32 << bits) - 1) + part(2);
        }
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.ty.cols..][..self.ty.cols]
    }
}

pub(crate) fn affine(bits: u8, group: u16, scale: Float) -> Format {
    Format::Affine(Affine::new(bits, group, scale).unwrap())
}

/// Every format of weights.
pub(crate) fn formats() -> Vec<Format> {
    let mut all = vec![Format::F32, Format::F16, Format::BF16, Format::Mxfp4];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.extend([Float::F32, Float::F16, Float::Bf16].map(|scale| affine(bits, group, scale)));
        }
    }
    all
}

pub(crate) fn sizes(tokens: usize, rows: usize, table_stride: usize) -> StepSizes {
    let last_position = (table_stride * PAGE_TOKENS - 1) as u32;
    let (tokens, rows, table_stride) = (tokens as u32, rows as u32, table_stride as u32);
    StepSizes { tokens, rows, table_stride, last_position, segments: tokens }
}

/// The argument that is a weight matrix, with its type.
fn weight_of(template: &Template) -> Option<(usize, WeightType)> {
    match template {
        Template::Embed(t) => Some((1, t.weight)),
        Template::Linear(t) => Some((if t.norm.is_some() { 2 } else { 1 }, t.weight)),
        Template::ExpertLinear(t) => Some((2, t.weight)),
        Template::HeadLinear(t) => Some((1, t.weight)),
        _ => None,
    }
}

/// Runs one launch of `template` natively; gives all arguments as they are afterwards. The device may rearrange the
/// weight, as it may where models are loaded.
pub(crate) fn launch(
    template: &Template,
    args: &[Vec<u8>],
    sizes: StepSizes,
    isa: IsaKind,
    threads: usize,
) -> Result<Vec<Vec<u8>>, DeviceError> {
    let mut device = CpuDevice::with_isa(CpuOptions { threads, tier: Tier::Native }, isa)?;
    let kernel = Kernel { name: "reference".into(), lanes: 1, immediate_max: sizes.words(), ..Kernel::default() };
    let kernel = device.load(&kernel)?;
    let mut slices = vec![];
    for arg in args {
        let buffer = device.alloc(arg.len(), Usage::ReadWrite, "argument")?;
        device.write(buffer, 0, arg)?;
        slices.push(Slice { buffer, offset: 0, bytes: arg.len() });
    }
    let weight = weight_of(template);
    if let Some((at, ty)) = weight {
        device.settle(slices[at], ty, &[template])?;
    }
    let (template, name) = (Arc::new(template.clone()), template.name());
    let grid = [Groups::fixed(1); 3];
    let recording = device.record(vec![Launch::of_kernel(kernel, template, slices.clone(), grid, "test")])?;
    device.submit(&[recording], sizes)?;
    assert_eq!(device.counters().native.get(name), Some(&1), "{name} must run natively");
    let mut out = vec![];
    for (i, (slice, arg)) in slices.iter().zip(args).enumerate() {
        let mut bytes = arg.clone();
        if weight.is_none_or(|(at, _)| at != i) {
            device.read(*slice, &mut bytes)?;
        }
        out.push(bytes);
    }
    Ok(out)
}

/// Runs a launch on every instruction set; with 1, 2 and 3 threads the results must be the same bits.
pub(crate) fn launch_everywhere(
    template: &Template,
    args: &[Vec<u8>],
    sizes: StepSizes,
    mut check: impl FnMut(IsaKind, &[Vec<u8>]),
) {
    for isa in IsaKind::available() {
        let one = launch(template, args, sizes, isa, 1).unwrap();
        for threads in [2, 3] {
            let more = launch(template, args, sizes, isa, threads).unwrap();
            assert!(one == more, "{isa:?}: {threads} threads change the result of {}", template.name());
        }
        check(isa, &one);
    }
}

/// Asserts that `got` is within `bar` of `expected`, both elementwise.
pub(crate) fn close(got: f32, expected: f64, bar: f64, what: &dyn std::fmt::Display) {
    let off = (f64::from(got) - expected).abs();
    assert!(off <= bar, "{what}: got {got}, expected {expected}: off by {off:e}, allowed {bar:e}");
}
