//! The queue against a clock of the test's own.

use super::*;
use crate::store::Claim;
use hive_plan::{Direction, PlanId, TicketName};

const TTL: Duration = Duration::from_secs(5);

fn at(ms: i64) -> UnixMillis {
    UnixMillis(ms)
}

fn queued(name: &str, kind: TicketKind, not_before: i64) -> Work {
    let plan = PlanId::parse("p1").expect("a plan ID");
    let name = TicketName::parse(name).expect("a name");
    let ticket = TicketId::new(plan, name, Direction::Forward);
    Work { ticket, kind, attempt: 1, not_before: at(not_before), claim: None }
}

fn claimed(work: &Work, number: u64, deadline: i64) -> Work {
    let worker = "spiffe://example.org/w1".to_owned();
    let claim = Claim { number, worker, deadline: at(deadline), stop: None };
    Work { claim: Some(claim), ..work.clone() }
}

fn queue_of(works: &[Work]) -> Queue {
    let mut queue = Queue::new(TTL);
    for work in works {
        queue.apply(at(0), Change::Put(work.clone()));
    }
    queue
}

fn next(queue: &Queue, now: i64, kinds: &[TicketKind]) -> Option<String> {
    queue.next(at(now), kinds).map(|work| work.ticket.ticket.to_string())
}

#[test]
fn the_first_to_begin_is_handed_out_first_and_only_to_those_who_offer_its_kind() {
    let queue = queue_of(&[
        queued("later", TicketKind::Build, 20),
        queued("first", TicketKind::Build, 10),
        queued("second", TicketKind::Build, 10),
        queued("test", TicketKind::Test, 5),
    ]);
    assert_eq!(next(&queue, 100, &[TicketKind::Build]).as_deref(), Some("first"));
    assert_eq!(next(&queue, 100, &[TicketKind::Build, TicketKind::Test]).as_deref(), Some("test"));
    assert_eq!(next(&queue, 100, &[TicketKind::Query]), None);
}

#[test]
fn work_waits_for_its_back_off() {
    let queue = queue_of(&[queued("build", TicketKind::Build, 10)]);
    assert_eq!(next(&queue, 9, &[TicketKind::Build]), None);
    assert_eq!(queue.next_timer(at(9)), Some(at(10)));
    assert_eq!(next(&queue, 10, &[TicketKind::Build]).as_deref(), Some("build"));
    assert_eq!(queue.next_timer(at(10)), None);
}

#[test]
fn a_claim_runs_out_unless_it_is_extended() {
    let build = queued("build", TicketKind::Build, 0);
    let mut queue = queue_of(std::slice::from_ref(&build));
    queue.apply(at(0), Change::Put(claimed(&build, 7, 60_000)));
    assert_eq!(next(&queue, 0, &[TicketKind::Build]), None);
    assert_eq!(queue.next_timer(at(0)), Some(at(5_000)));
    queue.extend(at(4_000), 7);
    assert_eq!(queue.expired(at(8_999)), [0; 0]);
    assert_eq!(queue.expired(at(9_000)), [7]);
    queue.apply(at(9_000), Change::Put(build));
    assert!(queue.claimed(7).is_none());
    assert_eq!(queue.expired(at(99_000)), [0; 0]);
    assert_eq!(next(&queue, 9_000, &[TicketKind::Build]).as_deref(), Some("build"));
}

#[test]
fn extending_does_not_help_beyond_the_deadline_and_its_grace() {
    let build = queued("build", TicketKind::Build, 0);
    let mut queue = queue_of(&[claimed(&build, 7, 1_000)]);
    queue.extend(at(30_000), 7);
    assert_eq!(queue.expired(at(30_999)), [0; 0]);
    assert_eq!(queue.expired(at(31_000)), [7]);
}

#[test]
fn being_told_to_stop_does_not_lengthen_a_claim() {
    let build = claimed(&queued("build", TicketKind::Build, 0), 7, 60_000);
    let mut queue = queue_of(std::slice::from_ref(&build));
    let mut stopped = build.clone();
    stopped.claim.as_mut().expect("it is claimed").stop = Some("enough".to_owned());
    queue.apply(at(3_000), Change::Put(stopped.clone()));
    assert_eq!(queue.claimed(7), Some(&stopped));
    assert_eq!(queue.next_timer(at(3_000)), Some(at(5_000)));
}

#[test]
fn removed_work_leaves_nothing_behind() {
    let (build, test) =
        (queued("build", TicketKind::Build, 9), queued("test", TicketKind::Test, 0));
    let test = claimed(&test, 7, 60_000);
    let mut queue = queue_of(&[build.clone(), test.clone()]);
    for work in [build, test] {
        queue.apply(at(1), Change::Remove(work.ticket));
    }
    assert_eq!(queue.next_timer(at(0)), None);
    assert!(queue.work.is_empty() && queue.claims.is_empty() && queue.expiries.is_empty());
    assert!(queue.queued.values().all(BTreeMap::is_empty));
}
