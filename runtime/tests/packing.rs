//! Laws of the scheduler over arbitrary demands.

use proptest::prelude::*;
use swiftlm_runtime::scheduler::{Demand, Piece, RowDemand, Scheduler};

fn demand() -> impl Strategy<Value = Demand> {
    let rows = prop_oneof![Just(RowDemand::None), Just(RowDemand::Last), Just(RowDemand::Every)];
    let prompt = (1usize..100, rows).prop_map(|(pending, rows)| Demand { pending, decoding: false, rows });
    prop_oneof![Just(Demand { pending: 1, decoding: true, rows: RowDemand::Last }), prompt]
}

fn rows(demand: &Demand, piece: &Piece) -> usize {
    match demand.rows {
        RowDemand::None => 0,
        RowDemand::Last => usize::from(piece.count == demand.pending),
        RowDemand::Every => piece.count,
    }
}

proptest! {
    #[test]
    fn a_step_keeps_its_bounds_and_wastes_nothing(
        demands in proptest::collection::vec(demand(), 0..20), chunk in 1usize..80, max_rows in 1usize..12,
    ) {
        let pieces = Scheduler::new(chunk, max_rows).pack(&demands);
        prop_assert_eq!(pieces.is_empty(), demands.is_empty(), "there is always progress");
        let tokens: usize = pieces.iter().map(|p| p.count).sum();
        let used: usize = pieces.iter().map(|p| rows(&demands[p.index], p)).sum();
        prop_assert!(tokens <= chunk && used <= max_rows);
        let mut seen: Vec<usize> = pieces.iter().map(|p| p.index).collect();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), pieces.len(), "a sequence has one piece");
        prop_assert!(pieces.iter().all(|p| (1..=demands[p.index].pending).contains(&p.count)));
        let first_prompt = pieces.iter().position(|p| !demands[p.index].decoding).unwrap_or(pieces.len());
        prop_assert!(pieces[first_prompt..].iter().all(|p| !demands[p.index].decoding), "decoding first");
        prop_assert!(pieces[first_prompt..].is_sorted_by_key(|p| p.index), "prompts in order of arrival");
        let decoding = demands.iter().filter(|d| d.decoding).count();
        prop_assert_eq!(first_prompt, decoding.min(chunk).min(max_rows), "every sequence that decodes takes part");
        if tokens < chunk && used < max_rows {
            let whole = |i: usize| pieces.iter().any(|p| p.index == i && p.count == demands[i].pending);
            prop_assert!((0..demands.len()).all(whole), "room is left only when nothing is");
        }
    }

    /// Served step by step, every prompt and every reply comes to its end.
    #[test]
    fn nobody_starves(
        mut demands in proptest::collection::vec(demand(), 1..12), chunk in 1usize..20, max_rows in 1usize..4,
    ) {
        let mut scheduler = Scheduler::new(chunk, max_rows);
        let mut replies = vec![5usize; demands.len()];
        let work: usize = demands.iter().map(|d| d.pending + 5).sum();
        let mut left: Vec<usize> = (0..demands.len()).collect();
        for _ in 0..=work {
            let now: Vec<Demand> = left.iter().map(|i| demands[*i]).collect();
            for piece in scheduler.pack(&now) {
                let i = left[piece.index];
                if demands[i].decoding || piece.count == demands[i].pending {
                    demands[i] = Demand { pending: 1, decoding: true, rows: RowDemand::Last };
                    replies[i] -= 1;
                } else {
                    demands[i].pending -= piece.count;
                }
            }
            left.retain(|i| replies[*i] > 0);
        }
        prop_assert_eq!(left, Vec::<usize>::new());
    }
}
