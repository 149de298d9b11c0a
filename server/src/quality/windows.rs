//! A text as windows of tokens, and which of their tokens count.

use std::ops::Range;

use super::{QualityError, ReadFlags};
use crate::text::{TextError, TextModel};

/// Positions of a window whose logits are compared with the token that follows: those of its second half, but for the
/// last, which nothing follows.
pub fn scored(context: usize) -> Range<usize> {
    context / 2..context - 1
}

/// Cuts a text into windows of `context` tokens; `first` replaces the first token of each.
///
/// # Errors
/// The text is shorter than a window.
pub fn windows(ids: &[u32], context: usize, first: Option<u32>) -> Result<Vec<Vec<u32>>, QualityError> {
    let mut windows: Vec<Vec<u32>> = ids.chunks_exact(context).map(<[u32]>::to_vec).collect();
    if let Some(first) = first {
        windows.iter_mut().for_each(|window| window[0] = first);
    }
    if windows.is_empty() { Err(QualityError::Short { tokens: ids.len(), context }) } else { Ok(windows) }
}

/// The windows of the text that the flags name.
pub(super) fn read(flags: &ReadFlags, text: &TextModel) -> Result<Vec<Vec<u32>>, QualityError> {
    let path = &flags.file;
    let bytes = std::fs::read(path).map_err(|error| QualityError::File { path: path.clone(), error })?;
    let content = String::from_utf8(bytes)
        .map_err(|error| QualityError::NotText { path: path.clone(), byte: error.utf8_error().valid_up_to() })?;
    let mut ids = text.tokenizer.encode(&content, true)?;
    ids.truncate(flags.tokens.map_or(usize::MAX, |most| most as usize));
    windows(&ids, flags.context as usize, first_token(text)?)
}

/// What the tokenizer puts before every text, if it does.
fn first_token(text: &TextModel) -> Result<Option<u32>, TextError> {
    let (with, without) = (text.tokenizer.encode("a", true)?, text.tokenizer.encode("a", false)?);
    Ok(with.first().copied().filter(|first| without.first() != Some(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_only_whole_ones_count() {
        let ids: Vec<u32> = (0..11).collect();
        let plain = windows(&ids, 4, None).expect("two windows");
        assert_eq!(plain, [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(windows(&ids, 4, Some(99)).expect("two windows"), [[99, 1, 2, 3], [99, 5, 6, 7]]);
        assert!(matches!(windows(&ids, 12, None), Err(QualityError::Short { tokens: 11, context: 12 })));
    }

    #[test]
    fn the_second_half_counts() {
        // Positions 4, 5 and 6 of 8 predict tokens 5, 6 and 7.
        assert_eq!(scored(8), 4..7);
        assert_eq!(scored(4), 2..3);
    }
}
