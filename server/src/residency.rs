//! How much of a model is in memory at a time: all, as much as was asked for, or as much as fits. Of a mixture experts take
//! turns, of other models layers.

use swiftlm_driver::compile::Compiled;
use swiftlm_runtime::experts::{layer_bytes, layers};
use swiftlm_runtime::{DoesNotFit, MemoryPlan};

/// What was asked of experts, or of layers where a model has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpertWish {
    /// All in memory, or as many as fit.
    #[default]
    Fit,
    /// As many as so many bytes hold, in all layers together.
    Budget(u64),
}

/// What is in memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Everything.
    All,
    /// So many experts of each layer, and all else.
    Experts(usize),
    /// So many layers for good, the others in turns, and all else; and how long sequences shall be unless somebody says.
    Layers {
        /// Layers that stay.
        stay: usize,
        /// Tokens.
        context: usize,
    },
}

/// Contexts of a model whose layers take turns, unless one was asked for: the first whose histories take no more than a
/// quarter of the memory, since every byte of them is one more that is read for every token.
const CONTEXTS: [usize; 4] = [4096, 2048, 1024, 512];

/// A program with its plan, or with the plan that would be needed.
type Fitted = Result<(Compiled, MemoryPlan), DoesNotFit>;

/// Compiles and plans a model; `compile` is given the experts of a layer that are in memory, if not all are.
///
/// # Errors
/// The model cannot be compiled, or does not fit even with as few experts as a token needs, or layer by layer.
pub fn fit(
    wish: ExpertWish,
    compile: impl Fn(Option<usize>) -> Result<Compiled, String>,
    plan: impl Fn(&Compiled, Held) -> Result<MemoryPlan, DoesNotFit>,
) -> Result<Fitted, String> {
    let whole = compile(None)?;
    let planned = plan(&whole, Held::All);
    let Some(mixture) = whole.program.mixture() else { return by_layers(wish, whole, planned, plan) };
    let slot_bytes = mixture.expert_bytes as u64;
    let slots = match (wish, &planned) {
        (ExpertWish::Fit, Ok(_)) => mixture.experts as u64,
        (ExpertWish::Fit, Err(_)) => {
            let least = compile(Some(mixture.top_k))?;
            match plan(&least, Held::Experts(mixture.top_k)) {
                Err(e) => return Ok(Err(e)),
                Ok(plan) => mixture.top_k as u64 + plan.limit.saturating_sub(plan.total()) / slot_bytes.max(1),
            }
        }
        (ExpertWish::Budget(bytes), _) => bytes / slot_bytes.max(1),
    };
    if slots < mixture.top_k as u64 {
        let least = (slot_bytes * mixture.top_k as u64).div_ceil(1 << 20);
        return Err(format!(
            "--expert-budget: a token needs {} experts of a layer: at least {least} MB",
            mixture.top_k
        ));
    }
    if slots >= mixture.experts as u64 {
        return Ok(planned.map(|plan| (whole, plan)));
    }
    let compiled = compile(Some(slots as usize))?;
    let planned = plan(&compiled, Held::Experts(slots as usize));
    tracing::warn!(
        in_memory = slots,
        of = mixture.experts,
        "not all experts of a layer are in memory: the others are read from disk as they are needed"
    );
    Ok(planned.map(|plan| (compiled, plan)))
}

/// A model without experts: its layers are the same program wherever they lie.
fn by_layers(
    wish: ExpertWish,
    whole: Compiled,
    planned: Result<MemoryPlan, DoesNotFit>,
    plan: impl Fn(&Compiled, Held) -> Result<MemoryPlan, DoesNotFit>,
) -> Result<Fitted, String> {
    if wish == ExpertWish::Fit && planned.is_ok() {
        return Ok(planned.map(|plan| (whole, plan)));
    }
    let all = layers(&whole.program);
    if all.is_empty() {
        return match wish {
            ExpertWish::Fit => Ok(planned.map(|plan| (whole, plan))),
            ExpertWish::Budget(_) => {
                Err("--expert-budget: the model has neither experts nor layers that can take turns".to_owned())
            }
        };
    }
    let bytes = all.iter().map(|call| layer_bytes(&whole.program, *call) as u64).max().unwrap_or(0).max(1);
    let with = |stay: usize, context: usize| plan(&whole, Held::Layers { stay, context });
    let small = |context: &usize| with(0, *context).is_ok_and(|plan| plan.kv() <= plan.limit / 4);
    let context = CONTEXTS.into_iter().find(small).unwrap_or(CONTEXTS[3]);
    let stay = match (wish, with(0, context)) {
        (ExpertWish::Budget(budget), _) => budget / bytes,
        (ExpertWish::Fit, Ok(plan)) => plan.limit.saturating_sub(plan.total()) / bytes,
        // Not even so: what all would need says more.
        (ExpertWish::Fit, Err(_)) => return Ok(planned.map(|plan| (whole, plan))),
    };
    if stay >= all.len() as u64 {
        return Ok(planned.map(|plan| (whole, plan)));
    }
    let planned = with(stay as usize, context);
    tracing::warn!(
        in_memory = stay,
        of = all.len(),
        "not all layers are in memory: the others are read from disk for every step"
    );
    Ok(planned.map(|plan| (whole, plan)))
}
