//! The sub-commands that do not serve.

use clap::Args;

/// Flags of `swiftlm bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchFlags {
    /// Model: a directory or a hub id; the built-in demo model if absent
    #[arg(long)]
    pub model: Option<String>,
    /// Context depths to measure at
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub depths: Vec<u32>,
    /// Prompt tokens of the prefill measurement
    #[arg(long, default_value_t = 512)]
    pub prefill: u32,
    /// Tokens of the decode measurement
    #[arg(long, default_value_t = 128)]
    pub generate: u32,
    /// Where the model runs
    #[arg(long, value_enum, default_value_t)]
    pub backend: crate::flags::Backend,
    /// CPU threads; one per core if absent
    #[arg(long)]
    pub threads: Option<u32>,
    /// Print CSV
    #[arg(long)]
    pub csv: bool,
}

/// Flags of `swiftlm pull`.
#[derive(Args, Clone, Debug)]
pub struct PullFlags {
    /// Hub id
    pub model: String,
}

/// Runs `swiftlm bench`; the text is its table.
pub fn bench(flags: &BenchFlags) -> Result<String, crate::load::LoadError> {
    let model = flags.model.clone().unwrap_or_else(|| "the demo model".to_owned());
    Err(crate::load::LoadError::Model { model, reason: "this build has no engine linked".to_owned() })
}

/// Runs `swiftlm pull`; the text says where the model lies.
pub fn pull(flags: &PullFlags) -> Result<String, crate::load::LoadError> {
    Err(crate::load::LoadError::Model {
        model: flags.model.clone(),
        reason: "this build has no hub client linked".to_owned(),
    })
}
