//! What a workload is given, and whom it believes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hive_security::{Error, Refusal, Workload, WorkloadConfig, tls};
use tonic::{Code, Request};
use x509_parser::extensions::GeneralName;

use crate::domain::{Domain, Entry};
use crate::load::{ask, channel};
use crate::member::{Member, audience, exactly};
use crate::ours::Ours;
use crate::peer::Program;
use crate::waiting::{in_time, until};

crate::with_both!(
    every_identity_is_there_with_its_hint,
    dns_names_stand_beside_the_spiffe_id_and_the_first_is_the_common_name,
    a_token_is_for_one_audience_and_is_kept,
    workloads_know_each_other_over_tls,
    a_server_answers_those_whom_it_allows,
    a_process_without_an_entry_is_told_so_in_time,
);

async fn every_identity_is_there_with_its_hint<D: Domain>() {
    let domain = D::start("hints.test").await;
    let mut expected = Vec::new();
    for hint in ["internal", "external", ""] {
        let path = format!("/me/{}", if hint.is_empty() { "plain" } else { hint });
        domain.add(&Entry::new(&path).hinted(hint)).await;
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        expected.push((format!("spiffe://hints.test{path}"), hint));
    }
    expected.sort();
    let member = Member::of(&domain).await;
    let mut x509 = member.workload.x509();
    let seen = |x509: &hive_security::rotating::Rotating<Result<_, Error>>| {
        let material: Arc<Result<hive_security::X509Material, Error>> = x509.current();
        let svids = material.as_ref().as_ref().expect("an identity").svids().to_vec();
        let name = |svid: &Arc<hive_security::X509Svid>| {
            (svid.spiffe_id().to_string(), svid.hint().map(str::to_owned))
        };
        svids.iter().map(name).collect::<Vec<_>>()
    };
    while seen(&x509).len() < expected.len() {
        in_time("the other identities", x509.changed()).await.expect("the stream goes on");
    }
    let mut names = seen(&x509);
    assert_eq!(member.workload.spiffe_id().expect("one").to_string(), names[0].0, "the first");
    names.sort();
    assert_eq!(names, expected);
    for (id, hint) in &expected {
        let Some(hint) = hint else { continue };
        let svid = member.workload.x509_svid_by_hint(hint).expect("it has a hint");
        assert_eq!(svid.spiffe_id().to_string(), *id);
    }
    let unknown = member.workload.x509_svid_by_hint("nobody's");
    assert!(matches!(unknown, Err(Error::UnknownHint { .. })));
}

async fn dns_names_stand_beside_the_spiffe_id_and_the_first_is_the_common_name<D: Domain>() {
    let domain = D::start("names.test").await;
    domain.add(&Entry::new("/me").named(&["cart.shop", "cart.shop.svc"])).await;
    let member = Member::of(&domain).await;
    let svid = member.workload.x509_svid().expect("an identity");
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://names.test/me");
    let (_, leaf) =
        x509_parser::parse_x509_certificate(&svid.certificate_chain()[0]).expect("a certificate");
    let names = leaf.subject_alternative_name().expect("at most one").expect("it has names");
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    assert_eq!(dns.collect::<Vec<_>>(), ["cart.shop", "cart.shop.svc"]);
    let mut common = leaf.subject().iter_common_name().map(|name| name.as_str().expect("text"));
    assert_eq!((common.next(), common.next()), (Some("cart.shop"), None));
}

async fn a_token_is_for_one_audience_and_is_kept<D: Domain>() {
    let (domain, elsewhere) = (D::start("tokens.test").await, Ours::start("elsewhere.test").await);
    domain.add(&Entry::new("/me")).await;
    elsewhere.add(&Entry::new("/me")).await;
    let (member, stranger) = (Member::of(&domain).await, Member::of(&elsewhere).await);
    let workload = &member.workload;
    let (orders, stock) = (audience("orders.tokens.test"), audience("stock.tokens.test"));
    let first = workload.jwt_svid(&orders).await.expect("a token");
    let again = workload.jwt_svid(&orders).await.expect("a token");
    assert!(Arc::ptr_eq(&first, &again), "fetched once");
    let (token, other) = (member.token(&orders).await, member.token(&stock).await);
    assert_ne!(token, other);
    for _ in 0..2 {
        let verified = workload.verify_jwt(&token, &orders).expect("a good token");
        assert_eq!(verified.spiffe_id().to_string(), "spiffe://tokens.test/me");
        assert_eq!(
            workload.verify_jwt(&token, &stock),
            Err(Refusal::Audience { expected: stock.clone() })
        );
        assert!(workload.verify_jwt(&other, &stock).is_ok());
        let strange = stranger.workload.verify_jwt(&token, &orders);
        assert_eq!(strange, Err(Refusal::UnknownTrustDomain(domain.trust_domain())));
        let foreign = workload.verify_jwt(&stranger.token(&orders).await, &orders);
        assert_eq!(foreign, Err(Refusal::UnknownTrustDomain(elsewhere.trust_domain())));
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{flipped}{}", &signature[1..]);
        assert_eq!(workload.verify_jwt(&forged, &orders), Err(Refusal::Signature));
    }
}

async fn workloads_know_each_other_over_tls<D: Domain>() {
    let (domain, elsewhere) = (D::start("tls.test").await, Ours::start("elsewhere.test").await);
    domain.add(&Entry::new("/me")).await;
    elsewhere.add(&Entry::new("/me")).await;
    let (server, client) = (Member::of(&domain).await, Member::of(&domain).await);
    let stranger = Member::of(&elsewhere).await;
    let (ours, theirs) = (domain.trust_domain(), elsewhere.trust_domain());
    let (me, other, foreign) =
        (exactly(&ours, "/me"), exactly(&ours, "/other"), exactly(&theirs, "/me"));
    let meet = async |client: &Workload, servers: &_, clients: &_| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let dialled = async {
            let (mut stream, server) = tls::connect(client, Clone::clone(servers), near).await?;
            // Only here does a client learn whether it is welcome.
            tokio::io::AsyncReadExt::read_u8(&mut stream).await?;
            Ok::<_, std::io::Error>(server.to_string())
        };
        let accepted = async {
            let (mut stream, client) = tls::accept(&server.workload, clients, far).await?;
            tokio::io::AsyncWriteExt::write_u8(&mut stream, 0).await?;
            Ok::<_, std::io::Error>(client.to_string())
        };
        in_time("a handshake", async { tokio::join!(dialled, accepted) }).await
    };
    let (dialled, accepted) = meet(&client.workload, &me, &me).await;
    assert_eq!(dialled.expect("welcome"), "spiffe://tls.test/me");
    assert_eq!(accepted.expect("known"), "spiffe://tls.test/me");
    let (dialled, _) = meet(&client.workload, &other, &me).await;
    let refused = dialled.expect_err("another server").to_string();
    assert!(refused.contains("it comes from spiffe://tls.test/me"), "{refused}");
    let (dialled, accepted) = meet(&client.workload, &me, &other).await;
    assert!(dialled.is_err());
    let refused = accepted.expect_err("another client").to_string();
    assert!(refused.contains("it comes from spiffe://tls.test/me"), "{refused}");
    let (dialled, accepted) = meet(&stranger.workload, &me, &foreign).await;
    assert!(accepted.is_err());
    let refused = dialled.expect_err("no bundle").to_string();
    assert!(refused.contains("no bundle for trust domain tls.test"), "{refused}");
}

async fn a_server_answers_those_whom_it_allows<D: Domain>() {
    let domain = D::start("calls.test").await;
    let program = Program::new();
    domain.add(&Entry::new("/client")).await;
    domain.add(&Entry::new("/server").of(program.path())).await;
    let client = Member::of(&domain).await;
    let name = domain.trust_domain();
    let (server, ours) = (exactly(&name, "/server"), audience("server.calls.test"));
    let call = async |allowed: &str, expected: &_, meant_for: &_| {
        let allowed = exactly(&name, allowed);
        let peer = program.run(&domain.endpoint(), ours.as_str(), &allowed).await;
        let channel = channel(&client.workload, &peer.address, expected, meant_for);
        let answer = ask(&channel, Request::new(String::new())).await;
        peer.end().await;
        answer.map_err(|status| status.code())
    };
    let me = "spiffe://calls.test/client".to_owned();
    assert_eq!(call("/client", &server, &ours).await, Ok(me));
    assert_eq!(call("/somebody", &server, &ours).await, Err(Code::PermissionDenied));
    let other = audience("other.calls.test");
    assert_eq!(call("/client", &server, &other).await, Err(Code::Unauthenticated));
    let wrong = exactly(&name, "/other");
    assert_eq!(call("/client", &wrong, &ours).await, Err(Code::Unavailable), "another server");
}

async fn a_process_without_an_entry_is_told_so_in_time<D: Domain>() {
    let domain = D::start("nobody.test").await;
    let other = std::fs::canonicalize("/bin/sh").expect("there is a shell");
    domain.add(&Entry::new("/other").of(other)).await;
    let deadline = Duration::from_secs(3);
    let began = Instant::now();
    let attached = Workload::attach(WorkloadConfig::new(domain.endpoint(), deadline)).await;
    let error = attached.map(drop).expect_err("there is no entry");
    assert!(began.elapsed() >= deadline);
    let Error::NoIdentity { waited, reason, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*waited, deadline);
    assert!(reason.contains("no identity"), "{reason}");
    assert!(error.is_transient(), "an entry may come");
    domain.add(&Entry::new("/me")).await;
    let member = Member::of(&domain).await;
    let name = async || {
        member.workload.spiffe_id().is_ok_and(|id| id.to_string() == "spiffe://nobody.test/me")
    };
    until("the entry has come", name).await;
}
