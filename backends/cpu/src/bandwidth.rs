//! How fast this machine reads memory: the floor under everything that streams weights.

use std::num::NonZero;
use std::time::Instant;

/// Bytes read by each thread and pass: many times any cache.
const BYTES: usize = 256 << 20;

/// Best of a few passes over memory that no cache holds, in bytes per second, by so many threads at once (0 for all cores).
pub fn read_bandwidth(threads: usize) -> f64 {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        n => n,
    };
    let share = BYTES / 8 / threads;
    let words = vec![1u64; share * threads];
    let pass = || {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let parts: Vec<_> = words.chunks(share).map(|part| scope.spawn(|| sum(part))).collect();
            parts.into_iter().filter_map(|part| part.join().ok()).sum()
        });
        let seconds = start.elapsed().as_secs_f64();
        // The sum is looked at, so that reading cannot be left out.
        if sum == words.len() as u64 { (words.len() * 8) as f64 / seconds } else { 0.0 }
    };
    (0..8).map(|_| pass()).fold(0.0, f64::max)
}

/// Independent sums, so that loads and not additions set the pace.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for block in words.chunks_exact(32) {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    let rest: u64 = words.chunks_exact(32).remainder().iter().sum();
    sums.iter().fold(rest, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_every_word() {
        assert_eq!(sum(&[1; 100]), 100);
    }
}
