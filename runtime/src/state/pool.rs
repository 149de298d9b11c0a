//! The page pool: which pages are free, how many sequences hold each, and how many are promised.

/// Pages of all sequences. One page number stands for the page of that number in every state of the model.
///
/// A sequence is promised all pages it may ever need when it is admitted, so that no step can run out of pages.
#[derive(Clone, Debug)]
pub struct PagePool {
    free: Vec<u32>,
    holders: Vec<u32>,
    promised: usize,
}

impl PagePool {
    /// A pool of `pages` free pages.
    pub fn new(pages: usize) -> Self {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        Self { free: (0..pages).rev().collect(), holders: vec![0; pages as usize], promised: 0 }
    }

    /// Pages of the pool.
    pub fn pages(&self) -> usize {
        self.holders.len()
    }

    /// Pages that are neither held nor promised.
    pub fn available(&self) -> usize {
        self.free.len() - self.promised
    }

    /// Promises pages; false if they are not available.
    pub(super) fn promise(&mut self, pages: usize) -> bool {
        let granted = pages <= self.available();
        self.promised += if granted { pages } else { 0 };
        granted
    }

    /// Takes promises back.
    pub(super) fn withdraw(&mut self, pages: usize) {
        self.promised = self.promised.checked_sub(pages).expect("only promised pages are withdrawn");
    }

    /// A page for one promise.
    pub(super) fn take(&mut self) -> u32 {
        self.withdraw(1);
        let page = self.free.pop().expect("promised pages are free");
        self.holders[page as usize] = 1;
        page
    }

    /// One more holder of a held page.
    pub(super) fn share(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        assert!(*holders > 0, "only held pages are shared");
        *holders += 1;
    }

    /// Whether others hold the page too.
    pub(super) fn is_shared(&self, page: u32) -> bool {
        self.holders[page as usize] > 1
    }

    /// One holder less.
    pub(super) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("only held pages are released");
        if *holders == 0 {
            self.free.push(page);
        }
    }
}
