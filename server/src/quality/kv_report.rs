//! `swiftlm kv-report`: each way of storing keys and values beside a reference that reads the same tokens, step by step.

use std::path::PathBuf;

use clap::Args;

use super::needle::ANSWER_TOKENS;
use super::{Comparison, Needle, QualityError, ReadFlags, Reader, check_context, found, prepare, scored, windows};
use crate::flags::Kv;
use crate::load::LoadError;
use crate::plot::{Axis, Panel, Picture, Series};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::table::table;
use crate::text::TextModel;

/// Flags of `swiftlm kv-report`.
#[derive(Args, Clone, Debug)]
pub struct KvReportFlags {
    /// How keys and values are stored; each is compared with the reference
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16,q8,q4")]
    pub kv: Vec<Kv>,
    /// The reference: how keys and values are stored there. Its program is loaded beside the other
    #[arg(long, value_enum, default_value = "f16")]
    pub against: Kv,
    /// Tokens of the prompts that hide a passkey, answer included
    #[arg(long, value_delimiter = ',', default_value = "1024,4096,8192")]
    pub depths: Vec<u32>,
    /// Places, spread evenly over the text, at which a passkey is hidden, one prompt for each; 0 leaves recall out
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub places: u32,
    /// Draw divergence over bytes, and recall over depth, into this PNG file
    #[arg(long)]
    pub png: Option<PathBuf>,
    /// Model and text
    #[command(flatten)]
    pub read: ReadFlags,
}

/// What was measured of one way of storing keys and values.
struct Measured {
    kv: String,
    comparison: Comparison,
    /// Passkeys found at each depth.
    recalled: Vec<usize>,
    bytes_per_token: usize,
    held_bytes_per_token: f64,
}

/// Runs the measurement; the text is a table, or CSV.
///
/// # Errors
/// Model or text cannot be read, a step fails, or the picture cannot be written.
pub fn kv_report(flags: &KvReportFlags, progress: &Progress) -> Result<String, QualityError> {
    let depths: Vec<usize> =
        if flags.places == 0 { vec![] } else { flags.depths.iter().map(|d| *d as usize).collect() };
    let window = flags.read.context as usize;
    let reference = prepare(&flags.read, flags.against, window, 0, progress)?;
    check_context(&reference, "--context", window)?;
    for depth in &depths {
        check_context(&reference, "--depths", *depth)?;
    }
    let info = reference.info();
    let (limit, taken) = (reference.plan().limit, reference.plan().total());
    let text = TextModel::load(reference.directory(), &info.id)?;
    let windows = windows::read(&flags.read, &text)?;
    let needles = Needle::spread(flags.places as usize);
    let prompts = |depth: &usize| needles.iter().map(|n| n.prompt(&text, &info.id, *depth)).collect();
    let prompts = depths.iter().map(prompts).collect::<Result<Vec<Vec<_>>, _>>()?;
    let picture = flags.png.as_deref().map(Picture::create).transpose()?;
    let mut reference = Reader::new(reference, progress)?;
    let context = depths.iter().copied().fold(window, usize::max);
    let mut measured = vec![];
    for kv in &flags.kv {
        let prepared = beside(&flags.read, *kv, context, limit.saturating_sub(taken), progress)?;
        let bytes_per_token = prepared.program().kv_bytes_per_token();
        let mut reader = Reader::new(prepared, progress)?;
        let kv = kv.name();
        let phase = format!("{kv} text");
        let comparison = compare(&mut reference, &mut reader, &windows, &mut |done| progress.report(&phase, done))?;
        let phase = format!("{kv} keys");
        let mut recalled = vec![];
        for (at, prompts) in prompts.iter().enumerate() {
            progress.report(&phase, at as f64 / depths.len() as f64);
            recalled.push(recall(&mut reader, &text, &needles, prompts)?);
        }
        let held_bytes_per_token = reader.held_bytes_per_token();
        measured.push(Measured { kv, comparison, recalled, bytes_per_token, held_bytes_per_token });
    }
    progress.report("done", 1.0);
    if let Some(picture) = picture {
        picture.write(&panels(&measured, &depths, &info.id, &flags.against.name(), needles.len()))?;
    }
    Ok(lines(&measured, &depths, &info.id, needles.len(), flags.read.csv))
}

/// A program beside the reference, within what that leaves of memory.
fn beside(flags: &ReadFlags, kv: Kv, context: usize, left: u64, progress: &Progress) -> Result<Prepared, QualityError> {
    prepare(flags, kv, context, left.max(1), progress).map_err(|error| match error {
        QualityError::Load(LoadError::Memory(plan)) => LoadError::Memory(format!(
            "two programs do not fit at a time, the reference and --kv {}: more --mem-limit, a smaller --context, \
             smaller --depths or, for a mixture, an --expert-budget (of each) help\n{plan}",
            kv.name()
        ))
        .into(),
        other => other,
    })
}

/// Lets both read all windows and compares what they say of each counted token.
///
/// # Errors
/// A step fails, or gives logits that are not finite.
pub fn compare(
    reference: &mut Reader,
    other: &mut Reader,
    windows: &[Vec<u32>],
    progress: &mut dyn FnMut(f64),
) -> Result<Comparison, QualityError> {
    let mut comparison = Comparison::default();
    let step = reference.scored_tokens().min(other.scored_tokens());
    for (done, ids) in windows.iter().enumerate() {
        progress(done as f64 / windows.len() as f64);
        let scored = scored(ids.len());
        reference.skip(ids, 0..scored.start)?;
        other.skip(ids, 0..scored.start)?;
        for start in scored.clone().step_by(step) {
            let end = scored.end.min(start + step);
            let (p, q) = (reference.logits(ids, start..end)?, other.logits(ids, start..end)?);
            for (row, next) in ids[start + 1..=end].iter().enumerate() {
                comparison.add(p.logits(row).unwrap_or_default(), q.logits(row).unwrap_or_default(), *next)?;
            }
        }
    }
    progress(1.0);
    Ok(comparison)
}

/// How many of the needles are found, each in its prompt.
///
/// # Errors
/// A step fails.
fn recall(
    reader: &mut Reader,
    text: &TextModel,
    needles: &[Needle],
    prompts: &[Vec<u32>],
) -> Result<usize, QualityError> {
    let mut right = 0;
    for (needle, prompt) in needles.iter().zip(prompts) {
        let answer = reader.answer(prompt, &text.stop_tokens, ANSWER_TOKENS)?;
        right += usize::from(found(&text.tokenizer.decode(&answer), &needle.key));
    }
    Ok(right)
}

fn lines(measured: &[Measured], depths: &[usize], model: &str, places: usize, csv: bool) -> String {
    let fixed = ["model", "kv", "tokens", "perplexity", "error", "change_pct", "change_error"];
    let more = ["mean_kld", "kld_99", "same_top_pct", "kv_bytes_per_token", "held_bytes_per_token"];
    let recalls = depths.iter().map(|depth| format!("recall_{depth}"));
    let header: Vec<String> = fixed.iter().chain(&more).map(|name| (*name).to_owned()).chain(recalls).collect();
    let row = |m: &Measured| {
        let c = &m.comparison;
        let ((perplexity, error), (change, change_error)) = (c.surprise.exp(), c.change());
        let mut cells = vec![model.to_owned(), m.kv.clone(), c.surprise.count().to_string()];
        cells.extend([perplexity, error].map(|x| format!("{x:.4}")));
        cells.extend([change, change_error].map(|x| format!("{x:.3}")));
        cells.extend([c.divergence(), c.divergence_99()].map(|x| format!("{x:.2e}")));
        cells.push(format!("{:.2}", c.agreement() * 100.0));
        cells.push(m.bytes_per_token.to_string());
        cells.push(format!("{:.0}", m.held_bytes_per_token));
        cells.extend(m.recalled.iter().map(|right| format!("{right}/{places}")));
        cells
    };
    table(&header, &measured.iter().map(row).collect::<Vec<_>>(), csv)
}

/// Divergence over bytes and, where it was measured, recall over depth.
fn panels(measured: &[Measured], depths: &[usize], model: &str, against: &str, places: usize) -> Vec<Panel> {
    let divergence = |m: &Measured| {
        let value = m.comparison.divergence();
        let label = if value > 0.0 { format!("{value:.1e}") } else { value.to_string() };
        Series { name: format!("{}: {label}", m.kv), points: vec![(m.held_bytes_per_token, value)] }
    };
    let mut panels = vec![Panel {
        title: format!("{model}: distance from {against}"),
        x: Axis::linear("bytes of keys and values per token"),
        y: Axis::log("mean Kullback-Leibler divergence (nats)"),
        series: measured.iter().map(divergence).collect(),
    }];
    if !depths.is_empty() {
        let share = |right: &usize| *right as f64 * 100.0 / places as f64;
        let recall = |m: &Measured| Series {
            name: m.kv.clone(),
            points: depths.iter().map(|depth| *depth as f64).zip(m.recalled.iter().map(share)).collect(),
        };
        panels.push(Panel {
            title: format!("{model}: recall of a passkey"),
            x: Axis::steps("tokens of the prompt"),
            y: Axis::linear("found at %"),
            series: measured.iter().map(recall).collect(),
        });
    }
    panels
}
