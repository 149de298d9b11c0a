//! `swiftlm perplexity`: how well a model foretells a text, with its keys and values stored in one way or another.

use clap::Args;

use super::scores::{Distribution, Mean};
use super::{QualityError, ReadFlags, Reader, check_context, prepare, scored, windows};
use crate::flags::Kv;
use crate::progress::Progress;
use crate::table::table;
use crate::text::TextModel;

/// Flags of `swiftlm perplexity`.
#[derive(Args, Clone, Debug)]
pub struct PerplexityFlags {
    /// How keys and values are stored; each is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16")]
    pub kv: Vec<Kv>,
    /// Model and text
    #[command(flatten)]
    pub read: ReadFlags,
}

/// Runs the measurement; the text is a table, or CSV.
///
/// # Errors
/// Model or text cannot be read, or a step fails.
pub fn perplexity(flags: &PerplexityFlags, progress: &Progress) -> Result<String, QualityError> {
    let context = flags.read.context as usize;
    let mut rows = vec![];
    for kv in &flags.kv {
        let prepared = prepare(&flags.read, *kv, context, 0, progress)?;
        check_context(&prepared, "--context", context)?;
        let info = prepared.info();
        let text = TextModel::load(prepared.directory(), &info.id)?;
        let windows = windows::read(&flags.read, &text)?;
        let mut reader = Reader::new(prepared, progress)?;
        let surprise = surprise(&mut reader, &windows, &mut |done| progress.report("read", done))?;
        let (value, error) = surprise.exp();
        let cells = [info.id, info.backend, kv.name(), context.to_string(), surprise.count().to_string()];
        rows.push(cells.into_iter().chain([format!("{value:.4}"), format!("{error:.4}")]).collect());
    }
    let header = ["model", "backend", "kv", "context", "tokens", "perplexity", "error"];
    Ok(table(&header.map(str::to_owned), &rows, flags.read.csv))
}

/// Mean negative log-likelihood of the counted tokens of all windows; `progress` is told the share that is done.
///
/// # Errors
/// A step fails, or gives logits that are not finite.
pub fn surprise(
    reader: &mut Reader,
    windows: &[Vec<u32>],
    progress: &mut dyn FnMut(f64),
) -> Result<Mean, QualityError> {
    let mut surprise = Mean::default();
    for (done, ids) in windows.iter().enumerate() {
        progress(done as f64 / windows.len() as f64);
        let scored = scored(ids.len());
        reader.skip(ids, 0..scored.start)?;
        let step = reader.scored_tokens();
        for start in scored.clone().step_by(step) {
            let end = scored.end.min(start + step);
            let output = reader.logits(ids, start..end)?;
            for (row, next) in ids[start + 1..=end].iter().enumerate() {
                let logits = output.logits(row).unwrap_or_default();
                surprise.add(Distribution::new(logits)?.surprise(*next));
            }
        }
    }
    progress(1.0);
    Ok(surprise)
}
