//! What a loaded model is to the server, and the one function that makes one.

use std::sync::Arc;

use swiftlm_runtime::request::Generate;

use crate::flags::ServeFlags;
use crate::progress::Progress;
use crate::text::{TextError, TextModel};

/// Facts of a loaded model for `/health`, `/v1/models` and replies.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// Id as it was asked for: a hub id or the directory's name.
    pub id: String,
    /// Unix time in seconds at which the weights were written: the same at each start.
    pub created: u64,
    /// The package hash.
    pub fingerprint: String,
    /// `model_type` of the configuration.
    pub architecture: String,
    /// Where it runs: `cpu` or `wgpu`.
    pub backend: String,
    /// Name of the device.
    pub device: String,
    /// Bytes of weights held.
    pub weights_bytes: u64,
    /// Bytes of the KV pool.
    pub kv_bytes: u64,
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
pub fn load(flags: &ServeFlags, progress: &Progress) -> Result<LoadedModel, LoadError> {
    progress.report("load", 0.0);
    Err(unwired(flags))
}

/// The memory plan for `--info`, made before any weight is read.
pub fn plan(flags: &ServeFlags) -> Result<String, LoadError> {
    Err(unwired(flags))
}

fn unwired(flags: &ServeFlags) -> LoadError {
    let model = flags.model.clone().unwrap_or_else(|| "the demo model".to_owned());
    LoadError::Model { model, reason: "this build has no engine linked".to_owned() }
}
