//! The mock model's mathematics: logits are a hash of every token of the sequence so far.

use super::program::VOCABULARY;

/// Folds one token of the history into the hash of those before it.
pub fn fold(hash: u64, id: u32) -> u64 {
    (hash ^ u64::from(id)).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
}

/// Where every history starts.
pub const START: u64 = 0xcbf2_9ce4_8422_2325;

/// Logits from the hash of a history: multiples of 1/16 from -4 to 4, so that ties occur.
pub fn logits(hash: u64) -> Vec<f32> {
    (0..VOCABULARY as u64)
        .map(|v| {
            let mixed = (hash ^ (v + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed >> 40) % 129) as f32 / 16.0 - 4.0
        })
        .collect()
}

/// Index of the largest, ties to the lowest.
pub fn arg_max(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|l| *l == best).unwrap_or(0) as u32
}

/// Logits after a whole history.
pub fn logits_after(history: &[u32]) -> Vec<f32> {
    logits(history.iter().fold(START, |h, id| fold(h, *id)))
}

/// What greedy decoding of `count` tokens after `prompt` gives.
pub fn greedy_reply(prompt: &[u32], count: usize) -> Vec<u32> {
    greedy_reply_within(prompt, count, usize::MAX)
}

/// The same of a model that sees the last `window` tokens.
pub fn greedy_reply_within(prompt: &[u32], count: usize, window: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..count {
        history.push(arg_max(&logits_after(&history[history.len().saturating_sub(window)..])));
    }
    history.split_off(prompt.len())
}
