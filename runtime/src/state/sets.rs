//! Which states share page numbers, and how many pages each kind needs.

use swiftlm_ir::plan::Program;

use super::ring_pages;

/// Pages of all states with one window. One page number stands for the page of that number in each of these states, so
/// one page table serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// Tokens back from a query that stay readable; 0 for all.
    pub window: usize,
    /// Pages there are.
    pub pages: usize,
}

/// The page sets of a program, where `kv_pages` pages are kept for states that keep every token: those first, even if no
/// state does, for they say how much sequences may hold; then a set for each window. A ring never holds more pages of a
/// sequence than the sequence has, nor more than its window needs.
pub fn page_sets(program: &Program, kv_pages: usize, max_sequences: usize) -> Vec<PageSet> {
    let mut sets = vec![PageSet { window: 0, pages: kv_pages }];
    for window in program.module.states.iter().map(swiftlm_ir::ty::StateType::window) {
        if sets.iter().all(|set| set.window != window) {
            let pages = ring_pages(window, program.chunk).saturating_mul(max_sequences).min(kv_pages);
            sets.push(PageSet { window, pages });
        }
    }
    sets
}
