//! Which states share page numbers, and how many pages each kind needs.

use swiftlm_ir::plan::Program;
use swiftlm_ir::ty::Window;

use super::ring_pages;

/// Pages of all states with one window. One page number stands for the page of that number in each of these states, so
/// one page table serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// Tokens that they are kept for.
    pub window: Window,
    /// Pages there are.
    pub pages: usize,
}

/// The page sets of a program, where `kv_pages` pages are kept for states that keep every token: those first, even if no
/// state does, for they say how much sequences may hold; then a set for each window. A ring never holds more pages of a
/// sequence than the sequence has, nor more than its window needs.
pub fn page_sets(program: &Program, kv_pages: usize, max_sequences: usize) -> Vec<PageSet> {
    let mut sets = vec![PageSet { window: Window::ALL, pages: kv_pages }];
    for (window, _) in program.module.states.iter().flat_map(swiftlm_ir::ty::StateType::parts) {
        if sets.iter().all(|set| set.window != window) {
            let pages = ring_pages(window, program.chunk).saturating_mul(max_sequences).min(kv_pages);
            sets.push(PageSet { window, pages });
        }
    }
    sets
}
