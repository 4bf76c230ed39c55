//! What a rotation does in one situation each.

use std::time::Duration;

use hive_lease::{
    Action, Failure, Input, LeaseId, Policy, Reason, Refresh, RotationAction, RotationInput,
    RotationState, Target, Want,
};

use crate::stand::{LATER, LEASE, REQUIRED, Stand, at, grant};

#[test]
fn the_first_generation_is_probed_and_adopted_before_it_is_served() {
    let mut stand = Stand::new(&[REQUIRED], grant(3600, true), Some(grant(600, true)));
    assert_eq!((stand.rotation.state(), stand.serving_now()), (RotationState::Opening, None));
    stand.perform();
    assert_eq!(stand.log, ["login of 1", "issue of 1", "probe 1", "adopt 1"]);
    assert_eq!((stand.rotation.state(), stand.serving_now()), (RotationState::Active, Some(1)));
    assert_eq!(stand.rotation.hard_expiry(), Some(at(594.0)));
    assert_eq!(stand.rotation.lease_id(1, 0), Some(&LeaseId::new("0")));
}

#[test]
fn the_next_generation_is_made_before_the_old_one_is_given_back_leases_first_and_token_last() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.until(100.0);
    stand.tell(RotationInput::Rotate);
    let order = [
        "login of 2",
        "issue of 2",
        "probe 2",
        "adopt 2",
        "drain 1",
        "revoke lease of 1",
        "revoke token of 1",
        "ended 1",
    ];
    assert_eq!(stand.log, order);
    assert_eq!((stand.rotation.state(), stand.serving_now()), (RotationState::Active, Some(2)));
}

#[test]
fn nothing_is_revoked_while_somebody_uses_it_and_what_lingers_is_cut_off() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.drains = false;
    stand.until(100.0);
    stand.tell(RotationInput::Rotate);
    stand.until(129.0);
    assert_eq!((stand.count("revoke"), stand.rotation.state()), (0, RotationState::Overlap));
    stand.until(130.0);
    stand.perform();
    assert_eq!(stand.log[5..], ["cut 1", "revoke lease of 1", "revoke token of 1", "ended 1"]);
}

#[test]
fn an_old_generation_is_renewed_as_long_as_it_is_used() {
    let policy = Policy::default().overlap(Duration::from_secs(3600));
    let mut stand = Stand::with(policy, &[REQUIRED], grant(7200, true), Some(grant(120, true)));
    stand.drains = false;
    stand.perform();
    stand.tell(RotationInput::Rotate);
    stand.until(1000.0);
    assert!(stand.count("renew lease of 1") > 10, "{:?}", stand.log);
    assert_eq!(stand.count("cut"), 0);
}

#[test]
fn no_third_generation_is_opened_while_holders_are_still_leaving_the_first() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.drains = false;
    stand.until(10.0);
    for _ in 0..5 {
        stand.tell(RotationInput::Rotate);
    }
    stand.until(39.0);
    assert_eq!((stand.count("login"), stand.rotation.generations().count()), (1, 2));
    stand.drains = true;
    stand.tell(RotationInput::Drained { generation: 1 });
    stand.until(41.0);
    assert_eq!(stand.count("login"), 2, "what was asked for meanwhile is done once");
}

#[test]
fn what_the_holders_cannot_use_is_given_back_and_the_old_one_kept() {
    let mut stand = Stand::serving(grant(36_000, true), grant(3600, true));
    stand.fails.insert("probe", Failure::Denied);
    stand.until(10.0);
    stand.tell(RotationInput::Rotate);
    assert_eq!(stand.log[2..], ["probe 2", "revoke lease of 2", "revoke token of 2", "ended 2"]);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (Some(1), RotationState::Degraded));
    assert_eq!(stand.rotation.reason(), Some(Reason::Unusable));
    stand.until(3600.0);
    assert_eq!((stand.count("adopt"), stand.serving_now()), (0, Some(1)));
}

#[test]
fn a_probe_that_may_succeed_later_is_repeated_with_the_same_credentials() {
    let mut stand = Stand::new(&[REQUIRED], grant(36_000, true), Some(grant(3600, true)));
    stand.fails.insert("probe", LATER);
    stand.until(100.0);
    assert_eq!(stand.count("login"), 1);
    assert!((5..60).contains(&stand.count("probe")), "{}", stand.count("probe"));
    stand.fails.clear();
    stand.until(135.0);
    assert_eq!(stand.serving_now(), Some(1));
}

/// Such as a lease that an operator revoked while it was tried: no renewal is due, so nobody says that it is gone.
#[test]
fn a_login_that_nobody_can_use_for_minutes_is_given_up_for_another() {
    let mut stand = Stand::serving(grant(36_000, true), grant(3600, true));
    stand.fails.insert("probe", LATER);
    stand.until(10.0);
    stand.tell(RotationInput::Rotate);
    stand.until(400.0);
    assert!((2..=4).contains(&stand.count("login")), "{} logins", stand.count("login"));
    assert_eq!((stand.serving_now(), stand.count("withdraw")), (Some(1), 0));
    assert_eq!(stand.rotation.reason(), Some(Reason::Unusable));
    stand.fails.clear();
    stand.until(800.0);
    assert!(stand.serving_now() > Some(1), "what was asked for is done");
    assert_eq!(stand.count("withdraw"), 0);
}

#[test]
fn a_lease_that_an_operator_revoked_is_replaced_at_once_and_nothing_is_withdrawn() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.fails.insert("renew", Failure::Gone);
    stand.until(400.0);
    assert_eq!(stand.log[0], "renew lease of 1");
    assert_eq!(stand.count("withdraw"), 0);
    assert_eq!(stand.rotation.because(), Some(Reason::Gone(LEASE)));
    assert_eq!(stand.count("revoke lease of 1"), 0, "there is nothing to revoke");
    assert!(stand.log.contains(&"revoke token of 1".to_owned()), "{:?}", stand.log);
    assert_eq!(stand.serving_now(), Some(2));
}

#[test]
fn an_outage_is_survived_to_the_hard_end_then_it_fails_closed_and_comes_back() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    for word in ["login", "issue", "renew", "revoke"] {
        stand.fails.insert(word, LATER);
    }
    let hard_expiry = stand.rotation.hard_expiry().expect("it ends").since_origin().as_secs_f64();
    stand.until(hard_expiry - 0.001);
    assert_eq!((stand.serving_now(), stand.count("withdraw")), (Some(1), 0));
    stand.until(hard_expiry);
    stand.perform();
    let (withdraw, cut) = (stand.count("withdraw: Expired(Lease(0))"), stand.count("cut 1"));
    assert_eq!((withdraw, cut, stand.serving_now()), (1, 1, None));
    assert_eq!(stand.rotation.state(), RotationState::Withdrawn);
    stand.fails.clear();
    stand.until(hard_expiry + 40.0);
    assert!(stand.serving_now() > Some(1), "{:?}", stand.log);
    assert_eq!(stand.rotation.state(), RotationState::Active);
}

#[test]
fn what_cannot_be_renewed_is_replaced_with_time_to_leave_it() {
    for (token, lease) in
        [(grant(600, false), grant(36_000, true)), (grant(36_000, true), grant(600, false))]
    {
        let mut stand = Stand::serving(token, lease);
        stand.drains = false;
        stand.until(299.0);
        assert_eq!(stand.count("login"), 0);
        stand.until(391.0);
        assert_eq!(
            (stand.count("login"), stand.count("withdraw"), stand.serving_now()),
            (1, 0, Some(2))
        );
    }
}

#[test]
fn a_renewal_that_brings_less_than_asked_leads_to_a_replacement() {
    let mut stand = Stand::serving(grant(36_000, true), grant(600, true));
    let renewal = stand.rotation.poll_timeout().expect("a renewal");
    stand.now = renewal.since_origin().as_secs_f64();
    stand.rotation.handle_timeout(renewal);
    let renew = Action::Renew {
        target: Target::Lease { request: 0, id: LeaseId::new("0") },
        ask: Duration::from_secs(600),
    };
    assert_eq!(
        stand.rotation.poll_action(),
        Some(RotationAction::Epoch { generation: 1, action: renew })
    );
    let input = Input::Renewed { subject: LEASE, sent: renewal, grant: grant(300, true) };
    stand.tell(RotationInput::Epoch { generation: 1, input });
    stand.until(stand.now + 0.65 * 300.0);
    assert_eq!(stand.count("renew lease of 1"), 0);
    assert_eq!(
        (stand.rotation.because(), stand.serving_now()),
        (Some(Reason::MaxTtl(LEASE)), Some(2))
    );
}

#[test]
fn what_lasts_less_than_half_a_minute_is_never_renewed_but_replaced() {
    let mut stand = Stand::serving(grant(20, true), grant(20, true));
    stand.until(200.0);
    assert_eq!((stand.count("renew"), stand.count("withdraw")), (0, 0));
    assert!((15..45).contains(&stand.count("adopt")), "{}", stand.count("adopt"));
}

#[test]
fn an_answer_that_was_lost_ends_with_its_token_and_is_not_asked_for_again_and_again() {
    let mut stand = Stand::new(&[REQUIRED], grant(3600, true), Some(grant(600, true)));
    stand.fails.insert("issue", Failure::Uncertain);
    stand.perform();
    let order = [
        "login of 1",
        "issue of 1",
        "withdraw: Uncertain(Lease(0))",
        "revoke token of 1",
        "ended 1",
    ];
    assert_eq!(stand.log, order);
    assert_eq!(
        (stand.rotation.report().entrusted, stand.rotation.report().left),
        (vec![LEASE], vec![])
    );
    stand.until(3600.0);
    assert!((5..80).contains(&stand.count("issue")), "{}", stand.count("issue"));
}

#[test]
fn a_stop_in_the_middle_of_a_rotation_leaves_nothing() {
    for steps in 0..12 {
        let mut stand = Stand::serving(grant(3600, true), grant(600, true));
        stand.rotation.handle(at(0.0), RotationInput::Rotate);
        stand.rotation.handle_timeout(at(1.0));
        stand.now = 1.0;
        for _ in 0..steps {
            let Some(action) = stand.rotation.poll_action() else {
                break;
            };
            let (line, answer) = stand.answer(action);
            stand.log.push(line);
            if let Some(answer) = answer {
                stand.rotation.handle(at(1.0), answer);
            }
        }
        stand.tell(RotationInput::Stop { by: at(6.0) });
        assert_eq!(stand.serving_now(), None);
        assert!(stand.rotation.is_done(), "after {steps} steps: {:?}", stand.log);
        assert_eq!(stand.rotation.report(), hive_lease::Report::default());
        let made = stand.count("login");
        assert_eq!(stand.count("revoke token"), made + 1, "after {steps} steps: {:?}", stand.log);
    }
}

#[test]
fn a_stop_leaves_half_of_its_time_to_those_who_use_something_and_the_rest_to_revocations() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.drains = false;
    stand.tell(RotationInput::Stop { by: at(8.0) });
    stand.until(3.9);
    assert_eq!(
        (stand.log.last().map(String::as_str), stand.rotation.state()),
        (Some("drain 1"), RotationState::Closing)
    );
    stand.until(4.0);
    stand.perform();
    assert_eq!(stand.log[1..], ["cut 1", "revoke lease of 1", "revoke token of 1", "ended 1"]);
}

#[test]
fn when_time_is_short_the_token_is_revoked_and_takes_the_leases_along() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.rotation.handle(at(0.0), RotationInput::Stop { by: at(8.0) });
    stand.rotation.handle(at(0.0), RotationInput::Drained { generation: 1 });
    let silent = std::iter::from_fn(|| stand.rotation.poll_action()).count();
    assert_eq!(silent, 2, "the drain and the revocation of the lease, which is not answered");
    stand.until(6.0);
    stand.perform();
    assert_eq!(stand.log, ["revoke token of 1", "ended 1"]);
    assert_eq!(stand.rotation.report().left, []);
}

#[test]
fn a_token_that_never_expires_is_neither_renewed_nor_replaced() {
    let mut stand = Stand::new(&[], grant(0, false), None);
    stand.perform();
    assert_eq!((stand.rotation.hard_expiry(), stand.rotation.poll_timeout()), (None, None));
    assert_eq!(stand.rotation.serving(at(1e9)), Some(1));
}

#[test]
fn a_periodic_token_is_renewed_for_ever() {
    let mut stand = Stand::new(&[], grant(3600, true), None);
    stand.until(10.0 * 86_400.0);
    assert_eq!((stand.count("login"), stand.serving_now()), (1, Some(1)));
}

#[test]
fn a_static_secret_is_read_again_and_trusted_for_a_while_if_it_cannot_be() {
    let want = Want { optional: false, refresh: Some(Refresh::default()) };
    let mut stand = Stand::new(&[want], grant(36_000, true), None);
    stand.until(3000.0);
    assert!((9..=11).contains(&stand.count("refresh")), "{}", stand.count("refresh"));
    stand.fails.insert("refresh", LATER);
    stand.fails.insert("issue", LATER);
    stand.until(5700.0);
    assert_eq!(stand.serving_now(), Some(1));
    stand.until(6700.0);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (None, RotationState::Withdrawn));
}

#[test]
fn however_many_leases_there_are_sixteen_calls_are_under_way() {
    let mut stand = Stand::new(&[REQUIRED; 2000], grant(36_000, true), Some(grant(3600, true)));
    assert!(stand.perform_one(), "the login");
    let mut under_way = Vec::new();
    let mut issued = 0;
    loop {
        under_way.extend(std::iter::from_fn(|| stand.rotation.poll_action()));
        assert!(under_way.len() <= 16 && stand.rotation.in_flight() <= 16);
        let Some(action) = under_way.pop() else { break };
        let (line, answer) = stand.answer(action);
        if line.starts_with("probe") {
            break;
        }
        issued += 1;
        stand.rotation.handle(at(0.0), answer.expect("an issuer answers"));
    }
    assert_eq!((issued, stand.rotation.held()), (2000, 2001));
}
