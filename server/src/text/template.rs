//! Chat templates: Jinja in the dialect that Hugging Face models are written for. A template comes with a model, so it runs
//! with bounded fuel and output and can reach nothing but what it is given.

use std::io;

use indexmap::IndexMap;
use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value, json};

use super::json::{JsonStyle, dumps, sorted};

/// Steps a rendering may take: about a second, and a thousand times what a long conversation needs.
const FUEL: u64 = 10_000_000;
/// Bytes it may write: requests themselves are at most 100 MiB.
const OUTPUT: usize = 128 << 20;
/// Marks the errors a template raises on purpose.
const RAISED: &str = "raise_exception: ";
/// The template of an ordinary conversation, and the one some models have for conversations with tools.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Why a template did not compile or render.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{template}, line {line}: {message}")]
pub struct TemplateError {
    /// File and, where there are several, name of the template.
    pub template: String,
    /// Line in it, from 1; 0 if unknown.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// The template refused the conversation by `raise_exception`; it is not broken.
    pub raised: bool,
}

/// One conversation.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    /// Messages as the template dialect has them.
    pub messages: &'a Value,
    /// Tools in OpenAI's shape.
    pub tools: Option<&'a Value>,
    /// Open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Further variables; they win over the model's special tokens.
    pub variables: &'a Map<String, Value>,
}

/// A model's templates, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    sources: IndexMap<String, String>,
    file: String,
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles named templates out of `file`. One alone is the default whatever its name.
    pub fn new(
        file: &str,
        mut sources: IndexMap<String, String>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        if sources.len() == 1 {
            sources = sources.into_values().map(|source| (DEFAULT.to_owned(), source)).collect();
        }
        let mut template = Self { environment: environment(), sources, file: file.to_owned(), special_tokens };
        for (name, source) in &template.sources {
            let source = plain_generation(source);
            if let Err(error) = template.environment.add_template_owned(name.clone(), source) {
                return Err(template.error(name, &error));
            }
        }
        if !template.sources.contains_key(DEFAULT) {
            let names: Vec<_> = template.sources.keys().cloned().collect();
            let message = format!("no template is named \"{DEFAULT}\" (there are: {})", names.join(", "));
            return Err(TemplateError { template: file.to_owned(), line: 0, message, raised: false });
        }
        Ok(template)
    }

    /// Renders a one-message conversation, so that a broken template is found when the model is loaded.
    /// One that refuses it by `raise_exception` is not broken.
    pub fn probe(&self) -> Result<(), TemplateError> {
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let variables = Map::new();
        let probe =
            Conversation { messages: &messages, tools: None, add_generation_prompt: true, variables: &variables };
        match self.render(&probe) {
            Err(error) if !error.raised => Err(error),
            _ => Ok(()),
        }
    }

    /// The prompt's text.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        self.render_at(conversation, &ZonedDateTime::now())
    }

    /// The same with a given wall clock for `strftime_now`.
    pub fn render_at(&self, conversation: &Conversation<'_>, now: &ZonedDateTime) -> Result<String, TemplateError> {
        let name = self.name_for(conversation.tools);
        let mut variables = self.special_tokens.clone();
        variables.insert("messages".into(), conversation.messages.clone());
        variables.insert("tools".into(), conversation.tools.cloned().unwrap_or(Value::Null));
        variables.insert("documents".into(), Value::Null);
        variables.insert("add_generation_prompt".into(), conversation.add_generation_prompt.into());
        variables.extend(conversation.variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut context: IndexMap<String, Jinja> =
            variables.into_iter().map(|(name, value)| (name, Jinja::from(Serde(value)))).collect();
        let now = now.clone();
        context.insert("strftime_now".into(), Jinja::from_function(move |format: &str| strftime(format, &now)));

        let template = self.environment.get_template(name).map_err(|error| self.error(name, &error))?;
        let mut out = Capped(Vec::new());
        template.render_captured_to(Jinja::from_pairs(context), &mut out).map_err(|error| self.error(name, &error))?;
        Ok(String::from_utf8_lossy(&out.0).into_owned())
    }

    /// Whether the template that these tools select reads a variable of this name.
    pub fn reads(&self, variable: &str, tools: Option<&Value>) -> bool {
        self.sources.get(self.name_for(tools)).is_some_and(|source| source.contains(variable))
    }

    /// Whether any of the templates can show tools to the model.
    pub fn takes_tools(&self) -> bool {
        self.sources.contains_key(TOOL_USE) || self.sources.values().any(|source| source.contains("tools"))
    }

    fn name_for(&self, tools: Option<&Value>) -> &'static str {
        if tools.is_some() && self.sources.contains_key(TOOL_USE) { TOOL_USE } else { DEFAULT }
    }

    fn error(&self, name: &str, error: &minijinja::Error) -> TemplateError {
        let template =
            if self.sources.len() > 1 { format!("{} (template {name})", self.file) } else { self.file.clone() };
        // The innermost error is the one that a macro or a filter met.
        let mut inner: &(dyn std::error::Error + 'static) = error;
        let mut detail = error.detail();
        while let Some(next) = inner.source() {
            inner = next;
            detail = next.downcast_ref::<minijinja::Error>().and_then(minijinja::Error::detail).or(detail);
        }
        let raised = detail.and_then(|detail| detail.strip_prefix(RAISED));
        let message = match (raised, error.kind(), detail) {
            (Some(message), ..) => message.to_owned(),
            (_, ErrorKind::OutOfFuel, _) => format!("the template takes more than {FUEL} steps"),
            (_, ErrorKind::WriteFailure, _) => format!("the template writes more than {OUTPUT} bytes"),
            (_, kind, Some(detail)) => format!("{kind}: {detail}"),
            (_, kind, None) => kind.to_string(),
        };
        TemplateError { template, line: error.line().unwrap_or(0), message, raised: raised.is_some() }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    super::python::install(&mut environment);
    environment.set_debug(false);
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment
}

/// Transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: Jinja, options: Kwargs) -> Result<Jinja, minijinja::Error> {
    let failed = |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let style = JsonStyle {
        indent: options.get("indent")?,
        separators: match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
            None => None,
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "separators are two strings")),
        },
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(minijinja::Error::new(ErrorKind::UndefinedError, "an undefined value has no JSON"));
    }
    let value = serde_json::to_value(&value).map_err(failed)?;
    let value = if sort { sorted(value) } else { value };
    Ok(dumps(&value, &style).map_err(failed)?.into())
}

fn strftime(format: &str, now: &ZonedDateTime) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// `{% generation %}` marks the assistant's words for training and prints nothing itself: a plain scope of the same
/// length, so that lines and columns of errors stay true.
fn plain_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replace("generation", "with      ")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith      ")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT {
            return Err(io::Error::other("too much output"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
