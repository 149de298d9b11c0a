//! Laws of pages, rings and sequences, with page contents simulated.

use std::collections::BTreeMap;

use proptest::prelude::*;
use swiftlm_ir::ty::{PAGE_TOKENS, Window};
use swiftlm_runtime::executable::TableUpdate;
use swiftlm_runtime::state::{
    LONGEST_REWIND, Mark, PageSet, Sequence, StateError, StatePool, TableRows, Transfer, ring_pages,
};

/// Tokens of a step.
const CHUNK: usize = 40;
/// Windows of the rings beside the states that keep everything: shorter than a page, odd, of many pages, with first
/// tokens that stay.
const WINDOWS: [Window; 4] = [
    Window { first: 0, last: 1 },
    Window { first: 0, last: 20 },
    Window { first: 0, last: 100 },
    Window { first: 2 * PAGE_TOKENS, last: 50 },
];

/// A pool of `pages` pages, and rings for `sequences` sequences.
fn pool(pages: usize, sequences: usize) -> StatePool {
    let ring = |window| PageSet { window, pages: (ring_pages(window, CHUNK) * sequences).min(pages) };
    let sets: Vec<PageSet> = std::iter::once(PageSet { window: Window::ALL, pages }).chain(WINDOWS.map(ring)).collect();
    StatePool::new(&sets, CHUNK)
}

/// Positions that a query at the end of `length` tokens sees in a window.
fn shown(window: Window, length: usize) -> impl Iterator<Item = usize> {
    let last = if window.is_all() { 0 } else { length.saturating_sub(window.last) };
    (0..length).filter(move |position| *position < window.first || *position >= last)
}

/// Pages of all sets, as a device would hold them: what was written where, by window and page.
#[derive(Default)]
struct Pages(BTreeMap<(Window, u32), [u32; PAGE_TOKENS]>);

impl Pages {
    /// Appends tokens in steps and writes them where the sequence's pages say. Each token sees its whole window.
    fn append(&mut self, pool: &mut StatePool, sequence: &mut Sequence, tokens: &[u32]) {
        for step in tokens.chunks(CHUNK) {
            let from = sequence.length();
            sequence.append(pool, step.len()).expect("there is room");
            for (window, pages) in sequence.tables() {
                for (position, token) in (from..).zip(step) {
                    let page = self.0.entry((window, pages[position / PAGE_TOKENS])).or_insert([u32::MAX; PAGE_TOKENS]);
                    page[position % PAGE_TOKENS] = *token;
                }
            }
        }
    }

    /// Loses what nobody holds, where there is only one sequence.
    fn forget(&mut self, sequence: &Sequence) {
        let held =
            |key: &(Window, u32)| sequence.held().any(|(window, pages)| key.0 == window && pages.contains(&key.1));
        self.0.retain(|key, _| held(key));
    }

    /// What a query at the last position sees through one table.
    fn seen(&self, sequence: &Sequence, window: Window) -> Vec<u32> {
        let (_, pages) = sequence.tables().find(|(w, _)| *w == window).expect("the window has a table");
        let at = |p: usize| self.0[&(window, pages[p / PAGE_TOKENS])][p % PAGE_TOKENS];
        shown(window, sequence.length()).map(at).collect()
    }

    fn contents(&self, sequence: &Sequence) -> Vec<u32> {
        self.seen(sequence, Window::ALL)
    }

    /// The tokens a query at the last position sees are the last of `model`, through each table.
    fn check(&self, sequence: &Sequence, model: &[u32]) {
        assert_eq!(sequence.length(), model.len());
        for window in std::iter::once(Window::ALL).chain(WINDOWS) {
            let expected: Vec<u32> = shown(window, model.len()).map(|position| model[position]).collect();
            assert_eq!(self.seen(sequence, window), expected, "window {window}");
        }
    }
}

fn tokens() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0u32..1000, 0..250)
}

/// At least one token: a sequence that was taken back, or a fork, keeps what its next token sees, not what its last saw.
fn next_tokens() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0u32..1000, 1..250)
}

/// Everything is given back.
fn check_empty(pool: &StatePool, fresh: &StatePool) {
    assert_eq!(pool.available(), fresh.available());
    for window in WINDOWS {
        assert_eq!(pool.available_in_ring(window), fresh.available_in_ring(window), "window {window}");
    }
}

proptest! {
    #[test]
    fn append_mark_append_rewind_append_is_append_append(a in tokens(), b in tokens(), c in next_tokens()) {
        let mut pool = pool(30, 1);
        let mut pages = Pages::default();
        let mut sequence = Sequence::open(&mut pool, 750).expect("the pool is empty");
        pages.append(&mut pool, &mut sequence, &a);
        let mark = sequence.mark();
        pages.append(&mut pool, &mut sequence, &b);
        let from = sequence.rewind(&mut pool, mark).expect("the mark lies behind");
        // Only what lies far back has to come again.
        prop_assert!(from == a.len() || from == 0 && b.len() > LONGEST_REWIND, "{} of {}", from, a.len());
        prop_assert_eq!(sequence.capacity(), 768);
        pages.forget(&sequence);
        pages.append(&mut pool, &mut sequence, &[&a[from..], &c].concat());
        pages.check(&sequence, &[a, c].concat());
        sequence.close(&mut pool);
        check_empty(&pool, &self::pool(30, 1));
    }

    /// A sequence holds a bounded number of pages of a ring, and never one that another holds.
    #[test]
    fn rings_are_bounded(steps in proptest::collection::vec((0usize..2, 1usize..=CHUNK), 1..60)) {
        let mut pool = pool(200, 2);
        let mut pages = Pages::default();
        let mut both: Vec<_> = (0..2).map(|_| (Sequence::open(&mut pool, 2000).expect("there is room"), vec![])).collect();
        for (turn, (which, count)) in steps.into_iter().enumerate() {
            let (sequence, model) = &mut both[which];
            if model.len() + count <= 2000 {
                let step = vec![turn as u32; count];
                pages.append(&mut pool, sequence, &step);
                model.extend(step);
            }
        }
        for window in WINDOWS {
            let used = pages.0.keys().filter(|(w, _)| *w == window).count();
            prop_assert!(used <= 2 * ring_pages(window, CHUNK), "{} pages for a window of {}", used, window);
        }
        for (sequence, model) in both {
            if !model.is_empty() {
                pages.check(&sequence, &model);
            }
            sequence.close(&mut pool);
        }
        check_empty(&pool, &self::pool(200, 2));
    }

    /// Whoever goes on from a sequence that is kept, or from its like whose pages came from elsewhere, sees the tokens up to
    /// there, and everything is given back.
    #[test]
    fn kept_sequences_serve_whoever_goes_on(a in tokens(), b in next_tokens(), most in 0usize..400, back in 0usize..3) {
        let mut pool = pool(80, 4);
        let mut pages = Pages::default();
        let mut kept = Sequence::open(&mut pool, 500).expect("the pool is empty");
        pages.append(&mut pool, &mut kept, &a);
        let length = kept.settle(&mut pool);
        prop_assert_eq!(length, a.len() / PAGE_TOKENS * PAGE_TOKENS);
        let restored = Sequence::restore(&mut pool, length).expect("there is room");
        prop_assert_eq!(restored.length(), length);
        for ((window, from), (_, to)) in kept.needed().into_iter().zip(restored.needed()) {
            prop_assert_eq!(from.len(), to.len());
            for (from, to) in from.into_iter().zip(to) {
                let page = pages.0[&(window, from)];
                pages.0.insert((window, to), page);
            }
        }
        // Near the end, where windows are still held, or anywhere.
        let most = if back == 0 { most } else { length.saturating_sub(back - 1) };
        let mut served = vec![];
        for source in [&kept, &restored] {
            let expected = source.forks_at(most);
            prop_assert!(expected <= most.min(length) && (back != 1 || expected == length));
            let mut fork = source.fork(&mut pool, most, 500).expect("there is room");
            prop_assert_eq!(fork.length(), expected);
            pages.append(&mut pool, &mut fork, &b);
            served.push((fork, [&a[..expected], &b].concat()));
        }
        prop_assert!(kept.reaches_as_far_as(&restored), "no more is read back than is needed");
        for (fork, model) in &served {
            pages.check(fork, model);
        }
        for sequence in served.into_iter().map(|(fork, _)| fork).chain([kept, restored]) {
            sequence.close(&mut pool);
        }
        check_empty(&pool, &self::pool(80, 4));
    }

    /// A fork and its parent grow, rewind and end in any order; neither ever sees the other's tokens.
    #[test]
    fn forks_do_not_see_each_other(
        a in tokens(), b in next_tokens(), c in next_tokens(), back in 0usize..250, parent_first: bool,
    ) {
        let mut pool = pool(60, 2);
        let mut pages = Pages::default();
        let mut parent = Sequence::open(&mut pool, 500).expect("the pool is empty");
        let mut model = a.clone();
        let marks: Vec<_> = a.iter().map(|token| {
            let mark = parent.mark();
            pages.append(&mut pool, &mut parent, &[*token]);
            mark
        }).collect();
        let mut fork = parent.fork(&mut pool, usize::MAX, 500).expect("there is room");
        let shared = a.len() / PAGE_TOKENS * PAGE_TOKENS;
        prop_assert_eq!(fork.length(), shared);
        for ((window, own), (_, parents)) in fork.tables().zip(parent.tables()) {
            prop_assert_eq!(own, &parents[..a.len() / PAGE_TOKENS], "window {}", window);
        }
        pages.append(&mut pool, &mut fork, &a[shared..]);
        pages.append(&mut pool, &mut fork, &b);
        if let Some(mark) = marks.get(back) {
            let from = parent.rewind(&mut pool, *mark).expect("the mark lies behind");
            prop_assert!(from <= back && (from == back || from.is_multiple_of(PAGE_TOKENS)));
            model.truncate(from);
        }
        pages.append(&mut pool, &mut parent, &c);
        model.extend(&c);
        pages.check(&parent, &model);
        pages.check(&fork, &[a, b].concat());
        let (first, second) = if parent_first { (parent, fork) } else { (fork, parent) };
        let kept = pages.contents(&second);
        first.close(&mut pool);
        prop_assert_eq!(pages.contents(&second), kept);
        second.close(&mut pool);
        check_empty(&pool, &self::pool(60, 2));
    }

    /// Whatever is opened, grown and closed: promises are kept and every page comes back.
    #[test]
    fn promises_are_kept_and_pages_come_back(steps in proptest::collection::vec((0usize..4, 0usize..6, 0usize..120), 1..80)) {
        let mut pool = pool(16, 16);
        let mut open: Vec<(Sequence, usize)> = vec![];
        for (what, which, size) in steps {
            match what {
                0 => open.extend(Sequence::open(&mut pool, size).map(|s| (s, size))),
                1 if !open.is_empty() => open.swap_remove(which % open.len()).0.close(&mut pool),
                _ if !open.is_empty() => {
                    let at = which % open.len();
                    let (sequence, limit) = &mut open[at];
                    let room = *limit - sequence.length().min(*limit);
                    prop_assert_eq!(sequence.append(&mut pool, size.min(room).min(CHUNK)), Ok(()));
                    let capacity = sequence.capacity();
                    prop_assert_eq!(capacity, limit.div_ceil(PAGE_TOKENS) * PAGE_TOKENS);
                    let length = sequence.length();
                    let full = StateError::Full { length, tokens: capacity + 1, capacity };
                    prop_assert_eq!(sequence.append(&mut pool, capacity + 1), Err(full));
                }
                _ => {}
            }
            let all = open.iter().flat_map(|(s, _)| s.tables().next().map_or(vec![], |(_, pages)| pages.to_vec()));
            let mut held: Vec<u32> = all.collect();
            held.sort_unstable();
            let count = held.len();
            held.dedup();
            prop_assert_eq!(held.len(), count, "no page has two holders without a fork");
            let promised: usize = open.iter().map(|(s, _)| s.capacity() / PAGE_TOKENS).sum();
            prop_assert_eq!(pool.available(), 16 - promised);
        }
        open.into_iter().for_each(|(s, _)| s.close(&mut pool));
        check_empty(&pool, &self::pool(16, 16));
    }

    /// Applying a row's updates one after another always gives the device the sequence's pages.
    #[test]
    fn table_updates_follow_the_sequence(lengths in proptest::collection::vec(0usize..300, 1..20)) {
        let mut pool = pool(64, 2);
        let mut rows = TableRows::new(1);
        let mut device: BTreeMap<Window, Vec<u32>> = BTreeMap::new();
        for (turn, length) in lengths.iter().enumerate() {
            let mut sequence = Sequence::open(&mut pool, 600).expect("there is room");
            let start = sequence.mark();
            let mut row = rows.take().expect("the row is free");
            prop_assert!(rows.is_empty());
            for step in [*length, 40, 0, 7] {
                if step == 40 && turn % 2 == 0 {
                    sequence.rewind(&mut pool, start).expect("the start lies behind");
                }
                for at in (0..step).step_by(CHUNK) {
                    sequence.append(&mut pool, CHUNK.min(step - at)).expect("there is room");
                }
                for TableUpdate { window, first, pages, .. } in row.update(&sequence) {
                    let known = device.entry(window).or_default();
                    prop_assert!(first <= known.len());
                    known.truncate(first);
                    known.extend(pages);
                }
                for (window, pages) in sequence.tables() {
                    prop_assert_eq!(&device[&window][..], pages, "window {}", window);
                }
                prop_assert_eq!(row.update(&sequence), vec![], "what is known is not told again");
            }
            rows.give_back(row);
            sequence.close(&mut pool);
        }
    }
}

#[test]
fn a_mark_beyond_the_end_is_refused() {
    let mut pool = pool(4, 1);
    let mut sequence = Sequence::open(&mut pool, 100).expect("there is room");
    let start = sequence.mark();
    sequence.append(&mut pool, 40).expect("there is room");
    let late = sequence.mark();
    assert_eq!(sequence.rewind(&mut pool, start), Ok(0));
    assert_eq!(sequence.rewind(&mut pool, late), Err(StateError::Ahead { mark: 40, length: 0 }));
}

#[test]
fn more_than_a_step_is_refused() {
    let mut pool = pool(4, 1);
    let mut sequence = Sequence::open(&mut pool, 100).expect("there is room");
    let refused = StateError::Step { tokens: CHUNK + 1, most: CHUNK };
    assert_eq!(sequence.append(&mut pool, CHUNK + 1), Err(refused));
    assert_eq!((sequence.length(), sequence.append(&mut pool, CHUNK)), (0, Ok(())));
}

/// From wherever a sequence was taken back to, it and a fork of it go on as if it had never been further.
#[test]
fn a_rewind_goes_as_far_back_as_promised() {
    let tokens: Vec<u32> = (0..300).collect();
    let mut whole = 0;
    for to in 0..=tokens.len() {
        let mut pool = pool(40, 2);
        let mut pages = Pages::default();
        let mut sequence = Sequence::open(&mut pool, 600).expect("there is room");
        let mut mark = sequence.mark();
        for (at, token) in tokens.iter().enumerate() {
            mark = if at == to { sequence.mark() } else { mark };
            pages.append(&mut pool, &mut sequence, &[*token]);
        }
        mark = if to == tokens.len() { sequence.mark() } else { mark };
        let from = sequence.rewind(&mut pool, mark).expect("the mark lies behind");
        let promised = to + LONGEST_REWIND >= tokens.len();
        assert!(from == to || from == 0 && !promised, "back to {from} of {to}");
        whole += usize::from(from == to);
        pages.forget(&sequence);
        let fork = sequence.fork(&mut pool, usize::MAX, 600).expect("there is room");
        for (new, mut sequence) in [(1000, sequence), (2000, fork)] {
            let missing = sequence.length()..to;
            let (first, rest) = tokens[missing.clone()].split_at(missing.len().min(2));
            for token in first {
                pages.append(&mut pool, &mut sequence, &[*token]);
                pages.check(&sequence, &tokens[..sequence.length()]);
            }
            pages.append(&mut pool, &mut sequence, rest);
            let mut model = tokens[..to].to_vec();
            for token in new..new + 3 {
                pages.append(&mut pool, &mut sequence, &[token]);
                model.push(token);
                pages.check(&sequence, &model);
            }
        }
    }
    assert!(whole < 100, "rings give pages back: {whole} of 301 lengths can be gone back to");
}

#[test]
fn a_pool_promises_no_more_than_it_has() {
    let mut pool = pool(4, 2);
    let first = Sequence::open(&mut pool, 3 * PAGE_TOKENS).expect("there is room");
    assert!(Sequence::open(&mut pool, PAGE_TOKENS + 1).is_none());
    let second = Sequence::open(&mut pool, PAGE_TOKENS).expect("there is room");
    assert_eq!(pool.available(), 0);
    first.close(&mut pool);
    second.close(&mut pool);
    assert_eq!(pool.available(), 4);
}

/// Sequences whose rings are full wait, and nothing of the attempt stays reserved.
#[test]
fn a_ring_reserves_no_more_than_it_has() {
    let mut pool = StatePool::new(
        &[PageSet { window: Window::ALL, pages: 100 }, PageSet { window: Window::last(20), pages: 5 }],
        CHUNK,
    );
    assert_eq!(ring_pages(Window::last(20), CHUNK), 4);
    let first = Sequence::open(&mut pool, 1000).expect("there is room");
    assert_eq!((pool.available(), pool.available_in_ring(Window::last(20))), (68, Some(1)));
    assert!(Sequence::open(&mut pool, 1000).is_none());
    assert_eq!((pool.available(), pool.available_in_ring(Window::last(20))), (68, Some(1)));
    let short = Sequence::open(&mut pool, PAGE_TOKENS).expect("a short sequence needs one page");
    short.close(&mut pool);
    first.close(&mut pool);
    assert_eq!((pool.available(), pool.available_in_ring(Window::last(20))), (100, Some(5)));
}

/// Units as a device would hold them: the tokens that each has taken in.
struct Recurrent {
    units: BTreeMap<u32, Vec<u32>>,
}

impl Recurrent {
    /// Steps: copies first, then the tokens. A sequence at its start takes nothing from its unit.
    fn append(&mut self, pool: &mut StatePool, sequence: &mut Sequence, tokens: &[u32]) {
        for step in tokens.chunks(CHUNK) {
            let before = sequence.length();
            sequence.append(pool, step.len()).expect("there is room");
            for Transfer { from, to } in pool.take_transfers() {
                let copy = self.units.get(&from).cloned().unwrap_or_default();
                self.units.insert(to, copy);
            }
            let unit = self.units.entry(sequence.unit().expect("sequences are recurrent")).or_default();
            if before == 0 {
                unit.clear();
            }
            assert_eq!(unit.len(), before, "a unit holds the tokens before the step");
            unit.extend_from_slice(step);
        }
    }

    fn holds(&self, sequence: &Sequence) -> &[u32] {
        self.units.get(&sequence.unit().expect("sequences are recurrent")).map_or(&[], Vec::as_slice)
    }
}

fn recurrent_pool(sequences: usize, snapshots: usize) -> StatePool {
    pool(60, sequences).with_recurrences(sequences, snapshots)
}

proptest! {
    /// Append a, snapshot, append b, mark, append c, rewind, append d is append a, b, d: back to the snapshot, or to the
    /// start where there was no room for one, and what came behind comes again.
    #[test]
    fn recurrences_go_back_to_snapshots(a in tokens(), b in tokens(), c in tokens(), d in tokens(), room in 0usize..2) {
        let mut pool = recurrent_pool(1, room);
        let mut device = Recurrent { units: BTreeMap::new() };
        let mut sequence = Sequence::open(&mut pool, 1100).expect("the pool is empty");
        device.append(&mut pool, &mut sequence, &a);
        let taken = sequence.snapshot(&mut pool);
        prop_assert_eq!(taken, room > 0 || a.is_empty());
        device.append(&mut pool, &mut sequence, &b);
        let mark = sequence.mark();
        device.append(&mut pool, &mut sequence, &c);
        let from = sequence.rewind(&mut pool, mark).expect("the mark lies behind");
        let reached = c.is_empty() && from == a.len() + b.len();
        let back = from == if taken { a.len() } else { 0 };
        // Rings may have given back what a query at the snapshot looks back at.
        prop_assert!(reached || back || from == 0 && b.len() + c.len() > LONGEST_REWIND, "{}", from);
        let again = [&a[..], &b].concat();
        device.append(&mut pool, &mut sequence, &again[from..]);
        device.append(&mut pool, &mut sequence, &d);
        let all = [again, d].concat();
        prop_assert!(all.is_empty() || device.holds(&sequence) == all);
        sequence.close(&mut pool);
        prop_assert_eq!(pool.available_snapshots(), Some(room));
        check_empty(&pool, &recurrent_pool(1, room));
    }

    /// Sequences that open, grow, keep snapshots, fork, go back and end in any order never see one another's tokens, and
    /// every unit comes back.
    #[test]
    fn units_are_never_mixed_up(steps in proptest::collection::vec((0usize..6, 0usize..4, 0usize..70), 1..80)) {
        let mut pool = recurrent_pool(4, 3);
        let mut device = Recurrent { units: BTreeMap::new() };
        let mut open: Vec<(Sequence, Vec<u32>, Vec<Mark>)> = vec![];
        let mut next = 0u32;
        for (what, which, size) in steps {
            let at = if open.is_empty() { 0 } else { which % open.len() };
            match (what, open.is_empty()) {
                (0, _) | (_, true) => open.extend(Sequence::open(&mut pool, 400).map(|s| (s, vec![], vec![]))),
                (1, _) => {
                    open[at].0.snapshot(&mut pool);
                }
                (2, _) => {
                    let (sequence, model, _) = &open[at];
                    let fork = sequence.fork(&mut pool, usize::MAX, 400);
                    let held = fork.as_ref().map_or(0, Sequence::length);
                    let model = model[..held].to_vec();
                    open.extend(fork.map(|fork| (fork, model, vec![])));
                }
                (3, _) => {
                    let (sequence, model, marks) = &mut open[at];
                    let Some(mark) = marks.get(size % marks.len().max(1)).copied() else { continue };
                    // A mark that was rewound past lies ahead.
                    let Ok(from) = sequence.rewind(&mut pool, mark) else { continue };
                    model.truncate(from);
                }
                (4, _) if size < 20 => open.swap_remove(at).0.close(&mut pool),
                _ => {
                    let (sequence, model, marks) = &mut open[at];
                    marks.push(sequence.mark());
                    let count = size.min(CHUNK).min(400 - model.len()).min(sequence.capacity() - model.len());
                    let tokens: Vec<u32> = (0..count as u32).map(|i| next + i).collect();
                    next += count as u32;
                    if count > 0 {
                        device.append(&mut pool, sequence, &tokens);
                        model.extend(&tokens);
                        prop_assert_eq!(device.holds(sequence), &model[..]);
                    }
                }
            }
        }
        open.into_iter().for_each(|(s, ..)| s.close(&mut pool));
        prop_assert_eq!(pool.available_snapshots(), Some(3));
        check_empty(&pool, &recurrent_pool(4, 3));
        let all = [(); 4].map(|()| Sequence::open(&mut pool, 1).expect("every unit came back"));
        prop_assert!(Sequence::open(&mut pool, 1).is_none(), "snapshots keep their room");
        all.into_iter().for_each(|s| s.close(&mut pool));
    }
}
