//! Laws of pages and sequences, with page contents simulated.

use proptest::prelude::*;
use swiftlm_ir::ty::PAGE_TOKENS;
use swiftlm_runtime::state::{PagePool, Sequence, StateError, TableRows};

/// Pages as a device would hold them.
struct Pages(Vec<[u32; PAGE_TOKENS]>);

impl Pages {
    fn new(pool: &PagePool) -> Self {
        Self(vec![[u32::MAX; PAGE_TOKENS]; pool.pages()])
    }

    /// Appends tokens and writes them where the sequence's pages say.
    fn append(&mut self, pool: &mut PagePool, sequence: &mut Sequence, tokens: &[u32]) {
        let from = sequence.length();
        sequence.append(pool, tokens.len()).expect("there is room");
        for (position, token) in (from..).zip(tokens) {
            self.0[sequence.pages()[position / PAGE_TOKENS] as usize][position % PAGE_TOKENS] = *token;
        }
    }

    fn contents(&self, sequence: &Sequence) -> Vec<u32> {
        let at = |p: usize| self.0[sequence.pages()[p / PAGE_TOKENS] as usize][p % PAGE_TOKENS];
        (0..sequence.length()).map(at).collect()
    }
}

fn tokens() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0u32..1000, 0..150)
}

proptest! {
    #[test]
    fn append_mark_append_rewind_append_is_append_append(a in tokens(), b in tokens(), c in tokens()) {
        let mut pool = PagePool::new(20);
        let mut pages = Pages::new(&pool);
        let mut sequence = Sequence::open(&mut pool, 400).expect("the pool is empty");
        pages.append(&mut pool, &mut sequence, &a);
        let mark = sequence.mark();
        pages.append(&mut pool, &mut sequence, &b);
        prop_assert_eq!(sequence.rewind(&mut pool, mark), Ok(a.len()));
        prop_assert_eq!(sequence.capacity(), 416);
        pages.append(&mut pool, &mut sequence, &c);
        prop_assert_eq!(pages.contents(&sequence), [a, c].concat());
        sequence.close(&mut pool);
        prop_assert_eq!(pool.available(), 20);
    }

    /// A fork and its parent grow, rewind and end in any order; neither ever sees the other's tokens.
    #[test]
    fn forks_do_not_see_each_other(a in tokens(), b in tokens(), c in tokens(), back in 0usize..150, parent_first: bool) {
        let mut pool = PagePool::new(40);
        let mut pages = Pages::new(&pool);
        let mut parent = Sequence::open(&mut pool, 300).expect("the pool is empty");
        let mut model = a.clone();
        let marks: Vec<_> = a.iter().map(|token| {
            let mark = parent.mark();
            pages.append(&mut pool, &mut parent, &[*token]);
            mark
        }).collect();
        let mut fork = parent.fork(&mut pool, 300).expect("there is room");
        let shared = a.len() / PAGE_TOKENS * PAGE_TOKENS;
        prop_assert_eq!(fork.length(), shared);
        prop_assert_eq!(fork.pages(), &parent.pages()[..a.len() / PAGE_TOKENS]);
        pages.append(&mut pool, &mut fork, &a[shared..]);
        pages.append(&mut pool, &mut fork, &b);
        if let Some(mark) = marks.get(back) {
            let from = parent.rewind(&mut pool, *mark).expect("the mark lies behind");
            prop_assert!(from <= back && (from == back || from.is_multiple_of(PAGE_TOKENS)));
            model.truncate(from);
        }
        pages.append(&mut pool, &mut parent, &c);
        model.extend(&c);
        prop_assert_eq!(pages.contents(&parent), model);
        prop_assert_eq!(pages.contents(&fork), [a, b].concat());
        let (first, second) = if parent_first { (parent, fork) } else { (fork, parent) };
        let kept = pages.contents(&second);
        first.close(&mut pool);
        prop_assert_eq!(pages.contents(&second), kept);
        second.close(&mut pool);
        prop_assert_eq!(pool.available(), 40);
    }

    /// Whatever is opened, grown and closed: promises are kept and every page comes back.
    #[test]
    fn promises_are_kept_and_pages_come_back(steps in proptest::collection::vec((0usize..4, 0usize..6, 0usize..120), 1..80)) {
        let mut pool = PagePool::new(16);
        let mut open: Vec<(Sequence, usize)> = vec![];
        for (what, which, size) in steps {
            match what {
                0 => open.extend(Sequence::open(&mut pool, size).map(|s| (s, size))),
                1 if !open.is_empty() => open.swap_remove(which % open.len()).0.close(&mut pool),
                _ if !open.is_empty() => {
                    let at = which % open.len();
                    let (sequence, limit) = &mut open[at];
                    let room = *limit - sequence.length().min(*limit);
                    prop_assert_eq!(sequence.append(&mut pool, size.min(room)), Ok(()));
                    let capacity = sequence.capacity();
                    prop_assert_eq!(capacity, limit.div_ceil(PAGE_TOKENS) * PAGE_TOKENS);
                    let length = sequence.length();
                    let full = StateError::Full { length, tokens: capacity + 1, capacity };
                    prop_assert_eq!(sequence.append(&mut pool, capacity + 1), Err(full));
                }
                _ => {}
            }
            let mut held: Vec<u32> = open.iter().flat_map(|(s, _)| s.pages().to_vec()).collect();
            held.sort_unstable();
            let count = held.len();
            held.dedup();
            prop_assert_eq!(held.len(), count, "no page has two holders without a fork");
            let promised: usize = open.iter().map(|(s, _)| s.capacity() / PAGE_TOKENS).sum();
            prop_assert_eq!(pool.available(), 16 - promised);
        }
        open.into_iter().for_each(|(s, _)| s.close(&mut pool));
        prop_assert_eq!(pool.available(), 16);
    }

    /// Applying a row's updates one after another always gives the device the sequence's pages.
    #[test]
    fn table_updates_follow_the_sequence(lengths in proptest::collection::vec(0usize..300, 1..20)) {
        let mut pool = PagePool::new(64);
        let mut rows = TableRows::new(1);
        let mut device: Vec<u32> = vec![];
        for (turn, length) in lengths.iter().enumerate() {
            let mut sequence = Sequence::open(&mut pool, 600).expect("there is room");
            let start = sequence.mark();
            let mut row = rows.take().expect("the row is free");
            prop_assert!(rows.is_empty());
            for step in [*length, 40, 0, 7] {
                if step == 40 && turn % 2 == 0 {
                    sequence.rewind(&mut pool, start).expect("the start lies behind");
                }
                sequence.append(&mut pool, step).expect("there is room");
                if let Some(update) = row.update(&sequence) {
                    prop_assert!(update.first <= device.len());
                    device.truncate(update.first);
                    device.extend(update.pages);
                }
                prop_assert_eq!(&device[..], sequence.pages());
                prop_assert_eq!(row.update(&sequence), None, "what is known is not told again");
            }
            rows.give_back(row);
            sequence.close(&mut pool);
        }
    }
}

#[test]
fn a_mark_beyond_the_end_is_refused() {
    let mut pool = PagePool::new(4);
    let mut sequence = Sequence::open(&mut pool, 100).expect("there is room");
    let start = sequence.mark();
    sequence.append(&mut pool, 50).expect("there is room");
    let late = sequence.mark();
    assert_eq!(sequence.rewind(&mut pool, start), Ok(0));
    assert_eq!(sequence.rewind(&mut pool, late), Err(StateError::Ahead { mark: 50, length: 0 }));
}

#[test]
fn a_pool_promises_no_more_than_it_has() {
    let mut pool = PagePool::new(4);
    let first = Sequence::open(&mut pool, 3 * PAGE_TOKENS).expect("there is room");
    assert!(Sequence::open(&mut pool, PAGE_TOKENS + 1).is_none());
    let second = Sequence::open(&mut pool, PAGE_TOKENS).expect("there is room");
    assert_eq!(pool.available(), 0);
    first.close(&mut pool);
    second.close(&mut pool);
    assert_eq!(pool.available(), 4);
}
