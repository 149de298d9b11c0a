//! Packing of a step: which sequences give how many tokens. Knows counts; never devices, pages or requests.
//!
//! Every running sequence that decodes gives its one token first, so that a long prompt never stalls a reply; what is
//! left of the chunk goes to prompts in order of arrival. Requests are admitted in order of arrival, each with all the
//! pages it may need, so no step runs out of pages and no request overtakes another for ever.

/// What a sequence could give to the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Tokens whose states are not computed; at least 1.
    pub pending: usize,
    /// Whether its prompt is done and the pending token is its last.
    pub decoding: bool,
    /// Which of the pending tokens want logits.
    pub rows: RowDemand,
}

/// Which tokens want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowDemand {
    /// None.
    None,
    /// The last pending one.
    Last,
    /// All of them, as for the log-probabilities of a prompt.
    Every,
}

/// The next `count` tokens of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into the demands.
    pub index: usize,
    /// Tokens, at least 1.
    pub count: usize,
}

/// Packs steps of at most `chunk` tokens of which at most `max_rows` want logits.
#[derive(Clone, Debug)]
pub struct Scheduler {
    chunk: usize,
    max_rows: usize,
    /// Whose turn it is among decoding sequences, if one step cannot hold them all.
    turn: usize,
}

impl Scheduler {
    /// A scheduler for steps of these sizes, both at least 1.
    pub fn new(chunk: usize, max_rows: usize) -> Self {
        Self { chunk: chunk.max(1), max_rows: max_rows.max(1), turn: 0 }
    }

    /// The next step's pieces, decoding sequences first; empty only without demands.
    pub fn pack(&mut self, demands: &[Demand]) -> Vec<Piece> {
        let decoding: Vec<usize> = (0..demands.len()).filter(|i| demands[*i].decoding).collect();
        let served = decoding.len().min(self.chunk).min(self.max_rows);
        let start = if served < decoding.len() { self.turn % decoding.len() } else { 0 };
        let mut pieces: Vec<Piece> =
            decoding.iter().cycle().skip(start).take(served).map(|i| Piece { index: *i, count: 1 }).collect();
        self.turn = start + served;

        let (mut tokens, mut rows) = (self.chunk - served, self.max_rows - served);
        for (index, demand) in demands.iter().enumerate().filter(|(_, d)| !d.decoding) {
            let count = match demand.rows {
                RowDemand::None => demand.pending.min(tokens),
                RowDemand::Every => demand.pending.min(tokens).min(rows),
                // Without a row left the last token waits for the next step.
                RowDemand::Last => demand.pending.min(tokens).min(demand.pending - usize::from(rows == 0)),
            };
            if count == 0 {
                continue;
            }
            tokens -= count;
            rows -= match demand.rows {
                RowDemand::None => 0,
                RowDemand::Every => count,
                RowDemand::Last => usize::from(count == demand.pending),
            };
            pieces.push(Piece { index, count });
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode() -> Demand {
        Demand { pending: 1, decoding: true, rows: RowDemand::Last }
    }

    fn prompt(pending: usize, rows: RowDemand) -> Demand {
        Demand { pending, decoding: false, rows }
    }

    fn pack(scheduler: &mut Scheduler, demands: &[Demand]) -> Vec<(usize, usize)> {
        scheduler.pack(demands).into_iter().map(|p| (p.index, p.count)).collect()
    }

    #[test]
    fn decoding_goes_first_and_prompts_share_the_rest_in_order() {
        let demands =
            [prompt(10, RowDemand::Last), decode(), prompt(9, RowDemand::Last), decode(), prompt(3, RowDemand::Last)];
        assert_eq!(pack(&mut Scheduler::new(16, 8), &demands), [(1, 1), (3, 1), (0, 10), (2, 4)]);
    }

    #[test]
    fn rows_bound_scored_prompts_and_last_tokens() {
        let scored = [prompt(10, RowDemand::Every), prompt(5, RowDemand::Last)];
        assert_eq!(pack(&mut Scheduler::new(64, 4), &scored), [(0, 4), (1, 4)]);
        let last = [prompt(5, RowDemand::Last), prompt(1, RowDemand::Last), prompt(2, RowDemand::None)];
        assert_eq!(pack(&mut Scheduler::new(64, 1), &last), [(0, 5), (2, 2)]);
    }

    #[test]
    fn turns_rotate_when_a_step_cannot_hold_all_that_decode() {
        let mut scheduler = Scheduler::new(2, 8);
        let demands = [decode(); 3];
        let steps: Vec<_> = (0..3).map(|_| pack(&mut scheduler, &demands)).collect();
        assert_eq!(steps, [[(0, 1), (1, 1)], [(2, 1), (0, 1)], [(1, 1), (2, 1)]]);
    }
}
