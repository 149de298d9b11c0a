//! Rows of the page table on the device: which are free, and what each was last told.

use super::Sequence;
use crate::executable::TableUpdate;

/// The rows that no sequence has.
#[derive(Clone, Debug)]
pub struct TableRows {
    free: Vec<u32>,
}

impl TableRows {
    /// `rows` free rows.
    pub fn new(rows: usize) -> Self {
        Self { free: (0..u32::try_from(rows).unwrap_or(u32::MAX)).rev().collect() }
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// A row, if one is free.
    pub fn take(&mut self) -> Option<TableRow> {
        self.free.pop().map(|row| TableRow { row, fresh: true, known: vec![] })
    }

    /// Gives a row back.
    pub fn give_back(&mut self, row: TableRow) {
        self.free.push(row.row);
    }
}

/// One sequence's row and the pages that the device knows of it.
#[derive(Debug)]
pub struct TableRow {
    row: u32,
    /// The device still knows the pages of the row's last holder.
    fresh: bool,
    known: Vec<u32>,
}

impl TableRow {
    /// Its number.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// What to tell the device so that it knows the sequence's pages; `None` if it does.
    pub fn update(&mut self, sequence: &Sequence) -> Option<TableUpdate> {
        let pages = sequence.pages();
        let first = self.known.iter().zip(pages).take_while(|(known, page)| known == page).count();
        if !self.fresh && first == self.known.len() && first == pages.len() {
            return None;
        }
        self.fresh = false;
        self.known.truncate(first);
        self.known.extend_from_slice(&pages[first..]);
        Some(TableUpdate { row: self.row, first, pages: pages[first..].to_vec() })
    }
}
