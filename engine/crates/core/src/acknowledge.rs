//! Answers that wait for the disk: a push source answers only what its journal has made durable (I4).

use std::collections::VecDeque;

use crate::guards::{self, Guard};

/// Answers in the order of their offsets.
#[derive(Debug)]
pub struct Acknowledgements<T> {
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for Acknowledgements<T> {
    fn default() -> Acknowledgements<T> {
        Acknowledgements { waiting: VecDeque::new() }
    }
}

impl<T> Acknowledgements<T> {
    /// An answer that may be given once everything below `end` is durable. Offsets come in ascending order.
    pub fn push(&mut self, end: u64, answer: T) {
        debug_assert!(self.waiting.back().is_none_or(|(last, _)| *last <= end), "offsets are given in order");
        self.waiting.push_back((end, answer));
    }

    /// Takes the answers that may be given now that the journal is durable up to `durable`.
    pub fn take(&mut self, durable: u64) -> impl Iterator<Item = T> {
        let ready = match guards::off(Guard::AcknowledgeAfterSync) {
            true => self.waiting.len(),
            false => self.waiting.partition_point(|(end, _)| *end <= durable),
        };
        self.waiting.drain(..ready).map(|(_, answer)| answer)
    }

    /// Takes all answers: the journal failed, and none may be given.
    pub fn fail(&mut self) -> impl Iterator<Item = T> {
        self.waiting.drain(..).map(|(_, answer)| answer)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_waits_for_the_end_of_its_record() {
        let mut answers = Acknowledgements::default();
        for (end, answer) in [(3, "a"), (5, "b"), (5, "c"), (9, "d")] {
            answers.push(end, answer);
        }
        assert_eq!(answers.take(2).count(), 0);
        assert_eq!(answers.take(5).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(answers.fail().collect::<Vec<_>>(), ["d"]);
        assert!(answers.is_empty());
    }
}
