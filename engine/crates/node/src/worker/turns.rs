//! Whose turn it is: rows that others bring come first, but a file is read on beside them.

/// A worker that always has something else to do reads a chunk of a file after so many steps.
const STEPS_A_CHUNK: u32 = 16;

/// Counts the steps since a file had its turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    steps: u32,
}

impl Turns {
    /// Whether a chunk of a file may be read now, after a step that did something (`worked`) or did not.
    pub fn is_files_turn(&mut self, worked: bool) -> bool {
        self.steps += 1;
        let turn = !worked || self.steps >= STEPS_A_CHUNK;
        if turn {
            self.steps = 0;
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_at_once_where_nothing_else_is_to_do_and_goes_on_where_there_always_is() {
        let mut turns = Turns::default();
        assert!(turns.is_files_turn(false) && turns.is_files_turn(false));
        let busy: Vec<bool> = (0..3 * STEPS_A_CHUNK).map(|_| turns.is_files_turn(true)).collect();
        assert_eq!(busy.iter().filter(|turn| **turn).count(), 3);
    }
}
