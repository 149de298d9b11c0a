//! Chat messages, from OpenAI's shape to the one that templates are written for.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::error::ApiError;

/// The conversation as templates want it. What was given and does nothing is added to `ignored`.
pub fn take(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Value, ApiError> {
    let list = fields.list("messages")?.ok_or_else(|| fields.wrong("messages", "is missing"))?;
    if list.is_empty() {
        return Err(fields.wrong("messages", "must not be empty"));
    }
    let messages = list.into_iter().enumerate();
    let messages = messages.map(|(at, value)| message(Fields::of(value, format!("messages[{at}]"))?, ignored));
    Ok(Value::Array(messages.collect::<Result<_, _>>()?))
}

fn message(mut fields: Fields, ignored: &mut Vec<String>) -> Result<Value, ApiError> {
    let role = fields.text("role")?.ok_or_else(|| fields.wrong("role", "is missing"))?;
    let role = match role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" => "tool",
        _ => return Err(fields.wrong("role", "must be system, developer, user, assistant or tool")),
    };
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    let calls = fields.list("tool_calls")?;
    let content = match content(&mut fields)? {
        Some(content) => content,
        None if role == "assistant" => String::new(),
        None => return Err(fields.wrong("content", "is missing")),
    };
    message.insert("content".into(), content.into());
    if let Some(calls) = calls {
        if role != "assistant" {
            return Err(fields.wrong("tool_calls", "belongs to assistant messages only"));
        }
        let calls = calls.into_iter().enumerate();
        let calls = calls.map(|(at, value)| call(value, &fields.at(&format!("tool_calls[{at}]")), ignored));
        message.insert("tool_calls".into(), Value::Array(calls.collect::<Result<_, _>>()?));
    }
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            message.insert(name.into(), text.into());
        }
    }
    ignored.extend(fields.rest());
    Ok(Value::Object(message))
}

/// A string, or parts of text, which become lines of one.
fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let parts = match fields.take("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(fields.wrong("content", "must be a string or a list of parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let mut part = Fields::of(part, fields.at(&format!("content[{at}]")))?;
        let kind = part.text("type")?.ok_or_else(|| part.wrong("type", "is missing"))?;
        match kind.as_str() {
            "text" => texts.push(part.text("text")?.ok_or_else(|| part.wrong("text", "is missing"))?),
            "image_url" | "input_audio" | "file" => return Err(ApiError::unsupported(part.at(&kind))),
            _ => return Err(part.wrong("type", "must be text, image_url or input_audio")),
        }
    }
    Ok(Some(texts.join("\n")))
}

/// Templates print the arguments themselves, so they want the object and not its JSON in a string.
fn call(value: Value, path: &str, ignored: &mut Vec<String>) -> Result<Value, ApiError> {
    let mut call = Fields::of(value, path)?;
    let kind = call.text("type")?;
    if kind.is_some_and(|kind| kind != "function") {
        return Err(call.wrong("type", "must be function"));
    }
    let id = call.text("id")?;
    let mut function = call.object("function")?.ok_or_else(|| call.wrong("function", "is missing"))?;
    let name = function.text("name")?.ok_or_else(|| function.wrong("name", "is missing"))?;
    let arguments = match function.take("arguments") {
        Some(Value::Object(arguments)) => Value::Object(arguments),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| function.wrong("arguments", "must be a JSON object in a string"))?,
        None => json!({}),
        Some(_) => return Err(function.wrong("arguments", "must be a JSON object in a string")),
    };
    ignored.extend(function.rest());
    ignored.extend(call.rest());
    let mut out = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(id) = id {
        out["id"] = id.into();
    }
    Ok(out)
}
