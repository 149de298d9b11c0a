//! The command line of `kernel-dump`.

use std::path::PathBuf;

use clap::{Args, Parser};
use serde::Serialize;
use swiftlm_compiler::work::StepShape;
use swiftlm_device::Device;
use swiftlm_ir::dim::ShapeClass;

use super::page::page;
use super::replay::{replay, table};
use super::roofline::{Rates, roofline};
use super::subject::{Place, StepFlags};
use super::trace::Trace;
use super::why::why;
use super::{Selection, Stage, dump};
use crate::checkpoint::Checkpoint;
use crate::compile::Options;
use crate::precision::{Kv, Precision};

/// Prints graph, plan, kernels and shaders of a model directory; no weight is read. With --roofline or --replay it runs a
/// step of it.
#[derive(Debug, Parser)]
#[command(name = "kernel-dump", version)]
pub struct Flags {
    /// Model directory
    model: PathBuf,
    #[command(flatten)]
    look: Look,
    /// Only this function (embed, layer0, head)
    #[arg(long)]
    func: Option<String>,
    /// Only this class of rows: one, few, some, many
    #[arg(long, value_parser = class)]
    class: Option<ShapeClass>,
    /// Of kernels, only those of this name, or whose key begins so
    #[arg(long)]
    kernel: Option<String>,
    /// Of passes, only this one (model, canon, siblings, egraph, tidy, basis)
    #[arg(long)]
    pass: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Tokens of a step at most
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// How activations are rounded
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// How keys and values are stored; f16 if absent, f32 where the precision is exact
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    #[command(flatten)]
    step: StepFlags,
    /// GB/s that the device reads; measured on the CPU if absent
    #[arg(long)]
    bandwidth: Option<f64>,
    /// GFLOP/s that the device computes; floors count bytes only if absent
    #[arg(long)]
    peak: Option<f64>,
}

/// What is looked at.
#[derive(Args, Debug)]
struct Look {
    /// What to print: graph, passes, egraph, plan, kernel, wgsl, msl, spirv; several with commas
    #[arg(long, value_delimiter = ',', default_value = "graph", value_parser = stage)]
    emit: Vec<Stage>,
    /// Print the chain of passes and rules behind a value of the optimised graph, `layer0.attend`
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["emit", "roofline", "replay", "html"])]
    why: Option<String>,
    /// Run a step and print each launch's time beside the least that it could take
    #[arg(long, conflicts_with_all = ["emit", "replay"])]
    roofline: bool,
    /// Run a step and each launch of this template or kernel (or `all`) a second time by the interpreter, and compare
    #[arg(long, value_name = "KERNEL", conflicts_with_all = ["emit", "html"])]
    replay: Option<String>,
    /// Write a page that shows the graph before and after each pass, and the launches of a step; with --roofline, timed
    #[arg(long, value_name = "FILE", conflicts_with = "emit")]
    html: Option<PathBuf>,
}

fn stage(name: &str) -> Result<Stage, String> {
    let known = || Stage::ALL.map(|(name, _)| name).join(", ");
    Stage::ALL.iter().find(|s| s.0 == name).map(|s| s.1).ok_or_else(|| format!("expected one of {}", known()))
}

fn class(name: &str) -> Result<ShapeClass, String> {
    let known = || ShapeClass::ALL.map(ShapeClass::name).join(", ");
    ShapeClass::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| format!("expected one of {}", known()))
}

impl Flags {
    /// How the model is compiled: for what the device binds at once, if it runs on one.
    fn options(&self, device: Option<&dyn Device>) -> Options {
        let mut options =
            Options { build: self.precision.build(self.kv, self.step.backend == Place::Cpu), ..Options::default() };
        options.compile.chunk = self.chunk as usize;
        options.compile.max_rows = options.compile.max_rows.min(options.compile.chunk);
        options.compile.max_binding = device.map_or(options.compile.max_binding, |d| d.target().max_binding);
        options
    }

    /// What was asked for, as a text of whole lines.
    ///
    /// # Errors
    /// The model cannot be read, compiled or run, or has nothing of the name asked for.
    pub fn text(&self) -> Result<String, Box<dyn std::error::Error>> {
        let checkpoint = Checkpoint::open(&self.model)?;
        let runs = self.look.roofline || self.look.replay.is_some();
        let device = runs.then(|| self.step.open()).transpose()?;
        let trace = Trace::of(&checkpoint, &self.options(device.as_deref()))?;
        if let Some(value) = &self.look.why {
            let why = why(&trace, value)?;
            return self.either(&why, || why.to_string());
        }
        let rates = Rates { bandwidth: self.bandwidth.map(|r| r * 1e9), peak: self.peak.map(|r| r * 1e9) };
        let measured = match (device, &self.look.replay) {
            (Some(device), Some(kernel)) => {
                let compared = replay(&trace, &checkpoint, (device, &self.step), kernel)?;
                return self.either(&compared, || table(&compared));
            }
            (Some(device), None) => Some(roofline(&trace, &checkpoint, (device, &self.step), rates)?),
            (None, _) => None,
        };
        if let Some(file) = &self.look.html {
            let shape = StepShape { tokens: self.step.tokens as usize, rows: 1, before: self.step.depth as usize };
            let page = page(&trace, &shape, measured.as_ref());
            std::fs::write(file, page).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        match measured {
            Some(measured) => self.either(&measured, || measured.to_string()),
            None if self.look.html.is_some() => Ok(String::new()),
            None => self.emitted(&trace),
        }
    }

    fn either(&self, facts: &impl Serialize, words: impl Fn() -> String) -> Result<String, Box<dyn std::error::Error>> {
        Ok(if self.json { serde_json::to_string_pretty(facts)? + "\n" } else { words() })
    }

    fn emitted(&self, trace: &Trace) -> Result<String, Box<dyn std::error::Error>> {
        let (func, pass, kernel) = (self.func.clone(), self.pass.clone(), self.kernel.clone());
        let selection = Selection { func, class: self.class, pass, kernel };
        let text = |stage: &Stage| dump(trace, *stage, &selection);
        if !self.json {
            return Ok(self.look.emit.iter().map(text).collect::<Result<String, _>>()?);
        }
        let mut texts = serde_json::Map::new();
        for stage in &self.look.emit {
            let name = Stage::ALL.iter().find(|known| known.1 == *stage).map_or("", |known| known.0);
            texts.insert(name.to_owned(), text(stage)?.into());
        }
        self.either(&texts, String::new)
    }
}
