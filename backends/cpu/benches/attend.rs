//! Attention against the memory bus: `cargo bench -p swiftlm-cpu --bench attend [-- PART_OF_A_LINE]`.
//!
//! Each case runs over enough layers that no cache holds them, in rounds that are interleaved with the other cases and
//! with the probe of read bandwidth. The probe gives the best of some passes, so a case counts by its best round, too;
//! the median beside it shows how busy the machine was. `floor` is the time to read the pages once.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod cases;

use std::time::Instant;

use cases::{Case, On};
use swiftlm_cpu::read_bandwidth;

const ROUNDS: usize = 15;
const THREADS: usize = 2;

struct Timed {
    name: String,
    case: Case,
    seconds: Vec<f64>,
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let models = [("llama-3.2-1b", (32, 8, 64)), ("qwen2.5-0.5b", (14, 2, 64)), ("qwen3-4b", (32, 8, 128))];
    let formats = ["f16", "bf16", "affine8_g64_f16", "affine4_g64_f16", "k4v4", "k4v3", "k3v3"];
    let places = [(512, 1), (4096, 1), (40_960, 1), (0, 512), (4096, 512)];
    let mut timed = vec![];
    for (model, heads) in models {
        for format in formats {
            for (depth, tokens) in places {
                let name = format!("{model} {format} depth {depth} new {tokens}");
                if wanted.split('+').all(|w| name.contains(w)) {
                    let case = cases::attend(On::threads(THREADS), heads, format, depth, tokens);
                    timed.push(Timed { name, case, seconds: vec![] });
                }
            }
        }
    }
    let mut bandwidths = vec![];
    for _ in 0..ROUNDS {
        bandwidths.push(read_bandwidth(THREADS));
        for Timed { case, seconds, .. } in &mut timed {
            let start = Instant::now();
            case.run();
            seconds.push(start.elapsed().as_secs_f64() / case.layers as f64);
        }
    }
    let bandwidth = bandwidths.iter().copied().fold(0.0, f64::max);
    println!("{THREADS} threads, read bandwidth {:.1} GB/s", bandwidth / 1e9);
    println!(
        "{:<52} {:>10} {:>10} {:>10} {:>8} {:>8} {:>10}",
        "case", "KiB", "best us", "floor us", "share", "GFLOP/s", "median us"
    );
    for Timed { name, case, seconds } in &mut timed {
        let (middle, floor) = (median(seconds), case.bytes as f64 / bandwidth);
        let seconds = seconds[0];
        let (us, kib, rate) = (seconds * 1e6, case.bytes as f64 / 1024.0, 2.0 * case.products as f64 / seconds / 1e9);
        println!(
            "{:<52} {kib:>10.0} {us:>10.1} {:>10.1} {:>8.2} {rate:>8.1} {:>10.1}",
            name,
            floor * 1e6,
            floor / seconds,
            middle * 1e6
        );
    }
}
