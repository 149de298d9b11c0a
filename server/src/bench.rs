//! `swiftlm bench`: prefill and decode speed at depths, through the same steps that serve requests.

use std::time::Instant;

use swiftlm_runtime::executable::{Batch, Executable, Row, Want};
use swiftlm_runtime::experts::ExpertStats;

use crate::commands::{BenchFlags, FillState};
use crate::flags::Kv;
use crate::load::LoadError;
use crate::memory::Memory;
use crate::plot::{Axis, Panel, Picture, Series};
use crate::prepare::{Found, Prepared, Wishes};
use crate::progress::Progress;
use crate::quality::QualityError;
use crate::residency::ExpertWish;
use crate::table::table;

/// One line of the table.
struct Measured {
    depth: usize,
    prefill: f64,
    decode: f64,
    attention_ms: f64,
    /// Share of chosen experts, or of layers that take turns, that were in memory while decoding, and bytes read for a token.
    experts: Option<(f64, f64)>,
}

const COLUMNS: [&str; 13] = [
    "model",
    "backend",
    "weights",
    "kv",
    "depth",
    "prefill_tok_s",
    "decode_tok_s",
    "attention_ms",
    "kv_bytes_per_token",
    "peak_mb",
    "expert_hits",
    "read_mb_per_token",
    "share_of_floor",
];

/// Runs the measurement; the text is a table, or CSV.
///
/// # Errors
/// The model cannot be loaded, a step fails, or the picture cannot be written.
pub fn bench(flags: &BenchFlags, progress: &Progress) -> Result<String, QualityError> {
    let picture = flags.png.as_deref().map(Picture::create).transpose()?;
    let (mut rows, mut curves) = (vec![], vec![]);
    for kv in &flags.kv {
        let (lines, curve) = with_format(flags, *kv, progress)?;
        rows.extend(lines);
        curves.push(curve);
    }
    if let Some(picture) = picture {
        picture.write(&[decode_over_depth(&rows, curves)])?;
    }
    Ok(table(&COLUMNS.map(str::to_owned), &rows, flags.csv))
}

/// One curve for each KV format.
fn decode_over_depth(rows: &[Vec<String>], series: Vec<Series>) -> Panel {
    let model = rows.first().and_then(|row| row.first()).cloned().unwrap_or_default();
    let (x, y) = (Axis::steps("tokens before"), Axis::linear("decode tok/s"));
    Panel { title: format!("{model}: decode speed"), x, y, series }
}

/// The lines of one KV format, and its decode speed over depth.
fn with_format(flags: &BenchFlags, kv: Kv, progress: &Progress) -> Result<(Vec<Vec<String>>, Series), LoadError> {
    let deepest = flags.depths.iter().copied().max().unwrap_or(0) as usize;
    let context = deepest + flags.prefill.max(flags.generate) as usize + 1;
    let wishes = Wishes {
        backend: flags.backend,
        device: None,
        threads: flags.threads.unwrap_or(0) as usize,
        precision: flags.precision,
        kv: Some(kv),
        careful: false,
        weights: flags.weights.clone(),
        chunk: None,
        context: Some(context),
        sequences: Some(1),
        experts_per_token: None,
        io: flags.io,
        gpu_layers: flags.gpu_layers,
        prefetch: flags.ssd_prefetch,
        experts: flags.expert_budget.map_or(ExpertWish::Fit, |mb| ExpertWish::Budget(mb << 20)),
        limit: flags.mem_limit.unwrap_or(0) << 20,
    };
    let prepared = Prepared::new(Found::new(flags.model.as_deref(), progress)?, &wishes, progress)?;
    let info = prepared.info();
    let program = prepared.program();
    let weights =
        program.weights.iter().max_by_key(|w| w.ty.bytes()).map_or(String::new(), |w| w.ty.format.to_string());
    let (step_bytes, kv_bytes) = (program.decode_bytes(), program.kv_bytes_per_token());
    let read: Vec<usize> = flags.depths.iter().map(|depth| program.kv_bytes_read(*depth as usize)).collect();
    let kv = kv.name();
    let model = info.id.clone();
    let failed = |e: &dyn std::fmt::Display| LoadError::Model { model: model.clone(), reason: e.to_string() };
    let traced = flags.expert_trace.is_some();
    let mut runner = Runner { executable: prepared.into_executable(progress)?, traced };
    if flags.fill_state == FillState::Random {
        runner.executable.fill_states().map_err(|e| failed(&e))?;
    }
    let mut measured = vec![];
    for depth in &flags.depths {
        let (depth, prefill, generate) = (*depth as usize, flags.prefill as usize, flags.generate as usize);
        if flags.fill_state == FillState::Prefill {
            runner.run(0, depth, None).map_err(|e| failed(&e))?;
        }
        let at_depth = runner.measure(depth, prefill, generate).map_err(|e| failed(&e))?;
        if let Some(file) = &flags.expert_trace {
            let trace = runner.executable.expert_trace();
            let trace = trace.ok_or_else(|| failed(&"--expert-trace: all experts are in memory, or there are none"))?;
            std::fs::write(file, trace.to_string()).map_err(|e| failed(&format!("{}: {e}", file.display())))?;
        }
        measured.push((at_depth, Memory::now().peak >> 20));
    }
    // Last, since the probe takes memory of its own.
    let bandwidth = (info.backend == "cpu").then(|| swiftlm_cpu::read_bandwidth(wishes.threads));
    let row = |((m, peak), read): (&(Measured, u64), &usize)| {
        let bytes = (step_bytes + read) as f64;
        vec![
            info.id.clone(),
            info.backend.clone(),
            weights.clone(),
            kv.clone(),
            m.depth.to_string(),
            format!("{:.1}", m.prefill),
            format!("{:.2}", m.decode),
            format!("{:.3}", m.attention_ms),
            kv_bytes.to_string(),
            peak.to_string(),
            m.experts.map_or("-".to_owned(), |(hits, _)| format!("{hits:.3}")),
            m.experts.map_or("-".to_owned(), |(_, bytes)| format!("{:.2}", bytes / 1e6)),
            bandwidth.map_or("-".to_owned(), |b| format!("{:.2}", bytes / b * m.decode)),
        ]
    };
    let points = measured.iter().map(|(m, _)| (m.depth as f64, m.decode)).collect();
    Ok((measured.iter().zip(&read).map(row).collect(), Series { name: kv.clone(), points }))
}

struct Runner {
    executable: Executable,
    /// Whether the experts that decoding chooses are written down.
    traced: bool,
}

impl Runner {
    fn measure(
        &mut self,
        depth: usize,
        prefill: usize,
        generate: usize,
    ) -> Result<Measured, Box<dyn std::error::Error>> {
        let mut prefills = vec![];
        for _ in 0..3 {
            let start = Instant::now();
            self.run(depth, prefill, Some(Want::Greedy))?;
            prefills.push(prefill as f64 / start.elapsed().as_secs_f64());
        }
        let before = self.read().unwrap_or_default();
        if self.traced {
            self.executable.record_experts();
        }
        let mut decodes = vec![];
        for i in 0..generate {
            let start = Instant::now();
            self.run(depth + i, 1, Some(Want::Greedy))?;
            decodes.push(1.0 / start.elapsed().as_secs_f64());
        }
        let experts = self.read().map(|after| {
            let (hits, misses) = ((after.hits - before.hits) as f64, (after.misses - before.misses) as f64);
            (hits / (hits + misses).max(1.0), (after.bytes - before.bytes) as f64 / generate.max(1) as f64)
        });
        let batch = self.batch(depth, 1, Some(Want::Greedy));
        let attention_ms = self.executable.profile_step(&batch).map_or(f64::NAN, |launches| {
            let attend = launches.iter().filter(|l| l.template == "attend");
            attend.map(|l| l.nanoseconds as f64).sum::<f64>() / 1e6
        });
        Ok(Measured { depth, prefill: median(prefills), decode: median(decodes), attention_ms, experts })
    }

    /// What was read of experts or layers, if any take turns.
    fn read(&self) -> Option<ExpertStats> {
        self.executable.expert_stats().or_else(|| self.executable.layer_stats())
    }

    /// Runs tokens `start..start + count` of one sequence in chunks.
    fn run(&mut self, start: usize, count: usize, last: Option<Want>) -> Result<(), Box<dyn std::error::Error>> {
        let chunk = self.executable.chunk();
        for at in (0..count).step_by(chunk) {
            let tokens = chunk.min(count - at);
            let want = if at + tokens == count { last } else { None };
            let batch = self.batch(start + at, tokens, want);
            self.executable.step(&batch)?;
        }
        Ok(())
    }

    /// Ids vary, so that no expert and no embedding row is read more often than in use.
    fn batch(&self, start: usize, tokens: usize, want: Option<Want>) -> Batch {
        let vocabulary = self.executable.vocabulary();
        let positions = start..start + tokens;
        Batch {
            ids: positions.clone().map(|p| (p.wrapping_mul(7919) % vocabulary) as u32).collect(),
            positions: positions.map(|p| p as u32).collect(),
            sequences: vec![0; tokens],
            rows: want.map(|want| Row { token: tokens as u32 - 1, want }).into_iter().collect(),
            table: self.executable.alone(self.executable.context()),
            ..Batch::default()
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
