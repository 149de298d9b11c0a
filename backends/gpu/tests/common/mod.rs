//! Runs one kernel on the device under test. Without an adapter every test fails with the remedy.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;

use swiftlm_device::{Device, KernelId, Launch, Slice, Usage};
use swiftlm_gpu::GpuDevice;
use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::{E, Kb};
use swiftlm_ir::kernel::{Access, KType, Kernel, Length};
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::template::{Elementwise, Template, View};
use swiftlm_shader::LowerOptions;

/// Lanes of the kernels here.
pub(crate) const LANES: u32 = 256;

/// Sizes that tests run with unless they are about sizes.
pub(crate) const SIZES: StepSizes = StepSizes { tokens: 5, rows: 3, table_stride: 7, last_position: 100, segments: 0 };

/// The device under test.
pub(crate) fn device() -> GpuDevice {
    GpuDevice::open(None).unwrap_or_else(|e| panic!("{e}"))
}

/// The device under test in every way that kernels are lowered: as it is, without subgroups, with conversions to and
/// from binary16 as arithmetic.
pub(crate) fn every_device() -> Vec<GpuDevice> {
    let open = |adjust: fn(&mut LowerOptions)| GpuDevice::open_lowered(None, adjust).unwrap_or_else(|e| panic!("{e}"));
    vec![
        open(|_| ()),
        open(|options| {
            options.subgroup = None;
            options.native_pack_half = false;
            options.native_unpack_half = false;
        }),
    ]
}

/// A launch; its template is only a name.
pub(crate) fn launch(kernel: KernelId, args: Vec<Slice>, grid: [Groups; 3]) -> Launch {
    let map = Elementwise { rows: Sym::Tokens, dim: 1, map: Map::identity(), extras: vec![], y: View::dense(1) };
    Launch::of_kernel(kernel, Arc::new(Template::Map(map)), args, grid, "test.layer")
}

/// A buffer holding words.
pub(crate) fn upload(device: &mut GpuDevice, usage: Usage, words: &[u32]) -> Slice {
    let bytes = 4 * words.len();
    let buffer = device.alloc(bytes, usage, "argument").expect("allocates");
    device.write(buffer, 0, bytemuck::cast_slice(words)).expect("writes");
    Slice { buffer, offset: 0, bytes }
}

/// The words of a slice.
pub(crate) fn download(device: &mut GpuDevice, slice: Slice) -> Vec<u32> {
    let mut words = vec![0_u32; slice.bytes / 4];
    device.read(slice, bytemuck::cast_slice_mut(&mut words)).expect("reads");
    words
}

/// A length.
pub(crate) fn elements(n: usize) -> Length {
    Length::Elements(n as u64)
}

/// A kernel of one workgroup that stores `f(lane, x[lane])` to `y[lane]`.
pub(crate) fn lane_by_lane(x: KType, y: KType, f: impl for<'k> Fn(&'k Kb, E<'k>, E<'k>) -> E<'k>) -> Kernel {
    let k = Kb::new("lane_by_lane", LANES, SIZES.words());
    let input = k.arg("x", Access::Read, x, elements(LANES as usize));
    let output = k.arg("y", Access::ReadWrite, y, elements(LANES as usize));
    let lane = k.lane();
    output.store(lane, f(&k, lane, input.load(lane)));
    k.finish()
}

/// Words to be written over.
pub(crate) fn zeros(n: usize) -> Vec<u32> {
    vec![0; n]
}

/// Runs a kernel over `groups` workgroups and gives its last argument afterwards.
pub(crate) fn run(device: &mut GpuDevice, kernel: &Kernel, args: &[&[u32]], groups: usize) -> Vec<u32> {
    let id = device.load(kernel).expect("loads");
    let usage = |access| if access == Access::Read { Usage::Input } else { Usage::ReadWrite };
    let slices: Vec<Slice> =
        kernel.args.iter().zip(args).map(|(arg, words)| upload(device, usage(arg.access), words)).collect();
    let last = slices[slices.len() - 1];
    let grid = [Groups::fixed(groups), Groups::fixed(1), Groups::fixed(1)];
    let recording = device.record(vec![launch(id, slices, grid)]).expect("records");
    device.submit(&[recording], SIZES).expect("submits");
    download(device, last)
}

/// f32 as words.
pub(crate) fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Words as f32.
pub(crate) fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|w| f32::from_bits(*w)).collect()
}

/// Numbers between -1 and 1 that differ everywhere and are the same on every run.
pub(crate) fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_u32;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            f32::from(u16::try_from(state >> 16).unwrap_or_default()) / 32768.0 - 1.0
        })
        .collect()
}
