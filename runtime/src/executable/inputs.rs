//! Writing of a step's inputs: ids, positions, page tables and rope tables. Rope tables are computed in f64, since at
//! position 100 000 an f32 angle is wrong in its third digit.

use swiftlm_device::DeviceError;
use swiftlm_ir::graph::RopeTable;
use swiftlm_ir::plan::Input;

use super::{Batch, Executable};

/// A rope table and the memory for a step's rows of it.
#[derive(Debug)]
pub(super) struct RopeRows {
    table: RopeTable,
    rows: Vec<f32>,
}

impl RopeRows {
    pub(super) fn new(table: RopeTable) -> Self {
        Self { table, rows: vec![] }
    }

    /// The row of each position: `dim/2` cosines, then `dim/2` sines, times the magnitude.
    fn fill(&mut self, positions: &[u32]) -> &[f32] {
        let half = self.table.inverse_frequencies.len();
        self.rows.clear();
        self.rows.resize(positions.len() * 2 * half, 0.0);
        for (row, position) in self.rows.chunks_exact_mut((2 * half).max(1)).zip(positions) {
            let (cosines, sines) = row.split_at_mut(half);
            for (i, frequency) in self.table.inverse_frequencies.iter().enumerate() {
                let (sine, cosine) = (f64::from(*position) * frequency).sin_cos();
                cosines[i] = (cosine * self.table.magnitude) as f32;
                sines[i] = (sine * self.table.magnitude) as f32;
            }
        }
        &self.rows
    }
}

impl Executable {
    /// Writes everything a checked batch gives to kernels.
    pub(super) fn write_inputs(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let Self { device, bindings, ropes, tables, table_stride, .. } = self;
        for update in &batch.table {
            let row = update.row as usize;
            if let Some(table) = tables.iter_mut().find(|table| table.set.window == update.window) {
                table.held[row] = update.first + update.pages.len();
            }
            if !update.pages.is_empty() {
                let offset = (row * *table_stride + update.first) * 4;
                let input = Input::PageTable(update.window);
                device.write(bindings.input(input), offset, bytemuck::cast_slice(&update.pages))?;
            }
        }
        let words: [(Input, &[u32]); 3] =
            [(Input::Ids, &batch.ids), (Input::Positions, &batch.positions), (Input::Sequences, &batch.sequences)];
        for (input, values) in words {
            device.write(bindings.input(input), 0, bytemuck::cast_slice(values))?;
        }
        if !batch.rows.is_empty() {
            let rows: Vec<u32> = batch.rows.iter().map(|r| r.token).collect();
            device.write(bindings.input(Input::Rows), 0, bytemuck::cast_slice(&rows))?;
        }
        for (i, rope) in ropes.iter_mut().enumerate() {
            let rows = rope.fill(&batch.positions);
            device.write(bindings.input(Input::RopeTable(i)), 0, bytemuck::cast_slice(rows))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_cosines_then_sines_times_the_magnitude() {
        let table = RopeTable { inverse_frequencies: vec![std::f64::consts::FRAC_PI_2, 0.0], magnitude: 2.0 };
        let mut rope = RopeRows::new(table);
        let rows = rope.fill(&[0, 1, 2]);
        let expected = [[2.0, 2.0, 0.0, 0.0], [0.0, 2.0, 2.0, 0.0], [-2.0, 2.0, 0.0, 0.0]];
        for (got, want) in rows.chunks(4).zip(expected) {
            assert!(got.iter().zip(want).all(|(g, w): (&f32, f32)| (g - w).abs() < 1e-6), "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn far_positions_keep_their_phase() {
        // 125 000 whole turns and a quarter: an f32 angle would be off by hundredths of a radian.
        let table = RopeTable { inverse_frequencies: vec![std::f64::consts::TAU / 4.0], magnitude: 1.0 };
        let mut rope = RopeRows::new(table);
        let rows = rope.fill(&[500_001]);
        assert!(rows[0].abs() < 1e-6 && (rows[1] - 1.0).abs() < 1e-6, "{rows:?}");
    }
}
