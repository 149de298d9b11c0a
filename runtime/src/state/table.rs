//! Rows of the page tables on the device: which are free, and what each was last told.

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
        self.free.pop().map(|row| TableRow { row, known: vec![] })
    }

    /// Gives a row back.
    pub fn give_back(&mut self, row: TableRow) {
        self.free.push(row.row);
    }
}

/// One sequence's row of every table and the pages that the device knows of it.
#[derive(Debug)]
pub struct TableRow {
    row: u32,
    /// By table; empty while the device still knows the pages of the row's last holder.
    known: Vec<Vec<u32>>,
}

impl TableRow {
    /// Its number.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// What to tell the device so that it knows the sequence's pages; nothing if it does.
    pub fn update(&mut self, sequence: &Sequence) -> Vec<TableUpdate> {
        let fresh = self.known.is_empty();
        let mut updates = vec![];
        for (table, (window, pages)) in sequence.tables().enumerate() {
            if fresh {
                self.known.push(vec![]);
            }
            let known = &mut self.known[table];
            let first = known.iter().zip(pages).take_while(|(known, page)| known == page).count();
            if fresh || first < known.len() || first < pages.len() {
                known.truncate(first);
                known.extend_from_slice(&pages[first..]);
                updates.push(TableUpdate { window, row: self.row, first, pages: pages[first..].to_vec() });
            }
        }
        updates
    }
}
