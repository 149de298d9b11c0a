//! Experts that are read before they are chosen: which guesses are worth a read, and what became of each. A guess never
//! makes room for itself: it waits in the memory that it was read into until its layer chooses it, or does not.

use super::AheadStats;
use super::reader::{Job, Reader, Record};
use super::trial::Trial;

/// Guesses are read while so many of them are right …
const RIGHT: f32 = 0.6;
/// … and the wrong ones are at most so many for each expert that had to be read anyway.
const WASTE: f32 = 0.2;
/// What one choice of a layer leaves of the weight of those before it.
const MEMORY: f32 = 63.0 / 64.0;
/// Choices of a layer after which it is known whether guesses are worth anything.
const KNOWN: u32 = 16;
/// Where none is read, each so many choices are guessed nevertheless, to see whether that would be right by now.
const AGAIN: u32 = 8;

/// What guesses at one layer's choices were worth, read or not.
#[derive(Clone, Debug, Default)]
struct Worth {
    /// Right and wrong ones of each rank.
    ranks: Vec<[f32; 2]>,
    /// Chosen experts that were not in memory.
    missing: f32,
    /// Choices that could be guessed.
    choices: u32,
}

impl Worth {
    /// Ranks of which guesses are read: the best ones, as many as keep both bounds together.
    fn admitted(&self) -> usize {
        let (mut right, mut wrong, mut admitted) = (0.0, 0.0, 0);
        for (rank, of) in self.ranks.iter().enumerate() {
            right += of[0];
            wrong += of[1];
            if right > 0.0 && right >= RIGHT * (right + wrong) && wrong <= WASTE * self.missing {
                admitted = rank + 1;
            }
        }
        admitted
    }

    /// Forgets a little, before a choice of which so many experts are missing.
    fn next(&mut self, missing: usize) {
        self.ranks.iter_mut().flatten().for_each(|n| *n *= MEMORY);
        self.missing = self.missing * MEMORY + missing as f32;
    }

    fn note(&mut self, rank: usize, right: bool) {
        if self.ranks.len() <= rank {
            self.ranks.resize(rank + 1, [0.0; 2]);
        }
        self.ranks[rank][usize::from(!right)] += 1.0;
    }
}

/// An expert that is not in memory and may be chosen.
struct Guess {
    job: Job,
    /// Its place among the experts of a token; the best one where several tokens have it.
    rank: usize,
    state: State,
}

enum State {
    /// Only to see whether it is right.
    Unasked,
    /// Waits or is on its way.
    Asked,
    Came(Record),
}

/// The guesses at the choice that comes next, and what earlier ones were worth.
pub(super) struct Guesses {
    /// The layer that was guessed at, until it chooses.
    layer: Option<usize>,
    made: Vec<Guess>,
    worth: Vec<Worth>,
    pub(super) trial: Trial,
    stats: AheadStats,
}

impl std::fmt::Debug for Guesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guesses {{ {} for layer {:?}, {:?} }}", self.made.len(), self.layer, self.stats)
    }
}

/// Experts that were guessed and chosen.
#[derive(Default)]
pub(super) struct Settled {
    /// Those that are here.
    pub(super) here: Vec<Record>,
    /// Those that are on their way.
    pub(super) coming: Vec<Job>,
}

impl Guesses {
    /// None, for so many layers.
    pub(super) fn new(layers: usize) -> Self {
        let worth = vec![Worth::default(); layers];
        Self { layer: None, made: vec![], worth, trial: Trial::default(), stats: AheadStats::default() }
    }

    pub(super) fn stats(&self) -> AheadStats {
        AheadStats { on: self.trial.decided(), measured: self.trial.measured(), ..self.stats }
    }

    /// Whether a guess at the next choice of `layer` is worth its launches.
    pub(super) fn wanted(&mut self, layer: usize) -> bool {
        let Some(worth) = self.worth.get_mut(layer).filter(|_| self.trial.on()) else { return false };
        worth.choices = worth.choices.saturating_add(1);
        worth.choices <= KNOWN || worth.choices.is_multiple_of(AGAIN) || worth.admitted() > 0
    }

    /// Takes a guess, `top_k` ranks for each token, made at `step`, and asks for what of it is worth that. `present` says
    /// which experts are in memory.
    pub(super) fn make(
        &mut self,
        (layer, step): (usize, u64),
        ids: &[u32],
        top_k: usize,
        present: impl Fn(u32) -> bool,
        reader: &mut Reader,
    ) {
        self.drop_all(reader);
        let Some(admitted) = self.worth.get(layer).map(Worth::admitted) else { return };
        self.layer = Some(layer);
        let mut ranked: Vec<(usize, u32)> = ids.iter().enumerate().map(|(i, id)| (i % top_k.max(1), *id)).collect();
        ranked.sort_unstable();
        for (rank, expert) in ranked {
            if present(expert) || self.made.iter().any(|guess| guess.job.expert == expert) {
                continue;
            }
            let state = if rank < admitted { State::Asked } else { State::Unasked };
            self.made.push(Guess { job: Job { layer, expert, step, guess: true }, rank, state });
        }
        let asked = self.made.iter().filter(|guess| matches!(guess.state, State::Asked)).map(|guess| guess.job);
        let asked: Vec<Job> = asked.collect();
        self.stats.guessed += asked.len() as u64;
        reader.guess(asked);
    }

    /// Takes a record that no step waits for: a guess is kept for its layer, unless it could not be read or comes too late.
    pub(super) fn came(&mut self, record: Record, reader: &mut Reader) {
        let known = self.made.iter().position(|guess| guess.job == record.job);
        match known {
            Some(at) if record.result.is_ok() => self.made[at].state = State::Came(record),
            _ => {
                // What failed is no guess: chosen, it is read as if it had not been one.
                if let Some(at) = known {
                    self.made.swap_remove(at);
                }
                reader.give_back(record);
            }
        }
    }

    /// Layer `layer` chose, and `missing` of it is not in memory: gives those that were guessed, and forgets the others.
    pub(super) fn settle(&mut self, layer: usize, missing: &[u32], reader: &mut Reader) -> Settled {
        let mut settled = Settled::default();
        if self.layer.take() != Some(layer) {
            self.drop_all(reader);
            return settled;
        }
        self.worth[layer].next(missing.len());
        for Guess { job, rank, state } in std::mem::take(&mut self.made) {
            let right = missing.contains(&job.expert);
            self.worth[layer].note(rank, right);
            match state {
                State::Unasked => {}
                State::Asked if reader.cancel(job) => {}
                State::Asked if right => settled.coming.push(job),
                State::Asked => self.stats.wasted += 1,
                State::Came(record) if right => settled.here.push(record),
                State::Came(record) => {
                    self.stats.wasted += 1;
                    reader.give_back(record);
                }
            }
        }
        self.stats.useful += (settled.here.len() + settled.coming.len()) as u64;
        settled
    }

    /// Forgets all guesses.
    pub(super) fn drop_all(&mut self, reader: &mut Reader) {
        for guess in std::mem::take(&mut self.made) {
            match guess.state {
                State::Unasked => continue,
                State::Asked if reader.cancel(guess.job) => continue,
                State::Asked => {}
                State::Came(record) => reader.give_back(record),
            }
            self.stats.wasted += 1;
        }
    }
}
