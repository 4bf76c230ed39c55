//! What only shows when all tickets are seen together.

use std::collections::BTreeMap;

use super::notes::Notes;
use super::parameters::Reference;
use super::tickets::{Draft, Placed};
use crate::kinds;
use crate::plan::TICKETS_MAX;

/// How many names of a cycle are shown; a longer one is cut in the middle.
const CYCLE_SHOWN: usize = 16;

/// Notes duplicate names, missing dependencies, cycles and references that cannot be resolved.
pub(super) fn check(drafts: &[Draft], notes: &mut Notes) {
    let index = index(drafts, notes);
    let graph = Graph::new(drafts, &index, notes);
    graph.check_cycles(notes);
    for (from, draft) in drafts.iter().enumerate().filter(|(_, d)| !d.references.is_empty()) {
        let reachable = graph.reachable(from);
        for reference in &draft.references {
            check_reference(reference, drafts, &index, &reachable, notes);
        }
    }
}

type Index<'d> = BTreeMap<&'d str, usize>;

fn index<'d>(drafts: &'d [Draft], notes: &mut Notes) -> Index<'d> {
    let mut index = Index::new();
    let mut lines = BTreeMap::new();
    for (position, draft) in drafts.iter().enumerate() {
        let Some(Placed { at, name }) = &draft.name else { continue };
        if let Some(line) = lines.get(name.as_str()) {
            let message = format!("duplicate ticket name `{name}`: it is already on line {line}");
            notes.add(*at, message);
        } else {
            index.insert(name.as_str(), position);
            lines.insert(name.as_str(), at.line);
        }
    }
    index
}

fn check_reference(
    reference: &Reference,
    drafts: &[Draft],
    index: &Index<'_>,
    reachable: &Bits,
    notes: &mut Notes,
) {
    let Reference { at, ticket, output } = reference;
    let Some(target) = index.get(ticket.as_str()) else {
        let names = index.keys().copied();
        notes.add_unknown(*at, "ticket in a reference", ticket, names);
        return;
    };
    if !reachable.contains(*target) {
        let message = format!("`${{{ticket}.{output}}}`: add `{ticket}` to `needs`");
        notes.add(*at, format!("{message}, or it may not be done by then"));
    }
    let Some(kind) = drafts[*target].kind else { return };
    let outputs = kinds::of(kind).outputs;
    if outputs.is_empty() {
        notes.add(*at, format!("`{ticket}` ({kind}) puts nothing out"));
    } else if !outputs.contains(&output.as_str()) {
        let what = format!("output of `{ticket}` ({kind}):");
        notes.add_unknown(*at, &what, output, outputs.iter().copied());
    }
}

/// Who needs whom, by position in the file.
struct Graph<'d> {
    drafts: &'d [Draft],
    /// For each ticket: what it needs, and which entry of its `needs` says so.
    needs: Vec<Vec<(usize, &'d Placed)>>,
    /// The same as sets.
    rows: Vec<Bits>,
}

impl<'d> Graph<'d> {
    fn new(drafts: &'d [Draft], index: &Index<'d>, notes: &mut Notes) -> Self {
        let mut resolve = |need: &'d Placed| {
            let target = index.get(need.name.as_str());
            if target.is_none() {
                let names = index.keys().copied();
                notes.add_unknown(need.at, "ticket", need.name.as_str(), names);
            }
            target.map(|target| (*target, need))
        };
        let edges = |draft: &'d Draft| draft.needs.iter().filter_map(&mut resolve).collect();
        let needs: Vec<Vec<_>> = drafts.iter().map(edges).collect();
        let rows = needs.iter().map(|row| row.iter().map(|(to, _)| *to).collect()).collect();
        Self { drafts, needs, rows }
    }

    /// Everything that `from` needs, directly or not.
    fn reachable(&self, from: usize) -> Bits {
        let mut seen = Bits::default();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            seen.absorb(&self.rows[at], |fresh| open.push(fresh));
        }
        seen
    }

    /// Notes each need that closes a cycle, in a walk that follows every need once.
    fn check_cycles(&self, notes: &mut Notes) {
        let mut visited = Bits::default();
        for root in 0..self.drafts.len() {
            if visited.insert(root) {
                self.walk(root, &mut visited, notes);
            }
        }
    }

    fn walk(&self, root: usize, visited: &mut Bits, notes: &mut Notes) {
        // Each step of the path, and how many of its needs have been followed.
        let mut path = vec![(root, 0)];
        let mut on_path = Bits::from_iter([root]);
        while let Some((at, followed)) = path.last_mut() {
            let Some((to, need)) = self.needs[*at].get(*followed) else {
                on_path.remove(*at);
                path.pop();
                continue;
            };
            *followed += 1;
            if on_path.contains(*to) {
                notes.add(need.at, self.cycle(&path, *to));
            } else if visited.insert(*to) {
                on_path.insert(*to);
                path.push((*to, 0));
            }
        }
    }

    /// Describes the cycle from `start` along `path` and back.
    fn cycle(&self, path: &[(usize, usize)], start: usize) -> String {
        let name = |step: usize| {
            self.drafts[step].name.as_ref().map_or("?", |placed| placed.name.as_str())
        };
        let on_cycle = path.iter().map(|(step, _)| *step).skip_while(|step| *step != start);
        let mut names: Vec<&str> = on_cycle.chain([start]).map(name).collect();
        if names.len() == 2 {
            return format!("`{}` needs itself", names[0]);
        }
        if names.len() > CYCLE_SHOWN {
            names.splice(CYCLE_SHOWN - 2..names.len() - 1, ["…"]);
        }
        format!("these tickets need one another in a circle: {}", names.join(" → "))
    }
}

/// A set of positions. Plans of many tickets with many needs are walked a word at a time.
#[derive(Default)]
struct Bits {
    words: [u64; TICKETS_MAX.div_ceil(64)],
}

impl Bits {
    fn contains(&self, position: usize) -> bool {
        self.words[position / 64] & (1 << (position % 64)) != 0
    }

    /// Whether it was not there before.
    fn insert(&mut self, position: usize) -> bool {
        let is_new = !self.contains(position);
        self.words[position / 64] |= 1 << (position % 64);
        is_new
    }

    fn remove(&mut self, position: usize) {
        self.words[position / 64] &= !(1 << (position % 64));
    }

    /// Takes over all of `other`, and tells of each that was not there before.
    fn absorb(&mut self, other: &Self, mut fresh: impl FnMut(usize)) {
        for (at, word) in other.words.iter().enumerate() {
            let mut new = word & !self.words[at];
            self.words[at] |= word;
            while new != 0 {
                fresh(at * 64 + new.trailing_zeros() as usize);
                new &= new - 1;
            }
        }
    }
}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        let mut bits = Self::default();
        for position in positions {
            bits.insert(position);
        }
        bits
    }
}
