//! Stop strings over a stream of text pieces: the earliest match wins wherever the pieces were cut, and nothing of it leaks.

/// What one piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text that cannot belong to a stop string any more.
    pub text: String,
    /// A stop string is complete: the text ends here, before it.
    pub matched: bool,
}

/// Holds back text that may be the beginning of a stop string.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones never match.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Adds a piece. The match that is complete first wins, and of those the longest: only so does the result not
    /// depend on where the pieces were cut.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop).map(|start| (start + stop.len(), start)));
        if let Some((_, start)) = first.min() {
            let text = self.held[..start].to_owned();
            self.held.clear();
            return Passed { text, matched: true };
        }
        let keep = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Passed { text: std::mem::replace(&mut self.held, rest), matched: false }
    }

    /// What was held back, once no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that begin `stop` without completing it.
pub(super) fn begun(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let mut out = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            out.push_str(&passed.text);
            if passed.matched {
                return (out, true);
            }
        }
        out.push_str(&matcher.finish());
        (out, false)
    }

    #[test]
    fn holds_back_only_what_may_be_a_beginning() {
        let mut matcher = StopMatcher::new(vec!["END".into()]);
        assert_eq!(matcher.push("an E"), Passed { text: "an ".into(), matched: false });
        assert_eq!(matcher.push("N"), Passed { text: String::new(), matched: false });
        assert_eq!(matcher.push("T"), Passed { text: "ENT".into(), matched: false });
        assert_eq!(matcher.push(" EN"), Passed { text: " ".into(), matched: false });
        assert_eq!(matcher.push("D of"), Passed { text: String::new(), matched: true });
    }

    proptest! {
        /// The slow truth: cut the text into characters and stop at the first character that completes a stop string.
        #[test]
        fn cuts_do_not_matter(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,5}", 0..12),
        ) {
            let whole: String = pieces.concat();
            let ends = whole.char_indices().map(|(at, c)| at + c.len_utf8());
            let truth = ends
                .filter_map(|end| {
                    let seen = &whole[..end];
                    stops.iter().filter(|stop| seen.ends_with(stop.as_str())).map(|stop| end - stop.len()).min()
                })
                .next();
            let expected = truth.map_or((whole.clone(), false), |start| (whole[..start].to_owned(), true));
            prop_assert_eq!(run(&stops, &pieces), expected);
        }
    }
}
