//! An engine without a model: deterministic tokens, obeying what the prompt says.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Map, json};
use swiftlm_runtime::request::{
    Delivery, EngineStats, Event, FinishReason, Generate, Request, ScoredToken, Sink, SubmitError, Ticket, Timings,
};
use swiftlm_runtime::state::PrefixReport;
use swiftlm_server::load::{LoadedModel, ModelInfo};
use swiftlm_server::text::model::Recommended;
use swiftlm_server::text::{ChatTemplate, TextModel, Tokenizer};

/// What it says unless the prompt has `say(…)`.
pub const REPLY: &str = "Hello, world! 2 + 2 equals 4. Grüße 😀.";
const CONTEXT: usize = 4096;
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
{% if tools %}tools: {{ tools | tojson }}\n{% endif %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// `say(text)` in the prompt is the reply, `slow()` makes a step take 20 ms, `fail()` fails after two tokens,
/// `prefill(n)` waits n ms before the first.
pub struct Mock {
    tokenizer: Arc<Tokenizer>,
    limit: usize,
    active: Arc<AtomicUsize>,
    /// Requests whose client went away.
    pub cancelled: Arc<AtomicUsize>,
    /// The request that came last.
    pub last: Mutex<Option<Request>>,
}

/// A model of the mock engine, which admits so many requests at once.
pub fn model(limit: usize) -> (LoadedModel, Arc<Mock>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden-tests/families/text/bytelevel");
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"), &json!({})).expect("the tokenizer loads");
    let tokenizer = Arc::new(tokenizer);
    let sources = IndexMap::from_iter([("default".to_owned(), TEMPLATE.to_owned())]);
    let template = ChatTemplate::new("chat_template.jinja", sources, Map::new()).expect("the template compiles");
    template.probe().expect("the template renders");
    let stop_tokens = vec![tokenizer.id("<|im_end|>").expect("the tokenizer has the end of a turn")];
    let text = TextModel {
        tokenizer: Arc::clone(&tokenizer),
        template: Some(template),
        stop_tokens,
        recommended: Recommended { top_k: Some(20), ..Recommended::default() },
    };
    let mock =
        Arc::new(Mock { tokenizer, limit, active: Arc::default(), cancelled: Arc::default(), last: Mutex::default() });
    let info = ModelInfo {
        id: "makers/mock-1".into(),
        created: 1_700_000_000,
        fingerprint: "fp_mock".into(),
        backend: "cpu".into(),
        layers: 2,
        ..ModelInfo::default()
    };
    (LoadedModel { engine: Arc::clone(&mock) as Arc<dyn Generate>, info, text }, mock)
}

impl Generate for Mock {
    fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, SubmitError> {
        *self.last.lock().expect("no test panics while holding it") = Some(request.clone());
        if request.prompt.is_empty() {
            return Err(SubmitError::Invalid("an empty prompt".into()));
        }
        if self.active.fetch_add(1, Ordering::AcqRel) >= self.limit {
            self.active.fetch_sub(1, Ordering::AcqRel);
            return Err(SubmitError::QueueFull(self.limit));
        }
        let (ticket, gone) = Ticket::new();
        let (tokenizer, active) = (Arc::clone(&self.tokenizer), Arc::clone(&self.active));
        let cancelled = Arc::clone(&self.cancelled);
        std::thread::spawn(move || {
            if !generate(&tokenizer, &request, sink, || gone.load(Ordering::Acquire)) {
                cancelled.fetch_add(1, Ordering::AcqRel);
            }
            active.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(ticket)
    }

    fn stats(&self) -> EngineStats {
        EngineStats { active: self.active.load(Ordering::Acquire), steps: 3, ..EngineStats::default() }
    }

    fn prefixes(&self) -> PrefixReport {
        PrefixReport::default()
    }

    fn context_length(&self) -> usize {
        CONTEXT
    }

    fn vocabulary(&self) -> usize {
        self.tokenizer.vocabulary()
    }
}

/// False if the request was cancelled.
fn generate(tokenizer: &Tokenizer, request: &Request, mut sink: Sink, gone: impl Fn() -> bool) -> bool {
    let prompt = tokenizer.decode_all(&request.prompt);
    let argument = |name: &str| {
        let start = prompt.rfind(&format!("{name}("))? + name.len() + 1;
        Some(prompt[start..].split(')').next().unwrap_or_default().to_owned())
    };
    let (slow, fail) = (argument("slow").is_some(), argument("fail").is_some());
    let reply = argument("say").unwrap_or_else(|| REPLY.to_owned());
    let wait = argument("prefill").and_then(|text| text.parse().ok()).unwrap_or(0);
    let total = request.prompt.len();
    if sink(Event::Prefill { done: total / 2, total }) == Delivery::Gone {
        return false;
    }
    for _ in 0..wait / 10 {
        std::thread::sleep(Duration::from_millis(10));
        if gone() {
            return false;
        }
    }
    sink(Event::Prefill { done: total, total });
    let score = |id: u32, count: Option<usize>| ScoredToken {
        id,
        logprob: count.map(|_| -0.5),
        top: count.map_or_else(Vec::new, |count| (0..count as u32).map(|k| (k + 1, -1.0 - k as f32)).collect()),
    };
    if let Some(count) = request.prompt_logprobs {
        let mut scores: Vec<_> = request.prompt.iter().map(|&id| score(id, Some(count))).collect();
        scores[0] = score(request.prompt[0], None);
        sink(Event::Prompt(scores));
    }
    let ids = tokenizer.encode(&reply, false).expect("encodes");
    let mut made = 0;
    let endless = slow || request.stop_tokens.is_empty();
    let reason = loop {
        if made == request.max_new_tokens {
            break FinishReason::Length;
        }
        if made >= ids.len() && !endless {
            break FinishReason::Stop;
        }
        if fail && made == 2 {
            sink(Event::Failed("the device was lost".into()));
            return true;
        }
        if slow {
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = ids.get(made % ids.len().max(1)).copied().unwrap_or(1);
        if gone() || sink(Event::Token(score(id, request.logprobs))) == Delivery::Gone {
            return false;
        }
        made += 1;
    };
    let timings = Timings {
        prefill_tokens: total,
        prefill: Duration::from_millis(2),
        decode_tokens: made,
        decode: Duration::from_millis(10),
        ..Timings::default()
    };
    sink(Event::Done(reason, timings));
    true
}
