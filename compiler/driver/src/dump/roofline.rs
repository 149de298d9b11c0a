//! Each launch's time beside the least that it could take: bytes that it must move and operations that it must do, over
//! what the device can.

use std::fmt::Write;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::Serialize;
use swiftlm_compiler::work::{StepShape, Work, work_of};
use swiftlm_device::Device;
use swiftlm_ir::dim::ShapeClass;

use super::subject::{Place, StepFlags};
use super::trace::Trace;
use super::{DumpError, why};
use crate::checkpoint::Checkpoint;

/// How often the step is run as a whole, and launch by launch, in turns.
const ROUNDS: usize = 9;
/// How long steps are run before each round: a device that has waited for the host runs at a fraction of its clock for a
/// while.
const WARM_UP: Duration = Duration::from_millis(100);

/// What a device can, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes read in a second.
    pub bandwidth: Option<f64>,
    /// Operations in a second.
    pub peak: Option<f64>,
}

impl Rates {
    /// The least time for some work, in nanoseconds; none where no rate is known.
    pub fn floor(&self, work: &Work) -> Option<f64> {
        let moving = self.bandwidth.map(|rate| work.bytes() as f64 / rate * 1e9);
        let computing = self.peak.map(|rate| work.flops as f64 / rate * 1e9);
        moving.into_iter().chain(computing).reduce(f64::max)
    }
}

/// One launch of a function's plan, over all calls of the function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The function.
    pub func: String,
    /// Index in its plan.
    pub launch: usize,
    /// Calls of the function.
    pub calls: usize,
    /// The template.
    pub template: &'static str,
    /// Path of the op it is built around.
    pub place: String,
    /// Values that it computes: what was fused into it.
    pub computes: Vec<String>,
    /// Bytes moved at least, by all calls.
    pub bytes: u64,
    /// Operations, by all calls.
    pub flops: u64,
    /// Nanoseconds that this takes at least.
    pub floor: Option<f64>,
    /// Nanoseconds measured, median of the rounds.
    pub time: f64,
}

/// A step, launch by launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Where it ran.
    pub device: String,
    /// Tokens of the step, and of the sequence before them.
    pub tokens: u32,
    /// Tokens before them.
    pub depth: u32,
    /// What floors were computed with.
    pub rates: Rates,
    /// Launches in the order of the first call.
    pub lines: Vec<Line>,
    /// Nanoseconds of all launches, median of the rounds.
    pub launches: f64,
    /// Nanoseconds of a whole step by the host's clock, median of the rounds.
    pub step: f64,
}

/// Runs a step over and over on a device, as a whole and launch by launch.
///
/// # Errors
/// The model cannot be loaded, or a step fails.
pub fn roofline(
    trace: &Trace,
    checkpoint: &Checkpoint,
    (device, flags): (Box<dyn Device>, &StepFlags),
    mut rates: Rates,
) -> Result<Roofline, DumpError> {
    let program = &trace.compiled.program;
    let shape = StepShape { tokens: flags.tokens as usize, rows: 1, before: flags.depth as usize };
    let mut executable = flags.load(device, program.clone(), checkpoint)?;
    let batch = flags.batch(&executable);
    let (mut steps, mut sums) = (vec![], vec![]);
    let mut times: IndexMap<(usize, usize), Vec<f64>> = IndexMap::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            executable.step(&batch).map_err(DumpError::run)?;
        }
        let start = Instant::now();
        executable.step(&batch).map_err(DumpError::run)?;
        steps.push(start.elapsed().as_nanos() as f64);
        let mut sum = 0.0;
        for launch in executable.profile_step(&batch).map_err(DumpError::run)? {
            let func = program.module.main[launch.call].func;
            let of_rounds = times.entry((func, launch.launch)).or_insert_with(|| vec![0.0; ROUNDS]);
            of_rounds[round] += launch.nanoseconds as f64;
            sum += launch.nanoseconds as f64;
        }
        sums.push(sum);
    }
    let device = executable.target().name.clone();
    drop(executable);
    if rates.bandwidth.is_none() && flags.backend == Place::Cpu {
        rates.bandwidth = Some(swiftlm_cpu::read_bandwidth(flags.threads));
    }
    let line = |((func, launch), of_rounds): ((usize, usize), Vec<f64>)| {
        let head = program.module.main.last().is_some_and(|call| call.func == func);
        let class = ShapeClass::of(if head { shape.rows } else { shape.tokens });
        let plan = program.plans[func].iter().find(|plan| plan.class == class)?;
        let calls = program.module.main.iter().filter(|call| call.func == func).count();
        let dispatch = plan.dispatches.get(launch)?;
        let work: Work = (0..calls).map(|_| work_of(&dispatch.template, &shape)).sum();
        Some(Line {
            func: program.module.funcs[func].name.clone(),
            launch,
            calls,
            template: dispatch.template.name(),
            place: dispatch.loc.clone(),
            computes: why::launches(trace, plan).get(launch).map(|c| c.values.clone()).unwrap_or_default(),
            bytes: work.bytes(),
            flops: work.flops,
            floor: rates.floor(&work),
            time: median(of_rounds),
        })
    };
    let lines = times.into_iter().filter_map(line).collect();
    let (launches, step) = (median(sums), median(steps));
    Ok(Roofline { device, tokens: flags.tokens, depth: flags.depth, rates, lines, launches, step })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl std::fmt::Display for Roofline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate =
            |rate: Option<f64>, unit: &str| rate.map_or(format!("? {unit}"), |r| format!("{:.1} {unit}", r / 1e9));
        let micro = |ns: f64| format!("{:.1}", ns / 1e3);
        let share =
            |floor: Option<f64>, time: f64| floor.map_or("-".to_owned(), |floor| format!("{:.2}", floor / time));
        let mut out = format!(
            "{}: a step of {} at depth {}; {}, {}; {ROUNDS} rounds, medians\n",
            self.device,
            self.tokens,
            self.depth,
            rate(self.rates.bandwidth, "GB/s"),
            rate(self.rates.peak, "GFLOP/s"),
        );
        let mut row = |cells: [&str; 9]| {
            let [func, template, calls, bytes, flops, floor, time, share, rest] = cells;
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{func:<8} {template:<14} {calls:>5} {bytes:>10} {flops:>10} {floor:>10} {time:>10} {share:>6}  {rest}"
            );
        };
        row(["func", "template", "calls", "MB", "MFLOP", "floor us", "us", "share", "place: what it computes"]);
        for l in &self.lines {
            let floor = l.floor.map_or("-".to_owned(), micro);
            let (mb, mflop) = (format!("{:.3}", l.bytes as f64 / 1e6), format!("{:.2}", l.flops as f64 / 1e6));
            let rest = format!("{}: {}", l.place, l.computes.join(" "));
            let (calls, time, share) = (l.calls.to_string(), micro(l.time), share(l.floor, l.time));
            row([&l.func, l.template, &calls, &mb, &mflop, &floor, &time, &share, &rest]);
        }
        let bytes: u64 = self.lines.iter().map(|l| l.bytes).sum();
        let flops: u64 = self.lines.iter().map(|l| l.flops).sum();
        let floor = self.lines.iter().map(|l| l.floor).sum::<Option<f64>>();
        let (mb, mflop) = (format!("{:.3}", bytes as f64 / 1e6), format!("{:.2}", flops as f64 / 1e6));
        let floor_text = floor.map_or("-".to_owned(), micro);
        let (launches, all) = (micro(self.launches), share(floor, self.launches));
        row(["all", "", "", &mb, &mflop, &floor_text, &launches, &all, ""]);
        let (step, of_floor) = (micro(self.step), share(floor, self.step));
        let part = format!("launches are {:.3} of it", self.launches / self.step);
        row(["step", "", "", "", "", "", &step, &of_floor, &part]);
        f.write_str(&out)
    }
}
