//! What a device leaves open, found by running one kernel on it when it is opened: how it converts to and from binary16,
//! and whether its subgroups are runs of lanes.

use std::sync::Arc;

use swiftlm_device::{Device, DeviceError, Launch, Slice, Usage};
use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, KType, Kernel, Length, ReduceOp};
use swiftlm_ir::map::Map;
use swiftlm_ir::plan::{Groups, StepSizes};
use swiftlm_ir::template::{Elementwise, Template, View};

use crate::GpuDevice;

const LANES: u32 = 256;

/// f32 bits and the binary16 bits that round-to-nearest-even gives (IEEE 754): ties both ways, the same among
/// subnormals, halfway to the smallest subnormal, overflow from halfway on, a sign.
const ROUNDED: [(u32, u32); 8] = [
    (0x3f80_1000, 0x3c00),
    (0x3f80_3000, 0x3c02),
    (0x3f80_1fff, 0x3c01),
    (0x3380_0000, 0x0001),
    (0x3300_0000, 0x0000),
    (0x33c0_0000, 0x0002),
    (0x477f_efff, 0x7bff),
    (0xc77f_f000, 0xfc00),
];

/// binary16 bits and their f32 bits: subnormals, the smallest normal, a sign, an infinity.
const WIDENED: [(u32, u32); 5] =
    [(0x0001, 0x3380_0000), (0x03ff, 0x387f_c000), (0x8001, 0xb380_0000), (0x0400, 0x3880_0000), (0x7c00, 0x7f80_0000)];

impl GpuDevice {
    /// Corrects [`GpuDevice::lower_options`] by what the device does, leaving no trace but that.
    pub(crate) fn probe(&mut self) -> Result<(), DeviceError> {
        let widths: Vec<u32> = powers_up_to(self.options.subgroup.unwrap_or(1).min(LANES)).collect();
        let kernel = probe_kernel(&widths);
        let words = (2 + widths.len()) * LANES as usize;
        let input = self.alloc(8 * LANES as usize, Usage::Input, "probe")?;
        let output = self.alloc(4 * words, Usage::ReadWrite, "probe")?;
        let mut questions = vec![0_u32; 2 * LANES as usize];
        questions[..ROUNDED.len()].copy_from_slice(&ROUNDED.map(|(question, _)| question));
        questions[LANES as usize..][..WIDENED.len()].copy_from_slice(&WIDENED.map(|(question, _)| question));
        self.write(input, 0, bytemuck::cast_slice(&questions))?;
        let all = Slice { buffer: output, offset: 0, bytes: 4 * words };
        let template = Template::Map(Elementwise {
            rows: Sym::Tokens,
            dim: LANES as usize,
            map: Map::identity(),
            extras: vec![],
            y: View::dense(LANES as usize),
        });
        let args = vec![Slice { buffer: input, offset: 0, bytes: 8 * LANES as usize }, all];
        let kernel = self.load(&kernel)?;
        let launch = Launch::of_kernel(kernel, Arc::new(template), args, [Groups::fixed(1); 3], "the probe");
        let recording = self.record(vec![launch])?;
        self.submit(&[recording], StepSizes::default())?;
        let mut answers = vec![0_u32; words];
        self.read(all, bytemuck::cast_slice_mut(&mut answers))?;
        self.apply(&answers, &widths);
        self.recordings.clear();
        self.bind_groups.clear();
        self.pipelines.clear();
        self.buffers.clear();
        Ok(())
    }

    fn apply(&mut self, answers: &[u32], widths: &[u32]) {
        let mut parts = answers.chunks_exact(LANES as usize);
        let mut next = || parts.next().unwrap_or_default();
        let agrees = |got: &[u32], expected: &[(u32, u32)]| got.iter().zip(expected).all(|(g, (_, e))| g == e);
        self.options.native_pack_half = agrees(next(), &ROUNDED);
        self.options.native_unpack_half = agrees(next(), &WIDENED);
        // The largest lane of an aligned run ends it.
        let runs = widths.iter().all(|w| (0..).zip(next()).all(|(lane, got)| *got == lane | (w - 1)));
        if !runs {
            tracing::warn!(
                adapter = self.gpu.health.name(),
                "subgroups are not runs of lanes; reductions use shared memory"
            );
            self.options.subgroup = None;
        }
        tracing::debug!(options = ?self.options, "probed");
    }
}

/// Answers, 256 words each: the packed questions, the widened ones, and for each width the largest lane of the run.
fn probe_kernel(widths: &[u32]) -> Kernel {
    let lanes = LANES as usize;
    let k = Kb::new("probe", LANES, [0; 3]);
    let questions = k.arg("questions", Access::Read, KType::U32, Length::Elements(2 * u64::from(LANES)));
    let answers =
        k.arg("answers", Access::ReadWrite, KType::U32, Length::Elements((2 + widths.len() as u64) * u64::from(LANES)));
    let lane = k.lane();
    answers.store(lane, questions.load(lane).bitcast().pack_half(k.f32(0.0)));
    answers.store(lane.plus(lanes), questions.load(lane.plus(lanes)).half_low().bitcast());
    for (i, width) in widths.iter().enumerate() {
        answers.store(lane.plus((2 + i) * lanes), k.reduce(ReduceOp::Max, lane.to_f32(), *width).to_u32());
    }
    k.finish()
}

fn powers_up_to(most: u32) -> impl Iterator<Item = u32> {
    (0..=most.ilog2()).map(|bit| 1 << bit)
}
