//! What a loaded model is to the server, and the one function that makes one.

use std::sync::Arc;

use swiftlm_runtime::engine::PrefixStore;
use swiftlm_runtime::request::Generate;
use swiftlm_runtime::{Engine, EngineOptions};

use crate::events::Events;
use crate::flags::ServeFlags;
use crate::kv::KvInfo;
use crate::prepare::{Found, Prepared, Wishes};
use crate::progress::Progress;
use crate::text::{TextError, TextModel};

/// Facts of a loaded model for `/health`, `/v1/models` and replies.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// Id as it was asked for: a hub id or the directory's name.
    pub id: String,
    /// Unix time in seconds at which the weights were written: the same at each start.
    pub created: u64,
    /// The package's hash, or the program's where there is no package.
    pub fingerprint: String,
    /// Whether it was loaded from a package.
    pub packaged: bool,
    /// `model_type` of the configuration.
    pub architecture: String,
    /// How it computes less than the model says, if it does.
    pub lossy: Option<String>,
    /// Where it runs: `cpu` or `wgpu`.
    pub backend: String,
    /// Name of the device.
    pub device: String,
    /// Bytes of weights held.
    pub weights_bytes: u64,
    /// Bytes of the KV pool.
    pub kv_bytes: u64,
    /// How keys and values are kept.
    pub kv: KvInfo,
    /// Layers of the model.
    pub layers: usize,
    /// Of these, on a GPU.
    pub gpu_layers: usize,
}

/// A model that answers.
pub struct LoadedModel {
    /// The engine: token ids in, token ids out.
    pub engine: Arc<dyn Generate>,
    /// Facts.
    pub info: ModelInfo,
    /// Tokenizer, template, stop tokens, recommended sampling.
    pub text: TextModel,
}

/// Why no model was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or wrong, or the architecture unknown: named in the message.
    #[error("cannot load {model}: {reason}")]
    Model {
        /// The model as asked for.
        model: String,
        /// Why, and the remedy.
        reason: String,
    },
    /// The text side is missing or wrong.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It does not fit; the message holds the plan and what would fit.
    #[error("{0}")]
    Memory(String),
}

impl LoadError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Model { .. } | Self::Text(_) => 4,
            Self::Memory(_) => 5,
        }
    }
}

/// Loads the model that the flags name, telling `progress` how far it is. Runs on a thread of its own.
///
/// # Errors
/// What is wrong with the model, or that it does not fit.
pub fn load(flags: &ServeFlags, progress: &Progress) -> Result<LoadedModel, LoadError> {
    let found = Found::new(flags.model.as_deref(), progress)?;
    let prepared = Prepared::new(found, &Wishes::of(flags), progress)?;
    let mut info = prepared.info();
    let text = TextModel::load(prepared.directory(), &info.id)?;
    let model = info.id.clone();
    let wrong = |reason: String| LoadError::Model { model: info.id.clone(), reason };
    let store = flags.prompt_cache_dir.as_deref().filter(|_| flags.prompt_cache_entries > 0);
    let store = store
        .map(|dir| prepared.prefix_files(dir).map_err(|e| wrong(format!("--prompt-cache-dir {}: {e}", dir.display()))));
    let store = store.transpose()?.map(|files| Box::new(files) as Box<dyn PrefixStore>);
    let executable = prepared.into_executable(progress)?;
    info.weights_bytes = executable.weight_bytes() as u64;
    let options = EngineOptions {
        max_queue: flags.max_queue as usize,
        max_prompt_tokens: flags.max_prompt_tokens.map(|n| n as usize),
        prefixes: flags.prompt_cache_entries as usize,
    };
    let engine = Engine::start_with(executable, options, store)
        .map_err(|e| LoadError::Model { model, reason: format!("the engine's thread cannot start: {e}") })?;
    Ok(LoadedModel { engine: Arc::new(engine), info, text })
}

/// The memory plan for `--info`, made before any weight is read.
///
/// # Errors
/// What is wrong with the model, or that it does not fit.
pub fn plan(flags: &ServeFlags) -> Result<String, LoadError> {
    let progress = Progress::new(Events::new(flags.process.log_format));
    let found = Found::new(flags.model.as_deref(), &progress)?;
    let prepared = Prepared::new(found, &Wishes::of(flags), &progress)?;
    Ok(prepared.describe())
}
