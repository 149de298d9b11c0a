//! The command line. Every flag acts; those that the documentation names and this build lacks are in `absent`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use swiftlm_driver::precision::{Kv, Precision};

use crate::placement::GpuLayers;

/// Serves a language model on this machine with OpenAI's API.
#[derive(Clone, Debug, Parser)]
#[command(name = "swiftlm", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; serving if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of serving.
    #[command(flatten)]
    pub serve: ServeFlags,
}

/// Sub-commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve (the default)
    Serve(Box<ServeFlags>),
    /// Measure prefill and decode speed
    Bench(crate::commands::BenchFlags),
    /// Measure how well the model foretells a text
    Perplexity(crate::quality::perplexity::PerplexityFlags),
    /// Measure what ways of storing keys and values cost: divergence, perplexity, recall, bytes
    KvReport(crate::quality::kv_report::KvReportFlags),
    /// Measure how fast a disk gives experts
    Iobench(crate::commands::IobenchFlags),
    /// Measure how well policies of keeping experts in memory would have done
    Experts(crate::commands::ExpertsFlags),
    /// Download a model from the hub
    Pull(crate::commands::PullFlags),
    /// Print the licences of the packages that this program is made with
    Notices,
}

/// How the process speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Sentences.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The best that is there.
    #[default]
    Auto,
    /// Vector units.
    Cpu,
    /// Vulkan, Metal or Direct3D.
    Wgpu,
}

/// How experts are read from disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// By io_uring where it works, or else by threads.
    #[default]
    Auto,
    /// By io_uring, or not at all.
    Uring,
    /// By threads that each wait for a read.
    Pread,
}

impl From<Io> for swiftlm_driver::checkpoint::ReadBy {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Best,
            Io::Uring => Self::Uring,
            Io::Pread => Self::Threads,
        }
    }
}

/// Whether experts are read before they are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Prefetch {
    /// If that is faster, which the first tokens show.
    Auto,
    /// As long as guesses are right often enough.
    On,
    /// Not.
    #[default]
    Off,
}

/// Bits of TurboQuant codes, as part of [`Kv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TurboKv {
    /// Keys and values of 4 bits.
    K4v4,
    /// Keys of 4 bits, values of 3.
    K4v3,
    /// Keys and values of 3 bits.
    K3v3,
}

impl From<TurboKv> for Kv {
    fn from(turbo: TurboKv) -> Self {
        match turbo {
            TurboKv::K4v4 => Self::K4v4,
            TurboKv::K4v3 => Self::K4v3,
            TurboKv::K3v3 => Self::K3v3,
        }
    }
}

/// Flags of `swiftlm serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeFlags {
    /// Model: a directory, a package or a hub id; the built-in demo model if absent
    #[arg(long, env = "SWIFTLM_MODEL")]
    pub model: Option<String>,
    /// Model directory of a package that does not hold its weights
    #[arg(long, env = "SWIFTLM_WEIGHTS")]
    pub weights: Option<PathBuf>,
    /// Another name under which the model answers
    #[arg(long, env = "SWIFTLM_ALIAS", value_delimiter = ',')]
    pub alias: Vec<String>,
    /// Answer 404 to requests for another model instead of serving this one
    #[arg(long, env = "SWIFTLM_STRICT_MODEL")]
    pub strict_model: bool,
    /// Port; 0 takes a free one
    #[arg(long, env = "SWIFTLM_PORT", default_value_t = 5413)]
    pub port: u16,
    /// Address to listen at
    #[arg(long, env = "SWIFTLM_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Where the model runs
    #[arg(long, env = "SWIFTLM_BACKEND", value_enum, default_value_t)]
    pub backend: Backend,
    /// Layers on the GPU, the last ones, while the CPU has the others: `auto` or a number. `auto` is all, or as many as fit
    /// the GPU's memory
    #[arg(long, env = "SWIFTLM_GPU_LAYERS", default_value = "auto")]
    pub gpu_layers: GpuLayers,
    /// Device whose name contains this
    #[arg(long, env = "SWIFTLM_DEVICE")]
    pub device: Option<String>,
    /// CPU threads; one per core if absent
    #[arg(long, env = "SWIFTLM_THREADS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Tokens of the context; the model's own or what fits if absent
    #[arg(long, env = "SWIFTLM_CTX_SIZE", value_parser = clap::value_parser!(u32).range(16..))]
    pub ctx_size: Option<u32>,
    /// Sequences in one batch; what fits if absent
    #[arg(long, env = "SWIFTLM_PARALLEL", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub parallel: Option<u32>,
    /// Prompt tokens computed in one step [512, or as a package was made]
    #[arg(long, env = "SWIFTLM_PREFILL_SIZE", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub prefill_size: Option<u32>,
    /// Requests that may wait; more are answered 429
    #[arg(long, env = "SWIFTLM_MAX_QUEUE", default_value_t = 256)]
    pub max_queue: u32,
    /// Conversations and prompts that are kept, so that one that begins alike need not be computed again from its start; as
    /// far as memory for keys and values is free. 0 keeps none
    #[arg(long, env = "SWIFTLM_PROMPT_CACHE_ENTRIES", default_value_t = 64)]
    pub prompt_cache_entries: u32,
    /// Folder where they outlive the process; in memory only if absent. Its files hold what was said
    #[arg(long, env = "SWIFTLM_PROMPT_CACHE_DIR")]
    pub prompt_cache_dir: Option<PathBuf>,
    /// Longest prompt in tokens
    #[arg(long, env = "SWIFTLM_MAX_PROMPT_TOKENS")]
    pub max_prompt_tokens: Option<u32>,
    /// Memory to use at most, in MB; 85 % of the system's if absent
    #[arg(long, env = "SWIFTLM_MEM_LIMIT")]
    pub mem_limit: Option<u64>,
    /// Memory for experts, in MB: the others are read from disk as they are needed. All of them if absent, or as many as
    /// fit. Of a model without experts, memory for layers
    #[arg(long, env = "SWIFTLM_EXPERT_BUDGET")]
    pub expert_budget: Option<u64>,
    /// How experts are read from disk
    #[arg(long, env = "SWIFTLM_IO", value_enum, default_value_t)]
    pub io: Io,
    /// Read experts that the next layer's router may choose before it does [auto if no value is given]
    #[arg(
        long,
        env = "SWIFTLM_SSD_PREFETCH",
        value_enum,
        num_args = 0..=1,
        default_value_t,
        default_missing_value = "auto"
    )]
    pub ssd_prefetch: Prefetch,
    /// Experts of a token at most, fewer than the model was trained with: faster, and another, lesser model. Every reply
    /// says so
    #[arg(long, env = "SWIFTLM_TOP_K", value_parser = clap::value_parser!(u32).range(1..))]
    pub experts_per_token: Option<u32>,
    /// Read experts that do not fit from disk as they are needed; this happens without it, too
    #[arg(long, env = "SWIFTLM_STREAM_EXPERTS")]
    pub stream_experts: bool,
    /// How activations are rounded
    #[arg(long, env = "SWIFTLM_PRECISION", value_enum, default_value_t)]
    pub precision: Precision,
    /// How keys and values are stored; f16 if absent, f32 where the precision is exact
    #[arg(long, env = "SWIFTLM_KV", value_enum)]
    pub kv: Option<Kv>,
    /// Keep older keys and values in TurboQuant codes [k4v4 if no value is given]
    #[arg(long, env = "SWIFTLM_TURBO_KV", value_enum, num_args = 0..=1, default_missing_value = "k4v4", conflicts_with = "kv")]
    pub turbo_kv: Option<TurboKv>,
    /// Let models that can think do so
    #[arg(long, env = "SWIFTLM_THINKING")]
    pub thinking: bool,
    /// Print the memory plan and exit
    #[arg(long)]
    pub info: bool,
    /// Sampling
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Access and process
    #[command(flatten)]
    pub process: ProcessFlags,
}

/// What a request that says nothing gets; each wins over the model's own recommendation.
#[derive(Args, Clone, Debug, Default)]
pub struct SamplingFlags {
    /// Tokens of a reply at most [2048]
    #[arg(long, env = "SWIFTLM_MAX_TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tokens: Option<u64>,
    /// Temperature [0.6]
    #[arg(long, env = "SWIFTLM_TEMP", value_parser = |s: &str| number(s, 0.0, 2.0))]
    pub temp: Option<f64>,
    /// Nucleus [1]
    #[arg(long, env = "SWIFTLM_TOP_P", value_parser = |s: &str| number(s, 0.0, 1.0))]
    pub top_p: Option<f64>,
    // No environment mirror: SWIFTLM_TOP_K is the documented name of another thing, experts per token.
    /// Most likely tokens kept; 0 keeps all [50]
    #[arg(long)]
    pub top_k: Option<u64>,
    /// Least share of the most likely token's probability [0]
    #[arg(long, env = "SWIFTLM_MIN_P", value_parser = |s: &str| number(s, 0.0, 1.0))]
    pub min_p: Option<f64>,
    /// Repetition penalty; 1 is off [1]
    #[arg(long, env = "SWIFTLM_REPEAT_PENALTY", value_parser = |s: &str| number(s, 1e-3, 100.0))]
    pub repeat_penalty: Option<f64>,
}

/// Who may ask, and how the process speaks and ends.
#[derive(Args, Clone, Debug)]
pub struct ProcessFlags {
    /// Key that requests must carry
    #[arg(long, env = "SWIFTLM_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// File of such keys, one a line
    #[arg(long, env = "SWIFTLM_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Origin whose pages may ask, or *
    #[arg(long, env = "SWIFTLM_CORS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors: Vec<String>,
    /// Format of log and events
    #[arg(long, env = "SWIFTLM_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Least level of the log: error, warn, info, debug, trace
    #[arg(long, env = "SWIFTLM_LOG_LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
    /// Seconds that running requests get to finish at shutdown
    #[arg(long, env = "SWIFTLM_DRAIN_SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,
}

fn number(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (low..=high).contains(&number) { Ok(number) } else { Err(format!("must be from {low} to {high}")) }
}
