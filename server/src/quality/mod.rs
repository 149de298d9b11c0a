//! What a way of storing keys and values costs: the perplexity of a text, the distance from another way, and whether a
//! number told long ago is recalled. Knows programs as things that give logits; never how keys and values are stored.

pub mod kv_report;
mod needle;
pub mod perplexity;
mod reader;
mod scores;
mod windows;

use std::path::PathBuf;

use clap::Args;
use swiftlm_runtime::StepError;
use swiftlm_runtime::sampler::NotFinite;

use crate::flags::{Backend, Kv, Precision};
use crate::load::LoadError;
use crate::placement::GpuLayers;
use crate::plot::PlotError;
use crate::prepare::{Found, Prepared, Wishes};
use crate::progress::Progress;
use crate::residency::ExpertWish;
use crate::text::TextError;

pub use needle::{Needle, found};
pub use reader::Reader;
pub use scores::{Comparison, Mean};
pub use windows::{scored, windows};

/// What both sub-commands ask: a model, a text and how it is read.
#[derive(Args, Clone, Debug)]
pub struct ReadFlags {
    /// Model: a directory, a package or a hub id; the built-in demo model if absent
    #[arg(long)]
    pub model: Option<String>,
    /// Model directory of a package that does not hold its weights
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Text to read, in UTF-8. Special tokens that are written out in it count as such
    #[arg(long)]
    pub file: PathBuf,
    /// Tokens of a window. The text is cut into windows that do not overlap, and what is left at its end is not read. As
    /// in llama.cpp's perplexity tool, of each window the second half is counted, so that every counted token follows on
    /// at least half a window; and where the model's texts begin with a token of their own, it takes the place of each
    /// window's first
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(4..))]
    pub context: u32,
    /// Tokens of the text to read at most; all of them if absent
    #[arg(long)]
    pub tokens: Option<u32>,
    /// How activations are rounded
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,
    /// Where the model runs
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Memory for experts of each loaded program, in MB; all of them if absent, or as many as fit
    #[arg(long)]
    pub expert_budget: Option<u64>,
    /// Memory to use at most, in MB; 85 % of the system's if absent
    #[arg(long)]
    pub mem_limit: Option<u64>,
    /// CPU threads; one per core if absent
    #[arg(long)]
    pub threads: Option<u32>,
    /// Print CSV
    #[arg(long)]
    pub csv: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum QualityError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The text or a prompt cannot be made tokens.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A step failed.
    #[error("a step failed: {0}")]
    Step(#[from] StepError),
    /// Logits that say nothing.
    #[error("{0}: this way of computing cannot be measured on this text")]
    Logits(#[from] NotFinite),
    /// The text cannot be read.
    #[error("cannot read --file {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// It is no text.
    #[error("--file {} is not UTF-8 from byte {byte} on: convert it, or take another text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where it stops being UTF-8.
        byte: usize,
    },
    /// Not one window.
    #[error("the text has {tokens} tokens, a window {context}: take a longer text, or a smaller --context")]
    Short {
        /// Tokens of the text, as far as it is read.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// The model was not made for so many tokens.
    #[error("{flag} {asked}: {model} was made for {context} tokens; ask for at most that")]
    Context {
        /// What was asked by.
        flag: &'static str,
        /// Tokens.
        asked: usize,
        /// The model.
        model: String,
        /// Its own context.
        context: usize,
    },
    /// A depth that no prompt is as short as.
    #[error("--depths {depth}: a prompt with a passkey and its answer takes {least} tokens; ask for at least that")]
    Depth {
        /// Tokens asked for.
        depth: usize,
        /// Tokens that are needed.
        least: usize,
    },
    /// A prompt cannot be written.
    #[error("the chat template of {model} refuses a user's question: {reason}; leave recall out with --places 0")]
    Template {
        /// The model.
        model: String,
        /// The template's words.
        reason: String,
    },
    /// The picture.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

impl QualityError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(error) => error.exit_code(),
            Self::Text(_) | Self::Template { .. } => 4,
            Self::Step(_) | Self::Logits(_) => 1,
            _ => 2,
        }
    }
}

/// A program that stores keys and values in this way and holds `context` tokens, within `limit` bytes (0 for the flags'
/// own limit).
fn prepare(
    flags: &ReadFlags,
    kv: Kv,
    context: usize,
    limit: u64,
    progress: &Progress,
) -> Result<Prepared, QualityError> {
    let limit = if limit == 0 { flags.mem_limit.unwrap_or(0) << 20 } else { limit };
    let wishes = Wishes {
        gpu_layers: GpuLayers::Auto,
        backend: flags.backend,
        device: None,
        threads: flags.threads.unwrap_or(0) as usize,
        precision: flags.precision,
        kv: Some(kv),
        careful: false,
        weights: flags.weights.clone(),
        chunk: None,
        context: Some(context),
        sequences: Some(1),
        experts_per_token: None,
        io: crate::flags::Io::Auto,
        prefetch: crate::flags::Prefetch::Off,
        experts: flags.expert_budget.map_or(ExpertWish::Fit, |mb| ExpertWish::Budget(mb << 20)),
        limit,
    };
    Ok(Prepared::new(Found::new(flags.model.as_deref(), progress)?, &wishes, progress)?)
}

/// Refuses more tokens than the model was made for.
fn check_context(prepared: &Prepared, flag: &'static str, asked: usize) -> Result<(), QualityError> {
    let (model, context) = (prepared.info().id, prepared.context());
    if asked > context { Err(QualityError::Context { flag, asked, model, context }) } else { Ok(()) }
}
