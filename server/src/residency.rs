//! How many experts of each layer are in memory at a time: all, as many as asked for, or as many as fit.

use swiftlm_driver::compile::Compiled;
use swiftlm_runtime::{DoesNotFit, MemoryPlan};

/// What was asked of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpertWish {
    /// All in memory, or as many as fit.
    #[default]
    Fit,
    /// As many as so many bytes hold, in all layers together.
    Budget(u64),
}

/// Compiles and plans a model; `compile` is given the experts of a layer that are in memory, if not all are.
///
/// # Errors
/// The model cannot be compiled, or does not fit even with as few experts as a token needs.
pub fn fit(
    wish: ExpertWish,
    compile: impl Fn(Option<usize>) -> Result<Compiled, String>,
    plan: impl Fn(&Compiled, Option<usize>) -> Result<MemoryPlan, DoesNotFit>,
) -> Result<Result<(Compiled, MemoryPlan), DoesNotFit>, String> {
    let whole = compile(None)?;
    let planned = plan(&whole, None);
    let Some(mixture) = whole.program.mixture() else {
        return match wish {
            ExpertWish::Budget(_) => Err("--expert-budget: the model has no experts".to_owned()),
            ExpertWish::Fit => Ok(planned.map(|plan| (whole, plan))),
        };
    };
    let slot_bytes = mixture.expert_bytes as u64;
    let slots = match (wish, &planned) {
        (ExpertWish::Fit, Ok(_)) => mixture.experts as u64,
        (ExpertWish::Fit, Err(_)) => {
            let least = compile(Some(mixture.top_k))?;
            match plan(&least, Some(mixture.top_k)) {
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
    let planned = plan(&compiled, Some(slots as usize));
    tracing::warn!(
        in_memory = slots,
        of = mixture.experts,
        "not all experts of a layer are in memory: the others are read from disk as they are needed"
    );
    Ok(planned.map(|plan| (compiled, plan)))
}
