//! The device beyond kernels: memory, recordings, limits, timing, and what it says when something does not fit.

mod common;

use common::{SIZES, device, download, launch, noise, upload, words};
use swiftlm_device::{Device, DeviceError, Launch, Slice, Stage, Usage};
use swiftlm_gpu::{GpuDevice, adapters};
use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, Immediate, KType, Kernel, Length};
use swiftlm_ir::plan::{Groups, Reach, StepSizes};

const FIXED: Groups = Groups { times: 1, rows: None, reach: None };

/// `y[group · 64 + lane] += tokens + by`.
fn increment(by: u32) -> Kernel {
    let k = Kb::new("increment", 64, [1 << 20; 3]);
    let y = k.arg("y", Access::ReadWrite, KType::U32, Length::Units(64));
    let i = k.group(0).times(64) + k.lane();
    y.store(i, y.load(i) + k.immediate(Immediate::Tokens) + k.u32(by));
    k.finish()
}

fn tokens(tokens: u32) -> StepSizes {
    StepSizes { tokens, ..SIZES }
}

#[test]
fn buffers_start_as_zeros_and_keep_what_is_written() {
    let mut device = device();
    let bytes = 40 << 20;
    let buffer = device.alloc(bytes, Usage::Weights, "weights").expect("allocates");
    let all = Slice { buffer, offset: 0, bytes };
    assert!(download(&mut device, all).iter().all(|w| *w == 0));
    // Longer than a piece of writing or reading, at an odd place.
    let data: Vec<u32> = (0..(36 << 18)).map(|i: u32| i.wrapping_mul(2_654_435_761)).collect();
    device.write(buffer, 1 << 20, bytemuck::cast_slice(&data)).expect("writes");
    let got = download(&mut device, all);
    let start = (1 << 20) / 4;
    assert!(got[..start].iter().all(|w| *w == 0));
    assert_eq!(got[start..][..data.len()], data);
    assert!(got[start + data.len()..].iter().all(|w| *w == 0));
}

#[test]
fn equal_kernels_share_a_pipeline_and_equal_launches_a_bind_group() {
    let mut device = device();
    let first = device.load(&increment(1)).expect("loads");
    assert_eq!(device.load(&increment(1)).expect("loads"), first);
    assert_ne!(device.load(&increment(2)).expect("loads"), first);
    assert_eq!(device.pipelines(), 2);
    let y = upload(&mut device, Usage::ReadWrite, &[0; 64]);
    let launches = vec![launch(first, vec![y], [FIXED; 3]); 10];
    device.record(launches.clone()).expect("records");
    device.record(launches).expect("records");
    assert_eq!(device.bind_groups(), 1);
}

#[test]
fn launches_see_what_earlier_ones_wrote_across_recordings_and_sizes() {
    let mut device = device();
    let kernels = [device.load(&increment(1)).expect("loads"), device.load(&increment(1000)).expect("loads")];
    let y = upload(&mut device, Usage::ReadWrite, &[0; 64]);
    let one = device.record(vec![launch(kernels[0], vec![y], [FIXED; 3]); 50]).expect("records");
    let two = device.record(vec![launch(kernels[1], vec![y], [FIXED; 3]); 3]).expect("records");
    device.submit(&[one, two, one], tokens(7)).expect("submits");
    device.submit(&[two], tokens(9)).expect("submits");
    let expected = 100 * (7 + 1) + 3 * (7 + 1000) + 3 * (9 + 1000);
    assert_eq!(download(&mut device, y), vec![expected; 64]);
}

/// A step that was encoded ahead runs if it is the one that comes, and another in its place if it is not.
#[test]
fn steps_that_follow_and_steps_that_do_not_run_as_they_are() {
    let mut device = device();
    let kernels = [device.load(&increment(1)).expect("loads"), device.load(&increment(1000)).expect("loads")];
    let y = upload(&mut device, Usage::ReadWrite, &[0; 256]);
    let reaching = [Groups::fixed(4).reaching(Reach::Each(64)), FIXED, FIXED];
    let [one, two] = kernels.map(|k| device.record(vec![launch(k, vec![y], reaching)]).expect("records"));
    let at = |position: u32, tokens: u32| StepSizes { last_position: position, tokens, ..SIZES };
    // One after another into another group, a jump ahead and one back, other tokens, another recording, and on again.
    let positions = [(one, 60, 1), (one, 61, 1), (one, 62, 1), (one, 63, 1), (one, 64, 1), (one, 65, 1), (one, 200, 1)];
    let others = [(one, 10, 1), (one, 11, 1), (one, 12, 7), (two, 13, 7), (one, 14, 7), (one, 15, 7), (one, 16, 7)];
    let mut expected = [0u32; 256];
    for (recording, position, tokens) in positions.into_iter().chain(others) {
        device.submit(&[recording], at(position, tokens)).expect("submits");
        let reached = 64 * (position as usize / 64 + 1).min(4);
        let by = if recording == one { 1 } else { 1000 };
        expected[..reached].iter_mut().for_each(|y| *y += tokens + by);
        assert_eq!(download(&mut device, y), expected, "behind position {position}");
    }
}

#[test]
fn a_launch_without_rows_is_skipped() {
    let mut device = device();
    let kernel = device.load(&increment(1)).expect("loads");
    let y = upload(&mut device, Usage::ReadWrite, &[0; 256]);
    let per_rows = [Groups::per_rows(2, Sym::Rows, 8), FIXED, FIXED];
    let recording = device.record(vec![launch(kernel, vec![y], per_rows)]).expect("records");
    device.submit(&[recording], StepSizes { rows: 0, ..SIZES }).expect("submits");
    assert_eq!(download(&mut device, y), vec![0; 256]);
    device.submit(&[recording], StepSizes { rows: 9, ..SIZES }).expect("submits");
    assert_eq!(download(&mut device, y), vec![SIZES.tokens + 1; 256]);
}

#[test]
fn slices_bind_at_their_offset() {
    let mut device = device();
    let kernel = device.load(&increment(1)).expect("loads");
    let y = upload(&mut device, Usage::ReadWrite, &[0; 192]);
    let middle = Slice { offset: 256, bytes: 256, ..y };
    let recording = device.record(vec![launch(kernel, vec![middle], [FIXED; 3])]).expect("records");
    device.submit(&[recording], tokens(0)).expect("submits");
    let expected: Vec<u32> = (0..192).map(|i| u32::from((64..128).contains(&i))).collect();
    assert_eq!(download(&mut device, y), expected);
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let mut device = device();
    let kernel = device.load(&increment(1)).expect("loads");
    let most = device.target().max_binding;
    let buffer = device.alloc(most + 1024, Usage::ReadWrite, "long").expect("allocates");
    let mut refusal = |offset, bytes| {
        let slice = Slice { buffer, offset, bytes };
        let Err(DeviceError::Kernel { kernel, reason }) = device.record(vec![launch(kernel, vec![slice], [FIXED; 3])])
        else {
            panic!("{slice:?} was taken")
        };
        assert!(kernel.starts_with("increment "), "{kernel}");
        reason
    };
    let prefix = "launch map of test.layer: argument y: ";
    assert_eq!(refusal(0, 252), format!("{prefix}252 bytes, the kernel uses 256"));
    assert!(
        refusal(0, most + 512).starts_with(&format!("{prefix}{} bytes, the device binds at most {most}", most + 512))
    );
    assert!(refusal(most + 512, 1024).starts_with(&format!("{prefix}bytes {}..", most + 512)));
    assert!(refusal(4, 256).starts_with(&format!("{prefix}offset 4 is not a multiple of")));
    let none = device.record(vec![launch(kernel, vec![], [FIXED; 3])]).expect_err("no arguments").to_string();
    assert!(none.ends_with("0 arguments given, 1 declared"), "{none}");
}

#[test]
fn a_buffer_is_not_bound_for_reading_and_writing_at_once() {
    let k = Kb::new("copy", 64, [1; 3]);
    let x = k.arg("x", Access::Read, KType::U32, Length::Elements(64));
    let y = k.arg("y", Access::ReadWrite, KType::U32, Length::Elements(64));
    y.store(k.lane(), x.load(k.lane()));
    let mut device = device();
    let kernel = device.load(&k.finish()).expect("loads");
    let both = upload(&mut device, Usage::ReadWrite, &[0; 128]);
    let halves = vec![Slice { bytes: 256, ..both }, Slice { offset: 256, bytes: 256, ..both }];
    let error = device.record(vec![launch(kernel, halves, [FIXED; 3])]).expect_err("refused").to_string();
    assert!(error.contains("bound both for reading only and for writing"), "{error}");
}

#[test]
fn too_many_workgroups_are_an_error_that_names_the_launch() {
    let mut device = device();
    let kernel = device.load(&increment(1)).expect("loads");
    let y = upload(&mut device, Usage::ReadWrite, &[0; 64]);
    let grid = [FIXED, Groups::per_rows(1, Sym::Tokens, 1), FIXED];
    let recording = device.record(vec![launch(kernel, vec![y], grid)]).expect("records");
    let error = device.submit(&[recording], tokens(1 << 20)).expect_err("refused").to_string();
    assert!(error.contains("launch map of test.layer: [1, 1048576, 1] workgroups"), "{error}");
    device.submit(&[recording], tokens(0)).expect("the device goes on");
    assert_eq!(download(&mut device, y), vec![0; 64]);
}

#[test]
fn memory_that_is_not_there_is_an_error_that_names_its_use() {
    let mut device = device();
    let error = device.alloc(1 << 50, Usage::Weights, "the moon").expect_err("too large");
    let DeviceError::OutOfMemory { bytes, what, .. } = &error else { panic!("{error}") };
    assert_eq!((*bytes, what.as_str()), (1 << 50, "the moon"));
    device.alloc(1 << 10, Usage::Weights, "a crater").expect("the device goes on");
}

#[test]
fn refused_kernels_are_named() {
    let k = Kb::new("greedy", 64, [1; 3]);
    let tile = k.shared(KType::F32X4, 1 << 20);
    tile.set(k.lane(), k.f32(0.0).splat(4));
    let error = device().load(&k.finish()).expect_err("refused").to_string();
    assert!(error.starts_with("kernel greedy ") && error.contains("16777216 bytes of shared memory"), "{error}");
    // Passes the lowering, not the validator: a store to a read-only argument.
    let mut kernel = increment(1);
    kernel.args[0].access = Access::Read;
    let error = device().load(&kernel).expect_err("refused").to_string();
    assert!(error.starts_with("kernel increment "), "{error}");
}

#[test]
fn profiles_time_every_launch_that_ran() {
    let k = Kb::new("busy", 64, [1; 3]);
    let y = k.arg("y", Access::ReadWrite, KType::F32, Length::Elements(64 * 64));
    let at = k.group(0).times(64) + k.lane();
    let sum = k.var(y.load(at));
    k.range(k.u32(0), k.u32(20_000), 1, |i| sum.set(sum.get() * k.f32(0.999) + i.to_f32()));
    y.store(at, sum.get());
    let mut device = device();
    let kernels = [device.load(&increment(1)).expect("loads"), device.load(&k.finish()).expect("loads")];
    let y = upload(&mut device, Usage::ReadWrite, &words(&noise(64 * 64)));
    let wide = [Groups::fixed(64), FIXED, FIXED];
    let empty = [Groups::fixed(0), FIXED, FIXED];
    let launches = vec![
        launch(kernels[0], vec![y], [FIXED; 3]),
        launch(kernels[0], vec![y], empty),
        launch(kernels[1], vec![y], wide),
    ];
    let recording = device.record(launches).expect("records");
    let times = device.profile(recording, SIZES).expect("profiles");
    assert_eq!(times.iter().map(|t| t.launch).collect::<Vec<_>>(), [0, 2]);
    assert!(times[1].nanoseconds > 2 * times[0].nanoseconds, "{times:?}");
}

#[test]
fn kernels_of_a_launch_run_in_order_on_their_arguments() {
    let mut device = device();
    let kernels = [1, 1000].map(|by| device.load(&increment(by)).expect("loads"));
    let args = [[0; 64], [0; 64]].map(|zeros| upload(&mut device, Usage::ReadWrite, &zeros));
    let beyond = FIXED.reaching(Reach::Beyond(SIZES.last_position));
    let stage = |kernel, arg, grid| Stage { kernel, args: vec![arg], grid: [grid, FIXED, FIXED] };
    let stages = vec![stage(kernels[0], 1, FIXED), stage(kernels[1], 1, FIXED), stage(kernels[1], 0, beyond)];
    let both = Launch { stages, ..launch(kernels[0], args.to_vec(), [FIXED; 3]) };
    let recording = device.record(vec![both]).expect("records");
    let times = device.profile(recording, tokens(7)).expect("profiles");
    assert_eq!(times.iter().map(|t| t.launch).collect::<Vec<_>>(), [0]);
    assert_eq!(download(&mut device, args[1]), vec![7 + 1 + 7 + 1000; 64]);
    assert_eq!(download(&mut device, args[0]), vec![7 + 1000; 64]);
    let shorter = StepSizes { last_position: SIZES.last_position - 1, ..tokens(7) };
    device.submit(&[recording], shorter).expect("submits");
    assert_eq!(download(&mut device, args[0]), vec![7 + 1000; 64], "no history is that long");
}

#[test]
fn facts_are_those_of_the_adapter() {
    let listed = adapters();
    let device = device();
    let target = device.target();
    assert!(listed.iter().any(|a| a.name == target.name && a.unusable.is_none()), "{target:?} in {listed:?}");
    assert!(target.max_binding >= 128 << 20 && target.shared_bytes >= 16 << 10, "{target:?}");
    assert!(target.subgroup.0 <= target.subgroup.1, "{target:?}");
    assert!(target.memory.is_none_or(|bytes| bytes >= 256 << 20), "{target:?}");
}

#[test]
fn an_unknown_adapter_is_named_with_those_that_exist() {
    let error = GpuDevice::open(Some("no such adapter")).expect_err("does not exist").to_string();
    assert!(error.contains("`no such adapter`") && error.contains(&adapters()[0].name), "{error}");
}

#[test]
fn handles_of_nothing_are_errors() {
    let mut device = device();
    let nothing = Slice { buffer: swiftlm_device::BufferId(9), offset: 0, bytes: 4 };
    assert!(device.read(nothing, &mut [0; 4]).is_err());
    assert!(device.write(nothing.buffer, 0, &[0; 4]).is_err());
    assert!(device.submit(&[swiftlm_device::RecordingId(9)], SIZES).is_err());
    assert!(device.record(vec![launch(swiftlm_device::KernelId(9), vec![], [FIXED; 3])]).is_err());
}
