//! From a request to the prompt's ids: template, tokenizer, and whether it fits.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::messages;
use crate::error::ApiError;
use crate::load::LoadedModel;
use crate::state::Config;
use crate::text::template::Conversation;

/// A chat, read and ready to be rendered.
#[derive(Debug)]
pub struct Chat {
    messages: Value,
    tools: Option<Value>,
    variables: Map<String, Value>,
    add_generation_prompt: bool,
}

impl Chat {
    /// Takes the fields that the template sees; those it does not look at are added to `ignored`.
    pub fn take(
        config: &Config,
        model: &LoadedModel,
        fields: &mut Fields,
        ignored: &mut Vec<String>,
    ) -> Result<Self, ApiError> {
        let messages = messages::take(fields, ignored)?;
        let template = model.text.template.as_ref().ok_or_else(|| {
            ApiError::invalid("messages", "this model has no chat template; use /v1/completions with a raw prompt")
        })?;
        let tools = tools(fields, ignored)?;
        if tools.is_some() && !template.takes_tools() {
            return Err(ApiError::invalid("tools", "the chat template of this model takes no tools"));
        }
        let mut variables = match fields.object("chat_template_kwargs")? {
            Some(kwargs) => kwargs.into_map(),
            None => Map::new(),
        };
        for name in ["messages", "tools", "add_generation_prompt"] {
            if variables.contains_key(name) {
                let path = format!("chat_template_kwargs.{name}");
                return Err(ApiError::invalid(&path, format!("'{path}' would replace what the request says itself")));
            }
        }
        for name in variables.keys().filter(|name| !template.reads(name, tools.as_ref())) {
            ignored.push(format!("chat_template_kwargs.{name}"));
        }
        if let Some(effort) = fields.text("reasoning_effort")? {
            if !["none", "minimal", "low", "medium", "high", "xhigh"].contains(&effort.as_str()) {
                return Err(fields.wrong("reasoning_effort", "must be none, minimal, low, medium, high or xhigh"));
            }
            if !template.reads("reasoning_effort", tools.as_ref()) {
                ignored.push("reasoning_effort".to_owned());
            }
            variables.insert("reasoning_effort".into(), effort.into());
        }
        let thinking = fields.flag("enable_thinking")?;
        if thinking.is_some() && !template.reads("enable_thinking", tools.as_ref()) {
            ignored.push("enable_thinking".to_owned());
        }
        match thinking {
            Some(thinking) => variables.insert("enable_thinking".into(), thinking.into()),
            None if variables.contains_key("enable_thinking") => None,
            None => variables.insert("enable_thinking".into(), config.thinking.into()),
        };
        let add_generation_prompt = fields.flag("add_generation_prompt")?.unwrap_or(true);
        Ok(Self { messages, tools, variables, add_generation_prompt })
    }

    /// Whether the model sees tools.
    pub fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// The prompt's text.
    pub fn render(&self, model: &LoadedModel) -> Result<String, ApiError> {
        let Some(template) = &model.text.template else { return Err(ApiError::unsupported("messages")) };
        let conversation = Conversation {
            messages: &self.messages,
            tools: self.tools.as_ref(),
            add_generation_prompt: self.add_generation_prompt,
            variables: &self.variables,
        };
        template.render(&conversation).map_err(|error| {
            let why = if error.raised { error.message } else { error.to_string() };
            ApiError::invalid("messages", format!("the chat template refuses these messages: {why}"))
        })
    }
}

/// Runs `work` where it may take its time. Its panic is our fault and takes only this request down.
pub async fn aside<T: Send + 'static>(
    id: &str,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::Internal { id: id.to_owned(), message: error.to_string() }),
    }
}

/// Ids of a text. One that is hopelessly long is refused before the work.
pub fn encode(model: &LoadedModel, text: &str, special: bool, param: &str) -> Result<Vec<u32>, ApiError> {
    model.text.tokenizer.encode(text, special).map_err(|error| ApiError::invalid(param, error.to_string()))
}

/// Refuses a text that cannot fit whatever its tokens are.
pub fn check_bytes(config: &Config, model: &LoadedModel, text: &str) -> Result<(), ApiError> {
    let (least, context) = (model.text.tokenizer.fewest_tokens(text.len()), limit(config, model));
    if least > context { Err(ApiError::ContextHopeless { least, context }) } else { Ok(()) }
}

/// Refuses a prompt that leaves no room for a token.
pub fn check_length(config: &Config, model: &LoadedModel, prompt: usize, new: usize) -> Result<(), ApiError> {
    let context = model.engine.context_length();
    if prompt + new.min(1) > context {
        return Err(ApiError::ContextLength { prompt, context });
    }
    match config.max_prompt_tokens {
        Some(limit) if prompt > limit => Err(ApiError::PromptLimit { prompt, limit }),
        _ => Ok(()),
    }
}

fn limit(config: &Config, model: &LoadedModel) -> usize {
    let context = model.engine.context_length();
    config.max_prompt_tokens.map_or(context, |most| most.min(context))
}

/// The model and the text of a chat prompt with its ids.
pub async fn chat(
    config: &Config,
    model: &Arc<LoadedModel>,
    chat: Chat,
    id: &str,
) -> Result<(String, Vec<u32>), ApiError> {
    let (config, model) = (config.clone(), Arc::clone(model));
    aside(id, move || {
        let text = chat.render(&model)?;
        check_bytes(&config, &model, &text)?;
        let ids = encode(&model, &text, false, "messages")?;
        Ok((text, ids))
    })
    .await
}

/// Tools go to the template; to force their use needs grammars, which this build does not have.
fn tools(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Option<Value>, ApiError> {
    let mut tools = fields.list("tools")?.filter(|tools| !tools.is_empty());
    for (at, tool) in tools.iter().flatten().enumerate() {
        let mut tool = Fields::of(tool.clone(), format!("tools[{at}]"))?;
        if tool.text("type")?.as_deref() != Some("function") {
            return Err(tool.wrong("type", "must be function"));
        }
        let mut function = tool.object("function")?.ok_or_else(|| tool.wrong("function", "is missing"))?;
        function.text("name")?.ok_or_else(|| function.wrong("name", "is missing"))?;
        if function.flag("strict")? == Some(true) {
            return Err(ApiError::unsupported(function.at("strict")));
        }
    }
    match fields.take("tool_choice") {
        None => {}
        Some(Value::String(choice)) if choice == "auto" => {}
        // A model that is not shown the tools cannot call them.
        Some(Value::String(choice)) if choice == "none" => tools = None,
        Some(Value::String(choice)) if choice == "required" => return Err(ApiError::unsupported("tool_choice")),
        Some(Value::Object(_)) => return Err(ApiError::unsupported("tool_choice")),
        Some(_) => return Err(fields.wrong("tool_choice", "must be none, auto, required or a function's name")),
    }
    match fields.flag("parallel_tool_calls")? {
        Some(false) if tools.is_some() => return Err(ApiError::unsupported("parallel_tool_calls")),
        Some(_) if tools.is_none() => ignored.push("parallel_tool_calls".to_owned()),
        _ => {}
    }
    Ok(tools.map(Value::Array))
}
