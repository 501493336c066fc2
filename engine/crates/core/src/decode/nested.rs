//! The fast path for rows of which members of members are read: as `template`, but what is guessed between two values may
//! also close and open objects, as in `},"position":{"lat":`.

use super::columns::Rows;
use super::layout::{Layout, Node, ROOT, Slot, Target, UNKNOWN};
use super::template::{Context, MAX_GUESSES, MAX_MEMBERS, MAX_PATTERN_BYTES, Member, fill_missing, read_value};
use super::text::{self, Breaks};

/// Objects that this reader tells apart, the row included: a bit each. With more every row goes to the general parser.
pub(super) const MAX_NODES: usize = u128::BITS as usize;

/// The expected order of values.
#[derive(Debug, Default)]
pub(super) struct NestedTemplate {
    /// By number of the value in its row: what may stand before it, what stood there last first.
    places: Vec<Vec<Guess>>,
    /// What a line break was when they were learnt.
    breaks: Option<Breaks>,
}

#[derive(Debug)]
struct Guess {
    member: Member,
    /// The object that the value before it was a member of.
    from: Node,
    step: Step,
}

/// What stands between two values, and what comes then.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Bytes of it.
    length: usize,
    /// Objects that it opens, or of which it says that they are null: a bit each.
    opens: u128,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    /// A member's value, in `node` and so in `outer` objects.
    Value { slot: Slot, node: Node, outer: usize },
    /// The next member of `node`: an object that could have been here was null.
    Member(Node),
    /// The row has ended.
    End,
}

impl NestedTemplate {
    /// Prepares for a body; a line break in a learnt place would be wrong where it ends the row.
    pub fn begin(&mut self, breaks: Breaks) {
        if self.breaks != Some(breaks) {
            self.places.clear();
            self.breaks = Some(breaks);
        }
    }

    /// Reads the object at `at` into uncommitted values of `rows` and gives the position after it. `None`: leave it to
    /// the general parser after a roll-back.
    #[inline(never)]
    pub fn read_object(&mut self, context: &Context, rows: &mut Rows, bytes: &[u8], mut at: usize) -> Option<usize> {
        let (mut found, mut index, mut current, mut seen) = (0, 0, ROOT, 0u128);
        loop {
            let step = match self.guess(bytes, at, index, current) {
                Some(step) => step,
                None => self.learn(context, bytes, at, index, current)?,
            };
            // the same object twice: the last counts, as a whole
            if seen & step.opens != 0 {
                return None;
            }
            seen |= step.opens;
            at += step.length;
            index += 1;
            match step.then {
                Then::End => break,
                Then::Member(node) => current = node,
                Then::Value { slot, node, outer } => {
                    current = node;
                    let known;
                    (at, known) = read_value(context, rows, slot, bytes, at, outer)?;
                    found += usize::from(known);
                }
            }
        }
        if found < context.layout.slots_of_rows() {
            fill_missing(context.layout, rows)?;
        }
        Some(at)
    }

    #[inline(always)]
    fn guess(&mut self, bytes: &[u8], at: usize, index: usize, from: Node) -> Option<Step> {
        let guesses = self.places.get_mut(index)?;
        let matches = |guess: &Guess| guess.from == from && guess.member.matches(bytes, at);
        if guesses.first().is_some_and(matches) {
            return Some(guesses[0].step);
        }
        let right = guesses.iter().position(matches)?;
        guesses.swap(0, right);
        Some(guesses[0].step)
    }

    /// Reads what stands between two values the long way and expects it here in the next object.
    #[cold]
    #[inline(never)]
    fn learn(&mut self, context: &Context, bytes: &[u8], start: usize, index: usize, from: Node) -> Option<Step> {
        let step = read_step(context, bytes, start, index == 0, from)?;
        if index < MAX_MEMBERS && step.length <= MAX_PATTERN_BYTES {
            let member = Member::new(&bytes[start..start + step.length], UNKNOWN);
            let guess = Guess { member, from, step };
            if let Some(guesses) = self.places.get_mut(index) {
                guesses.insert(0, guess);
                guesses.truncate(MAX_GUESSES);
            } else if index == self.places.len() {
                self.places.push(vec![guess]);
            }
        }
        Some(step)
    }
}

/// Reads from behind a value, or from the row's start, to the next value.
fn read_step(context: &Context, bytes: &[u8], start: usize, is_start: bool, from: Node) -> Option<Step> {
    let Context { layout, breaks, .. } = *context;
    let space = |at| text::skip_whitespace(bytes, at, breaks);
    let (mut node, mut opens, mut at) = (from, 0u128, start);
    // whether the object has no member yet, so that none is behind a comma
    let mut fresh = is_start;
    if is_start {
        at = space(at);
        if bytes.get(at) != Some(&b'{') {
            return None;
        }
        at += 1;
    }
    loop {
        at = space(at);
        match bytes.get(at)? {
            b'}' if node == ROOT => return Some(Step { length: at + 1 - start, opens, then: Then::End }),
            b'}' => {
                node = layout.parent(node);
                fresh = false;
                at += 1;
                continue;
            }
            b',' if !fresh => at = space(at + 1),
            b'"' if fresh => {}
            _ => return None,
        }
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let name_end = text::string_end(bytes, at + 1)?;
        let target = layout.target(node, &bytes[at + 1..name_end]);
        at = space(name_end + 1);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        at = space(at + 1);
        match target {
            Target::Value(slot) => {
                let then = Then::Value { slot, node, outer: depth(layout, node) };
                return Some(Step { length: at - start, opens, then });
            }
            Target::Object(inner) => {
                if opens & 1 << inner != 0 {
                    return None;
                }
                opens |= 1 << inner;
                if let Some(end) = text::literal(bytes, at, b"null") {
                    return Some(Step { length: end - start, opens, then: Then::Member(node) });
                }
                if bytes.get(at) != Some(&b'{') {
                    return None;
                }
                (node, fresh, at) = (inner, true, at + 1);
            }
        }
    }
}

/// Objects that are open inside of a member of `node`.
fn depth(layout: &Layout, mut node: Node) -> usize {
    let mut depth = 1;
    while node != ROOT {
        node = layout.parent(node);
        depth += 1;
    }
    depth
}
