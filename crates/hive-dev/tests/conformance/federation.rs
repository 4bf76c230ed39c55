//! Two trust domains that trust each other, whoever runs them.

use hive_dev::authority::KeyKind;
use hive_security::{Refusal, Workload, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::domain::{Domain, Entry};
use crate::member::{Member, audience, exactly};
use crate::ours::Ours;
use crate::spire::Spire;
use crate::waiting::{in_time, until};

#[tokio::test(flavor = "multi_thread")]
async fn ours_and_ours_know_each_other() {
    know_each_other::<Ours, Ours>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_and_spire_know_each_other() {
    know_each_other::<Ours, Spire>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spire_and_spire_know_each_other() {
    know_each_other::<Spire, Spire>().await;
}

async fn know_each_other<A: Domain, B: Domain>() {
    let (here, there) = (A::start("here.test").await, B::start("there.test").await);
    let (ours, theirs, meant) = (here.trust_domain(), there.trust_domain(), audience("anyone"));
    here.federate(&there).await;
    there.federate(&here).await;
    here.add(&Entry::new("/a").federated_with(theirs.clone())).await;
    there.add(&Entry::new("/b").federated_with(ours.clone())).await;
    let (a, b) = (Member::of(&here).await, Member::of(&there).await);
    for (member, other) in [(&a, &theirs), (&b, &ours)] {
        until("the other bundle has come", async || {
            KINDS.iter().all(|kind| !member.published(*kind, other).is_empty())
        })
        .await;
    }

    believe(&a, &b).await;
    believe(&b, &a).await;

    // What is published there is known here, and what is revoked there is worth nothing here.
    let (kind, kept) = (KeyKind::Jwt, b.token(&meant).await);
    let old = there.active(kind).await;
    let new = there.prepare(kind).await;
    here.refresh(&there).await;
    a.knows(kind, &theirs, &new, true).await;
    there.activate(kind, &new).await;
    there.taint(kind, &old).await;
    there.revoke(kind, &old).await;
    here.refresh(&there).await;
    a.knows(kind, &theirs, &old, false).await;
    let refused = a.workload.verify_jwt(&kept, &meant);
    assert_eq!(refused, Err(Refusal::UnknownKey(theirs.clone())));
    until("the token is of the new key", async || b.signer(kind, &meant).await == new).await;
    believe(&b, &a).await;
}

const KINDS: [KeyKind; 2] = [KeyKind::Jwt, KeyKind::X509];

/// A token of `one` is believed by `other`, and so is its certificate, on both sides of a connection.
async fn believe(one: &Member, other: &Member) {
    let meant = audience("anyone");
    let (one, other, token) = (&one.workload, &other.workload, one.token(&meant).await);
    let name = one.spiffe_id().expect("an identity");
    assert_eq!(*other.verify_jwt(&token, &meant).expect("believed").spiffe_id(), name);
    let met = meet(one, other).await;
    assert_eq!(met, (other.spiffe_id().expect("an identity").to_string(), name.to_string()));
}

/// Whom a client and a server see at the other end.
async fn meet(client: &Workload, server: &Workload) -> (String, String) {
    let whole = |workload: &Workload| exactly(&workload.trust_domain(), "/**");
    let (clients, servers) = (whole(client), whole(server));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let dialled = async {
        let (mut stream, seen) = tls::connect(client, servers, near).await.expect("known");
        stream.read_u8().await.expect("welcome");
        seen.to_string()
    };
    let accepted = async {
        let (mut stream, seen) = tls::accept(server, &clients, far).await.expect("known");
        stream.write_u8(0).await.expect("it listens");
        seen.to_string()
    };
    in_time("a handshake", async { tokio::join!(dialled, accepted) }).await
}
