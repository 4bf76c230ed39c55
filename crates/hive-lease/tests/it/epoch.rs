//! One situation each: what goes in, what must come out.

use std::time::Duration;

use hive_lease::{
    Action, Failure, Grant, Input, LeaseId, Lifecycle, Moment, Policy, Reason, Roll, Subject,
    Target, Want,
};

const ZERO: Moment = Moment::after(Duration::ZERO);
const LEASE: Subject = Subject::Lease(0);

fn at(seconds: f64) -> Moment {
    Moment::after(Duration::from_secs_f64(seconds))
}

fn grant(ttl_s: u64) -> Grant {
    Grant { ttl: Duration::from_secs(ttl_s), renewable: true }
}

fn failed(subject: Subject, failure: Failure) -> Input {
    Input::Failed { subject, failure, roll: Roll::new(0.0) }
}

const LATER: Failure = Failure::Transient { wait: None };

fn issued(request: usize, ttl_s: u64) -> Input {
    let id = LeaseId::new(format!("database/creds/app/{request}"));
    Input::Issued { request, sent: ZERO, lease: Some((id, grant(ttl_s))) }
}

fn actions(epoch: &mut Lifecycle) -> Vec<Action> {
    std::iter::from_fn(|| epoch.poll_action()).collect()
}

fn fresh(wants: &[Want]) -> Lifecycle {
    let mut epoch = Lifecycle::new(Policy::default(), wants.iter().copied(), ZERO, at(10.0));
    assert_eq!(actions(&mut epoch), [Action::Login]);
    epoch
}

fn logged_in(wants: &[Want], token_ttl_s: u64) -> Lifecycle {
    let mut epoch = fresh(wants);
    epoch.handle(ZERO, Input::LoggedIn { sent: ZERO, grant: grant(token_ttl_s) });
    assert_eq!(actions(&mut epoch).len(), wants.len());
    epoch
}

const REQUIRED: Want = Want { optional: false, refresh: None };
const OPTIONAL: Want = Want { optional: true, refresh: None };

fn serving(token_ttl_s: u64, lease_ttl_s: u64) -> Lifecycle {
    let mut epoch = logged_in(&[REQUIRED], token_ttl_s);
    epoch.handle(ZERO, issued(0, lease_ttl_s));
    assert_eq!(actions(&mut epoch), [Action::Serve]);
    epoch
}

fn lease_target() -> Target {
    Target::Lease { request: 0, id: LeaseId::new("database/creds/app/0") }
}

#[test]
fn the_epoch_is_served_until_the_first_hard_expiry_of_token_or_lease() {
    for (token, lease, hard) in [(100, 60, 58), (20, 60, 18), (1000, 2000, 990)] {
        let epoch = serving(token, lease);
        assert_eq!(epoch.hard_expiry(), Some(at(f64::from(hard))), "token {token}, lease {lease}");
        assert!(
            epoch.is_serving(at(f64::from(hard) - 0.001)) && !epoch.is_serving(at(f64::from(hard)))
        );
    }
}

#[test]
fn life_is_counted_from_the_request_and_not_from_the_answer() {
    let mut epoch = fresh(&[]);
    epoch.handle(at(5.0), Input::LoggedIn { sent: ZERO, grant: grant(100) });
    assert_eq!(epoch.hard_expiry(), Some(at(98.0)));
}

#[test]
fn token_and_lease_are_renewed_each_in_its_own_time() {
    let mut epoch = serving(100, 60);
    epoch.handle_timeout(at(34.4));
    assert_eq!(actions(&mut epoch), []);
    epoch.handle_timeout(at(34.5));
    let ask = Duration::from_secs(60);
    assert_eq!(actions(&mut epoch), [Action::Renew { target: lease_target(), ask }]);
    epoch.handle(at(34.6), Input::Renewed { subject: LEASE, sent: at(34.5), grant: grant(60) });
    epoch.handle_timeout(at(57.5));
    let ask = Duration::from_secs(100);
    assert_eq!(actions(&mut epoch), [Action::Renew { target: Target::Token, ask }]);
    assert_eq!(epoch.hard_expiry(), Some(at(34.5 + 58.0)));
}

#[test]
fn a_failed_renewal_keeps_serving_until_the_hard_expiry() {
    let mut epoch = serving(1000, 60);
    let mut now = at(34.5);
    let mut attempts = 0;
    while epoch.is_serving(now) {
        epoch.handle_timeout(now);
        attempts += actions(&mut epoch).len();
        epoch.handle(now, failed(LEASE, LATER));
        now = epoch.poll_timeout().expect("it waits for the next attempt or the end");
    }
    assert_eq!(now, at(58.0));
    assert!((20..=100).contains(&attempts), "{attempts}");
    epoch.handle_timeout(now);
    let revoke = Action::Revoke { target: lease_target() };
    assert_eq!(actions(&mut epoch), [Action::Withdraw, revoke]);
    assert_eq!(epoch.reason(), Some(Reason::Expired(LEASE)));
}

#[test]
fn a_refused_renewal_is_not_repeated_and_gives_its_reason_at_the_end() {
    let mut epoch = serving(1000, 60);
    epoch.handle_timeout(at(34.5));
    epoch.handle(at(34.6), failed(LEASE, Failure::Denied));
    assert_eq!((actions(&mut epoch).len(), epoch.poll_timeout()), (1, Some(at(58.0))));
    epoch.handle_timeout(at(58.0));
    assert_eq!(epoch.reason(), Some(Reason::Denied(LEASE)));
}

#[test]
fn a_truncated_renewal_is_not_asked_for_again() {
    let mut epoch = serving(1000, 60);
    epoch.handle_timeout(at(34.5));
    epoch.handle(at(34.6), Input::Renewed { subject: LEASE, sent: at(34.5), grant: grant(40) });
    assert_eq!(epoch.poll_timeout(), Some(at(34.5 + 38.0)));
    epoch.handle_timeout(at(72.5));
    assert_eq!(epoch.reason(), Some(Reason::MaxTtl(LEASE)));
}

#[test]
fn a_lease_that_is_gone_ends_the_epoch_at_once() {
    let mut epoch = serving(1000, 60);
    epoch.handle_timeout(at(34.5));
    actions(&mut epoch);
    epoch.handle(at(34.6), failed(LEASE, Failure::Gone));
    assert_eq!(actions(&mut epoch), [Action::Withdraw, Action::Revoke { target: Target::Token }]);
    assert_eq!(epoch.reason(), Some(Reason::Gone(LEASE)));
}

#[test]
fn a_token_that_is_gone_takes_its_leases_along() {
    let mut epoch = serving(60, 1000);
    epoch.handle_timeout(at(34.5));
    actions(&mut epoch);
    epoch.handle(at(34.6), failed(Subject::Token, Failure::Gone));
    assert_eq!(actions(&mut epoch), [Action::Withdraw]);
    assert!(epoch.is_done() && epoch.report().left.is_empty());
}

#[test]
fn only_what_does_not_exist_may_be_skipped() {
    let table = [
        (OPTIONAL, Failure::Absent, None),
        (REQUIRED, Failure::Absent, Some(Reason::Missing(LEASE))),
        (OPTIONAL, Failure::Denied, Some(Reason::Refused(LEASE))),
        (OPTIONAL, Failure::Uncertain, Some(Reason::Uncertain(LEASE))),
    ];
    for (want, failure, reason) in table {
        let mut epoch = logged_in(&[want], 100);
        epoch.handle(ZERO, failed(LEASE, failure));
        assert_eq!(
            (epoch.reason(), epoch.is_serving(ZERO)),
            (reason, reason.is_none()),
            "{want:?} {failure:?}"
        );
    }
}

#[test]
fn an_answer_that_was_lost_is_never_asked_for_again() {
    let mut epoch = logged_in(&[REQUIRED], 100);
    epoch.handle(at(1.0), failed(LEASE, Failure::Uncertain));
    assert_eq!(actions(&mut epoch), [Action::Revoke { target: Target::Token }]);
    epoch.handle(at(1.0), Input::Revoked { subject: Subject::Token });
    assert!(epoch.is_done());
    assert_eq!((epoch.report().entrusted, epoch.report().left), (vec![LEASE], vec![]));
}

#[test]
fn opening_ends_at_its_deadline() {
    let mut epoch = fresh(&[REQUIRED]);
    epoch.handle(at(9.9), failed(Subject::Token, LATER));
    assert_eq!(epoch.poll_timeout(), Some(at(10.0)));
    epoch.handle_timeout(at(10.0));
    assert_eq!((epoch.reason(), epoch.is_done()), (Some(Reason::TooLate), true));
}

#[test]
fn the_token_is_revoked_last_and_only_when_every_lease_is_settled() {
    let mut epoch = logged_in(&[REQUIRED, REQUIRED], 100);
    epoch.handle(ZERO, issued(0, 60));
    epoch.handle(ZERO, issued(1, 60));
    actions(&mut epoch);
    epoch.handle(at(1.0), Input::Stop { by: at(9.0) });
    assert!(!epoch.is_serving(at(1.0)));
    assert_eq!(actions(&mut epoch).len(), 2);
    epoch.handle(at(1.0), Input::Revoked { subject: Subject::Lease(1) });
    assert_eq!(actions(&mut epoch), []);
    epoch.handle(at(1.0), Input::Revoked { subject: Subject::Lease(0) });
    assert_eq!(actions(&mut epoch), [Action::Revoke { target: Target::Token }]);
    epoch.handle(at(1.0), Input::Revoked { subject: Subject::Token });
    assert!(epoch.is_done() && epoch.report() == hive_lease::Report::default());
}

#[test]
fn a_credential_that_arrives_after_stop_is_given_back() {
    let mut epoch = logged_in(&[REQUIRED], 100);
    epoch.handle(at(1.0), Input::Stop { by: at(9.0) });
    assert_eq!(actions(&mut epoch), []);
    epoch.handle(at(1.5), issued(0, 60));
    assert_eq!(actions(&mut epoch), [Action::Revoke { target: lease_target() }]);
}

#[test]
fn what_was_not_begun_when_stop_came_is_not_begun_any_more() {
    let mut epoch = Lifecycle::new(Policy::default(), [REQUIRED], ZERO, at(10.0));
    epoch.handle(ZERO, Input::Stop { by: at(9.0) });
    assert_eq!((actions(&mut epoch), epoch.is_done()), (vec![], true));
}

#[test]
fn a_revocation_that_keeps_failing_is_given_up_after_its_budget() {
    let mut epoch = serving(1000, 1000);
    epoch.handle(at(1.0), Input::Stop { by: at(900.0) });
    let mut tried = [0, 0];
    let mut now = at(1.0);
    while !epoch.is_done() {
        while let Some(action) = epoch.poll_action() {
            let Action::Revoke { target } = action else { panic!("{action:?}") };
            tried[usize::from(target == Target::Token)] += 1;
            epoch.handle(now, failed(target.subject(), LATER));
        }
        now = epoch.poll_timeout().unwrap_or(now);
        epoch.handle_timeout(now);
    }
    assert_eq!(tried, [4, 4]);
    assert_eq!(epoch.report().left, [LEASE, Subject::Token]);
}

#[test]
fn closing_ends_at_its_deadline_even_if_no_answer_comes() {
    let mut epoch = serving(1000, 1000);
    epoch.handle(at(1.0), Input::Stop { by: at(3.0) });
    actions(&mut epoch);
    assert_eq!(epoch.poll_timeout(), Some(at(3.0)));
    epoch.handle_timeout(at(3.0));
    assert!(epoch.is_done());
    assert_eq!(epoch.report().left, [LEASE, Subject::Token]);
}

#[test]
fn a_late_answer_does_not_bring_back_what_has_expired() {
    let mut epoch = serving(1000, 60);
    epoch.handle_timeout(at(34.5));
    actions(&mut epoch);
    epoch.handle(at(58.5), Input::Renewed { subject: LEASE, sent: at(34.5), grant: grant(60) });
    assert!(!epoch.is_serving(at(58.5)));
    assert_eq!(epoch.reason(), Some(Reason::Expired(LEASE)));
}
