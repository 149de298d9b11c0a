//! Everything of a model directory that concerns text: tokenizer, template, the tokens that end a reply, and the sampling
//! that its makers recommend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{Tokenizer, content};

/// Why a model's text side could not be loaded, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that must be there cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// A JSON file is not what it must be.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// `tokenizer.json` is wrong.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The library's words.
        reason: String,
    },
    /// The chat template is broken.
    #[error("the chat template of {model} does not work: {error}; correct it or remove it from the model")]
    Template {
        /// The model.
        model: String,
        /// Where and why.
        error: TemplateError,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer cannot encode this text: {reason}")]
    Encode {
        /// The library's words.
        reason: String,
    },
}

/// What `generation_config.json` recommends; each is absent unless the file has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recommended {
    /// Sampling temperature; 0 where the file switches sampling off.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Most likely tokens kept.
    pub top_k: Option<u64>,
    /// Least share of the most likely token's probability.
    pub min_p: Option<f64>,
    /// Locally typical mass.
    pub typical_p: Option<f64>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f64>,
    /// Tokens to generate at most.
    pub max_tokens: Option<u64>,
}

/// The text side of a model.
#[derive(Debug)]
pub struct TextModel {
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Conversations to text; base models have none.
    pub template: Option<ChatTemplate>,
    /// A reply ends before any of these.
    pub stop_tokens: Vec<u32>,
    /// What the model's makers recommend.
    pub recommended: Recommended,
}

impl TextModel {
    /// Reads a model directory. `model` is its name in errors.
    pub fn load(directory: &Path, model: &str) -> Result<Self, TextError> {
        let config = read_json(&directory.join("tokenizer_config.json"))?;
        let generation = read_json(&directory.join("generation_config.json"))?;
        let architecture = read_json(&directory.join("config.json"))?;
        let tokenizer = Tokenizer::from_file(&directory.join("tokenizer.json"), &config)?;
        let template = templates(directory, &config)?
            .map(|(file, sources)| ChatTemplate::new(&file, sources, special_tokens(&config)))
            .transpose()
            .and_then(|template| template.map(|template| template.probe().map(|()| template)).transpose())
            .map_err(|error| TextError::Template { model: model.to_owned(), error })?;
        let recommended = recommended(&generation)
            .map_err(|reason| TextError::Config { path: directory.join("generation_config.json"), reason })?;
        let stop_tokens = stop_tokens(&tokenizer, &config, &[&generation, &architecture]);
        Ok(Self { tokenizer: Arc::new(tokenizer), template, stop_tokens, recommended })
    }
}

/// The file's JSON object; an empty one where there is no such file.
fn read_json(path: &Path) -> Result<Value, TextError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Object(Map::new())),
        Err(error) => return Err(TextError::Read { path: path.to_owned(), error }),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| TextError::Config { path: path.to_owned(), reason: error.to_string() })
}

type Named = (String, IndexMap<String, String>);

/// The template files win over the older places, as in transformers.
fn templates(directory: &Path, config: &Value) -> Result<Option<Named>, TextError> {
    let path = directory.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => {
            let sources = IndexMap::from_iter([("default".to_owned(), source)]);
            return Ok(Some(("chat_template.jinja".to_owned(), sources)));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(TextError::Read { path, error }),
    }
    let of_processor = read_json(&directory.join("chat_template.json"))?;
    let (file, value) = match of_processor.get("chat_template") {
        Some(value) => ("chat_template.json", value),
        None => match config.get("chat_template") {
            Some(value) => ("tokenizer_config.json", value),
            None => return Ok(None),
        },
    };
    let wrong = |reason: &str| TextError::Config { path: directory.join(file), reason: reason.to_owned() };
    let sources: IndexMap<String, String> = match value {
        Value::Null => return Ok(None),
        Value::String(source) => IndexMap::from_iter([("default".to_owned(), source.clone())]),
        Value::Array(items) => items
            .iter()
            .map(|item| Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("each chat_template of the list needs the strings `name` and `template`"))?,
        _ => return Err(wrong("chat_template must be a string or a list")),
    };
    if sources.is_empty() {
        return Ok(None);
    }
    Ok(Some((format!("chat_template in {file}"), sources)))
}

/// Special tokens are variables of the template.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, token)| Some((name.clone(), Value::from(content(token)?)))).collect()
}

/// `eos_token_id` (one or a list) of the first file that has it, and the tokenizer's own `eos_token`.
fn stop_tokens(tokenizer: &Tokenizer, config: &Value, files: &[&Value]) -> Vec<u32> {
    let listed = files.iter().find_map(|file| file.get("eos_token_id").filter(|ids| !ids.is_null()));
    let mut ids: Vec<u32> = match listed {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    };
    ids.extend(config.get("eos_token").and_then(content).and_then(|token| tokenizer.id(token)));
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn recommended(generation: &Value) -> Result<Recommended, String> {
    let number = |name: &str, low: f64, high: f64| match generation.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .filter(|number| (low..=high).contains(number))
            .map(Some)
            .ok_or_else(|| format!("{name} is {value}, must be a number from {low} to {high}")),
    };
    let whole = |name: &str| match generation.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_u64().map(Some).ok_or_else(|| format!("{name} is {value}, must be a whole number from 0"))
        }
    };
    let greedy = generation.get("do_sample") == Some(&Value::Bool(false));
    Ok(Recommended {
        temperature: if greedy { Some(0.0) } else { number("temperature", 0.0, 100.0)? },
        top_p: number("top_p", 0.0, 1.0)?,
        top_k: whole("top_k")?,
        min_p: number("min_p", 0.0, 1.0)?,
        typical_p: number("typical_p", 0.0, 1.0)?,
        repetition_penalty: number("repetition_penalty", 1e-3, 100.0)?,
        max_tokens: whole("max_new_tokens")?,
    })
}
