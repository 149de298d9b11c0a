//! The sub-commands that do not serve.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use swiftlm_runtime::experts::{Policy, Trace};

use crate::load::LoadError;
use crate::progress::Progress;

/// What `swiftlm notices` prints: packages, licences and their texts; a repository check keeps it fresh.
pub const NOTICES: &str = include_str!("../third-party-notices.txt");

/// How a context comes about before it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FillState {
    /// By computing it.
    #[default]
    Prefill,
    /// Made up: as fast to read, and there at once.
    Random,
}

/// Flags of `swiftlm bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchFlags {
    /// Model: a directory, a package or a hub id; the built-in demo model if absent
    #[arg(long)]
    pub model: Option<String>,
    /// Model directory of a package that does not hold its weights
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Context depths to measure at
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub depths: Vec<u32>,
    /// Prompt tokens of the prefill measurement
    #[arg(long, default_value_t = 512)]
    pub prefill: u32,
    /// Tokens of the decode measurement
    #[arg(long, default_value_t = 128)]
    pub generate: u32,
    /// How keys and values are stored; each is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16")]
    pub kv: Vec<crate::flags::Kv>,
    /// How activations are rounded
    #[arg(long, value_enum, default_value_t)]
    pub precision: crate::flags::Precision,
    /// How the context up to a depth comes about
    #[arg(long, value_enum, default_value_t)]
    pub fill_state: FillState,
    /// Where the model runs
    #[arg(long, value_enum, default_value_t)]
    pub backend: crate::flags::Backend,
    /// Layers on the GPU, the last ones: `auto` or a number. All, or as many as fit its memory, if absent
    #[arg(long, default_value = "auto")]
    pub gpu_layers: crate::placement::GpuLayers,
    /// Memory for experts, in MB; all of them if absent, or as many as fit. Of a model without experts, for layers
    #[arg(long)]
    pub expert_budget: Option<u64>,
    /// Memory to use at most, in MB; 85 % of the system's if absent
    #[arg(long)]
    pub mem_limit: Option<u64>,
    /// How experts are read from disk
    #[arg(long, env = "SWIFTLM_IO", value_enum, default_value_t)]
    pub io: crate::flags::Io,
    /// Read experts that the next layer's router may choose before it does [auto if no value is given]
    #[arg(
        long,
        env = "SWIFTLM_SSD_PREFETCH",
        value_enum,
        num_args = 0..=1,
        default_value_t,
        default_missing_value = "auto"
    )]
    pub ssd_prefetch: crate::flags::Prefetch,
    /// Write the experts that decoding chose at the last depth, layer by layer, to this file, where not all are in memory
    #[arg(long)]
    pub expert_trace: Option<PathBuf>,
    /// CPU threads; one per core if absent
    #[arg(long)]
    pub threads: Option<u32>,
    /// Print CSV
    #[arg(long)]
    pub csv: bool,
    /// Draw decode speed over depth into this PNG file, a curve for each way of storing keys and values
    #[arg(long)]
    pub png: Option<PathBuf>,
}

/// Flags of `swiftlm iobench`.
#[derive(Args, Clone, Debug)]
pub struct IobenchFlags {
    /// A file on the disk, larger than the memory of its controller: a shard of a model
    pub file: PathBuf,
    /// Bytes of a read, in KiB; experts have about 500 to 7000
    #[arg(long, value_delimiter = ',', default_value = "256,1024,2560", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub sizes: Vec<u32>,
    /// Reads at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,16", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub depths: Vec<u32>,
    /// Seconds for each line
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

/// Runs `swiftlm iobench`; the text is a table.
///
/// # Errors
/// The file cannot be read.
pub fn iobench(flags: &IobenchFlags) -> Result<String, LoadError> {
    let (sizes, depths): (Vec<usize>, Vec<usize>) = (
        flags.sizes.iter().map(|kib| *kib as usize * 1024).collect(),
        flags.depths.iter().map(|depth| *depth as usize).collect(),
    );
    let time = std::time::Duration::from_secs_f64(flags.seconds.clamp(0.01, 600.0));
    let measured = swiftlm_driver::iobench::measure(&flags.file, &sizes, &depths, time)
        .map_err(|reason| LoadError::Model { model: flags.file.display().to_string(), reason })?;
    let mut text = format!("{:>8} {:>6} {:>9} {:>10}  by", "KiB", "depth", "GB/s", "ms a read");
    for s in measured.speeds {
        let (rate, ms) = (s.rate / 1e9, s.latency.as_secs_f64() * 1e3);
        text.push_str(&format!("\n{:>8} {:>6} {rate:>9.3} {ms:>10.3}  {}", s.size / 1024, s.depth, s.method));
    }
    for reason in measured.refused {
        text.push_str(&format!("\n{reason}"));
    }
    if !measured.uncached {
        text.push_str("\nThe file system cannot read past the page cache: these are speeds of memory, too.");
    }
    Ok(text)
}

/// Flags of `swiftlm experts`.
#[derive(Args, Clone, Debug)]
pub struct ExpertsFlags {
    /// A file that `swiftlm bench --expert-trace` wrote
    pub trace: PathBuf,
    /// Experts of a layer in memory; a line for each
    #[arg(long, value_delimiter = ',', default_value = "8,16,32,64", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub slots: Vec<u32>,
}

/// Runs `swiftlm experts`; the text is a table of hit rates.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn experts(flags: &ExpertsFlags) -> Result<String, LoadError> {
    let wrong = |reason: String| LoadError::Model { model: flags.trace.display().to_string(), reason };
    let text = std::fs::read_to_string(&flags.trace).map_err(|e| wrong(e.to_string()))?;
    let trace: Trace = text.parse().map_err(wrong)?;
    let mut out = format!("{:>6} {:>6} {:>6} {:>7}", "slots", "of", "LRU", "Belady");
    for slots in flags.slots.iter().filter(|slots| **slots as usize <= trace.experts) {
        let rate = |policy| trace.replay(*slots as usize, policy).hit_rate();
        let (lru, best) = (rate(Policy::LeastRecentlyUsed), rate(Policy::Belady));
        out.push_str(&format!("\n{slots:>6} {:>6} {lru:>6.3} {best:>7.3}", trace.experts));
    }
    Ok(out)
}

/// Flags of `swiftlm pull`.
#[derive(Args, Clone, Debug)]
pub struct PullFlags {
    /// Hub id
    pub model: String,
}

/// Runs `swiftlm pull`; the text says where the model lies.
///
/// # Errors
/// It cannot be found or downloaded.
pub fn pull(flags: &PullFlags, progress: &Progress) -> Result<String, LoadError> {
    let wrong =
        |e: swiftlm_driver::hub::HubError| LoadError::Model { model: flags.model.clone(), reason: e.to_string() };
    Ok(crate::hub::find(&flags.model, progress).map_err(wrong)?.display().to_string())
}
