//! What logits say of a text: log-likelihoods, and how far two distributions are apart. In f64 throughout.

use swiftlm_runtime::sampler::NotFinite;

/// A mean that is added to, with its standard error as if the values were independent (Welford's recurrence).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    count: usize,
    mean: f64,
    squares: f64,
}

impl Mean {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    /// Values added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Its standard error.
    pub fn error(&self) -> f64 {
        let count = self.count as f64;
        (self.squares / (count - 1.0).max(1.0) / count.max(1.0)).sqrt()
    }

    /// `e` to the mean with its standard error (by the first derivative): perplexity, of a mean negative log-likelihood.
    pub fn exp(&self) -> (f64, f64) {
        let value = self.mean.exp();
        (value, value * self.error())
    }
}

/// One row of logits as a distribution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution<'l> {
    logits: &'l [f32],
    log_total: f64,
    best: usize,
}

impl<'l> Distribution<'l> {
    /// The softmax of the logits; some may be −∞.
    pub(super) fn new(logits: &'l [f32]) -> Result<Self, NotFinite> {
        let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
        let best = best.filter(|best| logits[*best].is_finite()).ok_or(NotFinite)?;
        let largest = f64::from(logits[best]);
        let total: f64 = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
        if total.is_finite() { Ok(Self { logits, log_total: largest + total.ln(), best }) } else { Err(NotFinite) }
    }

    /// Negative log-likelihood of a token; a token outside the vocabulary is impossible.
    pub(super) fn surprise(&self, id: u32) -> f64 {
        self.logits.get(id as usize).map_or(f64::INFINITY, |logit| self.log_total - f64::from(*logit))
    }

    /// Kullback–Leibler divergence of `other` from this: `Σ p (ln p − ln q)`, in nats.
    fn divergence(&self, other: &Self) -> f64 {
        let both = self.logits.iter().zip(other.logits);
        let terms = both.map(|(a, b)| {
            let (p, q) = (f64::from(*a) - self.log_total, f64::from(*b) - other.log_total);
            if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
        });
        terms.sum()
    }
}

/// How two programs differ that read the same tokens.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Negative log-likelihood of the text by the program in question.
    pub surprise: Mean,
    /// How much larger it is than by the reference, token by token.
    pub more: Mean,
    /// Divergences from the reference, by token.
    divergences: Vec<f64>,
    agreements: usize,
}

impl Comparison {
    /// Adds a position: logits of the reference, of the other, and the token that follows.
    ///
    /// # Errors
    /// Logits are not finite.
    pub fn add(&mut self, reference: &[f32], other: &[f32], next: u32) -> Result<(), NotFinite> {
        let (p, q) = (Distribution::new(reference)?, Distribution::new(other)?);
        self.surprise.add(q.surprise(next));
        self.more.add(q.surprise(next) - p.surprise(next));
        self.divergences.push(p.divergence(&q));
        self.agreements += usize::from(p.best == q.best);
        Ok(())
    }

    /// Change of perplexity against the reference, in percent, with its standard error.
    pub fn change(&self) -> (f64, f64) {
        let (ratio, error) = self.more.exp();
        ((ratio - 1.0) * 100.0, error * 100.0)
    }

    /// Mean divergence, in nats.
    pub fn divergence(&self) -> f64 {
        self.divergences.iter().sum::<f64>() / self.divergences.len().max(1) as f64
    }

    /// The divergence that 99 % of the tokens do not exceed.
    pub fn divergence_99(&self) -> f64 {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() * 99).div_ceil(100).max(1) - 1;
        sorted.get(at).copied().unwrap_or(0.0)
    }

    /// Share of tokens for which both find the same token most likely.
    pub fn agreement(&self) -> f64 {
        self.agreements as f64 / self.divergences.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|x| mean.add(x));
        // The sample's variance is 5/3, of the mean a quarter of that.
        assert!((mean.mean() - 2.5).abs() < 1e-12 && (mean.error() - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean.count(), 4);
        let (value, error) = mean.exp();
        assert!((value - 2.5f64.exp()).abs() < 1e-9 && (error / value - mean.error()).abs() < 1e-12);
    }

    /// Distributions that are known: (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2), each with a constant added.
    #[test]
    fn divergence_of_known_distributions() {
        let logits = |shares: [f32; 3], shift: f32| shares.map(|p| p.ln() + shift);
        let (p, q) = (logits([0.5, 0.25, 0.25], 7.0), logits([0.25, 0.25, 0.5], -3.0));
        let mut comparison = Comparison::default();
        comparison.add(&p, &q, 0).expect("finite");
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        near(comparison.divergence(), 0.5 * 2f64.ln() - 0.25 * 2f64.ln());
        near(comparison.surprise.mean(), 4f64.ln());
        near(comparison.change().0, 100.0);
        near(comparison.agreement(), 0.0);
        comparison.add(&p, &p, 0).expect("finite");
        near(comparison.agreement(), 0.5);
    }

    #[test]
    fn the_99th_percentile() {
        let of =
            |count: usize| Comparison { divergences: (1..=count).map(|i| i as f64).collect(), ..Default::default() };
        assert_eq!((of(100).divergence_99(), of(200).divergence_99(), of(1).divergence_99()), (99.0, 198.0, 1.0));
    }

    #[test]
    fn impossible_tokens_and_broken_logits() {
        let mut comparison = Comparison::default();
        comparison.add(&[0.0, f32::NEG_INFINITY], &[0.0, f32::NEG_INFINITY], 0).expect("one token is certain");
        assert_eq!((comparison.divergence(), comparison.surprise.mean()), (0.0, 0.0));
        assert!(Distribution::new(&[0.0, 0.0]).expect("finite").surprise(2).is_infinite());
        for broken in [[0.0, f32::NAN], [f32::NAN, 0.0], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            assert!(Distribution::new(&broken).is_err(), "{broken:?}");
        }
    }
}
