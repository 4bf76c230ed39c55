//! What servers do to those who use them, and what a rotation makes of it.

use std::time::Duration;

use hive_lease::{Failure, Policy, Reason, Rotation, RotationInput, RotationState, Subject};

use crate::stand::{LATER, LEASE, REQUIRED, Stand, at, grant};

/// An operator revokes one lease, the token, or a whole prefix; what is told of it is the answer to the next renewal.
#[test]
fn whatever_an_operator_revokes_is_replaced_without_a_gap() {
    for (ttl_token, ttl_lease, subject) in [(36_000, 600, LEASE), (600, 36_000, Subject::Token)] {
        let mut stand = Stand::serving(grant(ttl_token, true), grant(ttl_lease, true));
        stand.fails.insert("renew", Failure::Gone);
        stand.until(300.0);
        assert_eq!((stand.count("login"), stand.serving_now()), (0, Some(1)));
        stand.until(391.0);
        assert_eq!((stand.serving_now(), stand.count("withdraw")), (Some(2), 0), "{subject}");
        assert_eq!(stand.rotation.because(), Some(Reason::Gone(subject)));
        assert_eq!(stand.count("login"), 1, "it is replaced once");
    }
}

#[test]
fn a_role_that_was_removed_is_served_to_its_hard_end_and_then_fails_closed_with_the_reason() {
    let mut stand = Stand::serving(grant(36_000, true), grant(600, true));
    stand.fails.insert("renew", Failure::Gone);
    stand.fails.insert("issue", Failure::Absent);
    stand.until(593.0);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (Some(1), RotationState::Degraded));
    assert_eq!(stand.rotation.reason(), Some(Reason::Missing(LEASE)));
    stand.until(595.0);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (None, RotationState::Withdrawn));
    assert!((3..30).contains(&stand.count("login")), "{} logins", stand.count("login"));
    let given_back = stand.count("revoke token");
    assert!(stand.count("login") <= given_back, "tokens of failed attempts are given back");
}

/// A lease of an hour under a token of ten minutes is a lease of ten minutes.
#[test]
fn a_token_that_may_live_less_than_its_leases_is_what_they_are_replaced_for() {
    let mut stand = Stand::new(&[REQUIRED], grant(600, true), Some(grant(3600, true)));
    stand.token_max = Some(1000.0);
    stand.perform();
    for second in 1..=36_000 {
        stand.until(f64::from(second));
        assert!(stand.serving_now().is_some(), "no service at {second} s");
    }
    assert_eq!((stand.count("withdraw"), stand.count("cut")), (0, 0));
    assert_eq!(stand.rotation.because(), Some(Reason::MaxTtl(Subject::Token)));
    assert!((36..=60).contains(&stand.count("adopt")), "{}", stand.count("adopt"));
}

#[test]
fn a_policy_without_renewal_leads_to_replacement_and_is_not_asked_again_and_again() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.fails.insert("renew", Failure::Denied);
    stand.until(36_000.0);
    assert_eq!((stand.count("withdraw"), stand.count("cut")), (0, 0));
    let (renewals, adoptions) = (stand.count("renew"), stand.count("adopt"));
    assert!(renewals <= 2 * (adoptions + 1), "{renewals} renewals in {adoptions} epochs");
    assert_eq!(stand.rotation.because(), Some(Reason::Denied(LEASE)));
}

#[test]
fn a_policy_without_revocation_is_reported_and_not_asked_again_and_again() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.fails.insert("revoke", Failure::Denied);
    stand.until(10.0);
    stand.tell(RotationInput::Rotate);
    stand.until(1000.0);
    assert_eq!(stand.count("revoke"), 2);
    assert_eq!(stand.rotation.report().left, [LEASE, Subject::Token]);
}

/// A hundred processes start in the same second; by the time of their renewals they have spread.
#[test]
fn a_fleet_that_starts_at_once_does_not_renew_at_once() {
    let mut each_second = vec![0_u32; 2400];
    for seed in 0..100 {
        let mut stand = Stand::new(&[REQUIRED], grant(36_000, true), Some(grant(3600, true)));
        stand.rotation = Rotation::new(Policy::default(), [REQUIRED], seed, at(0.0), at(10.0));
        stand.perform();
        let first = stand.rotation.poll_timeout().expect("a renewal").since_origin().as_secs();
        assert!((1800..2340).contains(&first), "seed {seed}: {first} s");
        each_second[first as usize] += 1;
    }
    let peak = each_second.iter().max().copied().unwrap_or_default();
    let busiest_minute = each_second.chunks(60).map(|minute| minute.iter().sum::<u32>()).max();
    assert!(
        peak <= 4 && busiest_minute <= Some(24),
        "{peak} in a second, {busiest_minute:?} in a minute"
    );
}

/// A quota of one call a second: whoever is refused is told to wait a second. Twenty credentials are opened all the same.
#[test]
fn a_quota_slows_the_opening_and_does_not_break_it() {
    let mut stand = Stand::new(&[REQUIRED; 20], grant(36_000, true), Some(grant(3600, true)));
    let wait = Some(Duration::from_secs(1));
    let mut last = -10.0;
    let mut calls = 0;
    while stand.serving_now().is_none() {
        let quiet = stand.now - last < 1.0;
        let refusal = quiet.then_some(Failure::Transient { wait });
        for word in ["login", "issue"] {
            stand.fails.remove(word);
            refusal.and_then(|failure| stand.fails.insert(word, failure));
        }
        let before = stand.log.len();
        if stand.perform_one() {
            let is_call = ["login", "issue"].iter().any(|word| stand.log[before].starts_with(word));
            calls += u32::from(is_call);
            last = if is_call && !quiet { stand.now } else { last };
            continue;
        }
        assert!(stand.now < 300.0, "not open after {} s and {calls} calls", stand.now);
        stand.wake();
    }
    assert!(calls < 600, "{calls} calls in {} s", stand.now);
}

#[test]
fn a_rotation_that_was_asked_for_is_tried_until_there_is_one() {
    let mut stand = Stand::serving(grant(36_000, true), grant(3600, true));
    stand.fails.insert("login", Failure::Denied);
    stand.until(10.0);
    stand.tell(RotationInput::Rotate);
    stand.until(100.0);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (Some(1), RotationState::Degraded));
    stand.fails.clear();
    stand.until(500.0);
    assert_eq!(stand.rotation.state(), RotationState::Active);
    stand.until(1500.0);
    assert_eq!(stand.count("adopt"), 1, "it was asked for once");
}

#[test]
fn a_token_that_a_node_has_not_heard_of_yet_is_tried_again_for_a_moment() {
    let mut stand = Stand::new(&[REQUIRED], grant(3600, true), Some(grant(600, true)));
    stand.fails.insert("issue", Failure::Gone);
    stand.until(1.0);
    assert_eq!((stand.count("withdraw"), stand.count("login")), (0, 1));
    stand.fails.clear();
    stand.until(2.0);
    assert_eq!((stand.serving_now(), stand.count("login")), (Some(1), 1));
    assert!((2..=5).contains(&stand.count("issue")), "{:?}", stand.log);
}

#[test]
fn a_token_that_is_never_heard_of_is_given_up_and_a_refusal_is_one_at_once() {
    for (failure, calls, reason) in [
        (Failure::Gone, 6, Reason::Gone(Subject::Token)),
        (Failure::Denied, 1, Reason::Refused(LEASE)),
    ] {
        let mut stand = Stand::new(&[REQUIRED], grant(3600, true), Some(grant(600, true)));
        stand.fails.insert("issue", failure);
        while stand.count("withdraw") == 0 {
            stand.perform();
            stand.wake();
        }
        assert_eq!((stand.count("issue of 1"), stand.rotation.reason()), (calls, Some(reason)));
        assert!(stand.now < 5.0, "{} s", stand.now);
    }
}

/// A holder that cannot move yet goes on with what it has, as long as that is good.
#[test]
fn what_a_holder_that_cannot_adopt_still_uses_is_kept_as_long_as_it_can_be() {
    let mut stand = Stand::serving(grant(36_000, true), grant(3600, true));
    stand.until(10.0);
    stand.adopts = false;
    stand.tell(RotationInput::Rotate);
    stand.until(1000.0);
    let kept = (stand.count("drain"), stand.count("cut"), stand.count("revoke"));
    assert_eq!((kept, stand.serving_now()), ((0, 0, 0), Some(2)));
    assert_eq!(stand.rotation.state(), RotationState::Degraded);
    assert_eq!(stand.rotation.reason(), Some(Reason::Unusable));
    stand.tell(RotationInput::Adopted { generation: 2 });
    assert_eq!((stand.count("drain"), stand.count("revoke")), (1, 2));
    assert_eq!((stand.rotation.state(), stand.rotation.reason()), (RotationState::Active, None));
}

#[test]
fn a_holder_that_never_adopts_is_left_behind_when_the_old_generation_can_be_kept_no_longer() {
    let mut stand = Stand::serving(grant(36_000, true), grant(600, false));
    stand.until(10.0);
    stand.adopts = false;
    stand.lease = Some(grant(3600, true));
    stand.tell(RotationInput::Rotate);
    // Of 600 s two clocks take 6, and the overlap takes 30.
    stand.until(550.0);
    assert_eq!(stand.count("drain"), 0);
    stand.until(565.0);
    assert_eq!((stand.count("drain"), stand.count("revoke token of 1")), (1, 1));
}

#[test]
fn what_was_left_long_ago_has_ended_by_itself_and_is_not_told_at_the_end() {
    let mut stand = Stand::serving(grant(600, true), grant(600, true));
    stand.fails.insert("login", Failure::Uncertain);
    stand.until(10.0);
    stand.tell(RotationInput::Rotate);
    stand.until(11.5);
    assert_eq!(stand.rotation.left(at(11.5)), [Subject::Token]);
    stand.fails.clear();
    stand.until(2000.0);
    assert_eq!(stand.rotation.left(at(2000.0)), []);
    assert_eq!(stand.rotation.report().left, [Subject::Token], "it is still on record");
}

#[test]
fn what_is_renewed_after_all_is_well_although_it_could_not_be_replaced_before() {
    let mut stand = Stand::serving(grant(3600, true), grant(600, true));
    stand.fails.insert("renew", LATER);
    stand.fails.insert("login", Failure::Denied);
    stand.until(500.0);
    assert!(stand.count("login") > 0, "it should be replaced");
    assert_eq!((stand.serving_now(), stand.rotation.state()), (Some(1), RotationState::Degraded));
    stand.fails.remove("renew");
    stand.until(550.0);
    assert_eq!((stand.serving_now(), stand.rotation.state()), (Some(1), RotationState::Active));
    assert_eq!(stand.rotation.reason(), None);
}
