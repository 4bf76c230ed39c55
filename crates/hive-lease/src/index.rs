//! Which of many items is next: kept in order of time, so that ten thousand leases cost no more than a few to look at.

use std::collections::BTreeSet;

use crate::gate::Gate;
use crate::moment::Moment;

type Queue = BTreeSet<(Moment, u32)>;

/// What an item says of itself to the index.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Marks {
    /// When it is to be acted on.
    pub(crate) due: Option<Moment>,
    /// That is a repetition of something that failed.
    pub(crate) is_retry: bool,
    /// When the call about it is given up.
    pub(crate) call_by: Option<Moment>,
    /// When it ends.
    pub(crate) end: Option<Moment>,
    /// From when on another should take its place.
    pub(crate) replace: Option<Moment>,
    pub(crate) is_held: bool,
    pub(crate) is_unsettled: bool,
    pub(crate) is_wanted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    first: Queue,
    retries: Queue,
    calls: Queue,
    ends: Queue,
    replace: Queue,
    pub(crate) failing: usize,
    pub(crate) held: usize,
    /// Without the token.
    pub(crate) unsettled: usize,
    pub(crate) wanted: usize,
}

impl Index {
    pub(crate) fn update(&mut self, place: u32, before: Marks, after: Marks) {
        if before != after {
            self.remove(place, before);
            self.insert(place, after);
        }
    }

    pub(crate) fn insert(&mut self, place: u32, marks: Marks) {
        let add = |queue: &mut Queue, moment: Option<Moment>| {
            queue.extend(moment.map(|moment| (moment, place)));
        };
        add(self.due_queue(marks.is_retry), marks.due);
        add(&mut self.calls, marks.call_by);
        add(&mut self.ends, marks.end);
        add(&mut self.replace, marks.replace);
        self.failing += usize::from(marks.is_retry);
        self.held += usize::from(marks.is_held);
        self.unsettled += usize::from(marks.is_unsettled);
        self.wanted += usize::from(marks.is_wanted);
    }

    fn remove(&mut self, place: u32, marks: Marks) {
        let take = |queue: &mut Queue, moment: Option<Moment>| {
            if let Some(moment) = moment {
                queue.remove(&(moment, place));
            }
        };
        take(self.due_queue(marks.is_retry), marks.due);
        take(&mut self.calls, marks.call_by);
        take(&mut self.ends, marks.end);
        take(&mut self.replace, marks.replace);
        self.failing -= usize::from(marks.is_retry);
        self.held -= usize::from(marks.is_held);
        self.unsettled -= usize::from(marks.is_unsettled);
        self.wanted -= usize::from(marks.is_wanted);
    }

    fn due_queue(&mut self, is_retry: bool) -> &mut Queue {
        if is_retry { &mut self.retries } else { &mut self.first }
    }

    /// The next item to act on that the gate lets through, and whether it is a repetition.
    pub(crate) fn next_due(&self, now: Moment, gate: &Gate) -> Option<(u32, bool)> {
        let due = |queue: &Queue, is_retry| {
            let (moment, place) = *queue.first()?;
            (moment <= now && gate.admits(now, is_retry)).then_some((place, is_retry))
        };
        due(&self.first, false).or_else(|| due(&self.retries, true))
    }

    /// When there is something to do that the gate lets through.
    pub(crate) fn due_at(&self, gate: &Gate) -> Option<Moment> {
        let first = self.first.first().map(|(moment, _)| *moment);
        let retry = self.retries.first().map(|(moment, _)| (*moment).max(gate.retry_at()));
        [first, retry].into_iter().flatten().min().filter(|_| gate.has_room())
    }

    pub(crate) fn next_overdue_call(&self, now: Moment) -> Option<u32> {
        self.calls.first().filter(|(by, _)| *by <= now).map(|(_, place)| *place)
    }

    pub(crate) fn next_ended(&self, now: Moment) -> Option<u32> {
        self.ends.first().filter(|(end, _)| *end <= now).map(|(_, place)| *place)
    }

    pub(crate) fn call_by(&self) -> Option<Moment> {
        self.calls.first().map(|(by, _)| *by)
    }

    pub(crate) fn end_at(&self) -> Option<Moment> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// From when on the first of them should be replaced, and which it is.
    pub(crate) fn replace(&self) -> Option<(Moment, u32)> {
        self.replace.first().copied()
    }
}
