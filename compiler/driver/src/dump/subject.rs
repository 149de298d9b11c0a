//! A model that is run only to be looked at: alone on its device, with a history of any length.

use clap::{Args, ValueEnum};
use swiftlm_cpu::{CpuDevice, CpuOptions, Tier};
use swiftlm_device::Device;
use swiftlm_gpu::GpuDevice;
use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_runtime::executable::{Batch, Row, Want};
use swiftlm_runtime::{Executable, ExecutableOptions};

use super::DumpError;
use crate::checkpoint::Checkpoint;

/// Where a program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Micro-kernels on this machine's processors.
    #[default]
    Cpu,
    /// Vulkan, Metal or Direct3D.
    Wgpu,
}

/// The step that is looked at, and where.
#[derive(Args, Clone, Debug)]
pub struct StepFlags {
    /// Where the step runs, or is meant to
    #[arg(long, value_enum, default_value_t)]
    pub backend: Place,
    /// Part of the GPU's name; the best there is if absent
    #[arg(long)]
    pub device: Option<String>,
    /// CPU threads; one per core if absent
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Tokens of the step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub tokens: u32,
    /// Tokens of the sequence before them; what they leave in the state is made up
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub depth: u32,
}

impl StepFlags {
    /// The device that the flags name.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&self) -> Result<Box<dyn Device>, DumpError> {
        Ok(match self.backend {
            Place::Cpu => Box::new(CpuDevice::new(CpuOptions { threads: self.threads, tier: Tier::Native })),
            Place::Wgpu => Box::new(GpuDevice::open(self.device.as_deref()).map_err(DumpError::run)?),
        })
    }

    /// Loads a program for the step, with a history made up if there is one.
    ///
    /// # Errors
    /// Its weights cannot be read, or the device fails.
    pub fn load(
        &self,
        device: Box<dyn Device>,
        program: Program,
        checkpoint: &Checkpoint,
    ) -> Result<Executable, DumpError> {
        if self.tokens as usize > program.chunk {
            return Err(DumpError::Run(format!("--tokens: a step has at most {} tokens (--chunk)", program.chunk)));
        }
        let pages = (self.depth as usize + self.tokens as usize).div_ceil(PAGE_TOKENS);
        let options = ExecutableOptions {
            kv_pages: pages,
            max_sequences: 1,
            table_stride: pages,
            layers: None,
            experts: None,
            rest: None,
            progress: &mut |_| {},
        };
        let mut executable = Executable::load(device, program, checkpoint, options).map_err(DumpError::run)?;
        if self.depth > 0 {
            executable.fill_states().map_err(DumpError::run)?;
        }
        Ok(executable)
    }

    /// The step: its last token wants the likeliest next one. Ids vary, so that no expert and no embedding row is read
    /// more often than in use.
    pub fn batch(&self, executable: &Executable) -> Batch {
        let (vocabulary, tokens) = (executable.vocabulary(), self.tokens);
        let positions = self.depth..self.depth + tokens;
        Batch {
            ids: positions.clone().map(|p| ((p as usize).wrapping_mul(7919) % vocabulary) as u32).collect(),
            positions: positions.collect(),
            sequences: vec![0; tokens as usize],
            rows: vec![Row { token: tokens - 1, want: Want::Greedy }],
            table: executable.alone((self.depth + tokens) as usize),
            ..Batch::default()
        }
    }
}
