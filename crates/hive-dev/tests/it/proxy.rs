//! What the client makes of every way in which an answer can go wrong.

use std::time::Duration;

use hive_dev::proxy::{Fault, Proxy, Rule};
use hive_security::clock::Clock;
use hive_security::vault::VaultError;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::fixture::{World, client, until};

const PATH: &str = "secret/data/release";
/// A fault that makes the client wait for ever is not waited for.
const A_MOMENT: Duration = Duration::from_millis(200);

async fn read_through(proxy: &Proxy, token: &SecretString) -> Result<(), VaultError> {
    client(&proxy.address).read(token, PATH).await.map(drop)
}

#[tokio::test]
async fn an_answer_that_is_spoilt_is_an_error_of_the_right_kind() {
    let world = World::start(|_| {}).await;
    let token = world.login("ticket-deploy").await;
    let proxy = Proxy::before(&world.vault.address, Clock::system()).await.expect("it listens");
    read_through(&proxy, &token).await.expect("nothing is spoilt yet");
    let huge = format!(r#"{{"data":{{"x":"{}"}}}}"#, "x".repeat(1 << 20));
    let limited = "HTTP/1.1 429 Limited\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    let is_lost =
        |error: &VaultError| matches!(error, VaultError::Unreachable { never_sent: false, .. });
    let is_odd = |error: &VaultError| matches!(error, VaultError::Protocol { .. });
    type Kind = fn(&VaultError) -> bool;
    let table: [(Fault, Kind); 12] = [
        (Fault::Break, is_lost),
        (Fault::Lose, is_lost),
        (Fault::Truncate(40), is_lost),
        (Fault::Truncate(0), is_lost),
        (Fault::Answer(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), is_lost),
        (Fault::status(200, "{\"data\":"), is_odd),
        (Fault::status(200, "<html>welcome</html>"), is_odd),
        (Fault::status(200, &huge), is_odd),
        (Fault::status(503, r#"{"errors":["Vault is sealed"]}"#), |error| {
            matches!(error, VaultError::Sealed { .. })
        }),
        (Fault::status(502, "<html>bad gateway</html>"), |error| {
            matches!(error, VaultError::Server { status: 502, .. })
        }),
        (Fault::redirect("http://127.0.0.1:1/v1/secret"), |error| {
            matches!(error, VaultError::NotServing { status: 307, .. })
        }),
        (
            Fault::Answer(limited.into()),
            |error| matches!(error, VaultError::Limited { retry_after: Some(after), .. } if after.as_secs() == 7),
        ),
    ];
    for (fault, is_right) in table {
        let shown = format!("{:.60}", format!("{fault:?}"));
        proxy.spoil(Rule::of(PATH, fault).times(1));
        let error = read_through(&proxy, &token).await.expect_err("it is spoilt");
        assert!(is_right(&error), "{shown}: {error:?}");
        let told = format!("{error} {error:?}");
        assert!(!told.contains(token.expose_secret()) && !told.contains("s3cr3t"), "{told}");
        read_through(&proxy, &token).await.expect("only one call was to be spoilt");
    }
    assert!(proxy.calls().iter().all(|call| call.spoilt || call.status == Some(200)));
    world.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn a_lost_answer_had_its_effect_and_a_black_hole_had_none() {
    let world = World::start(|_| {}).await;
    let proxy = Proxy::before(&world.vault.address, Clock::system()).await.expect("it listens");
    let jwt =
        world.key.sign(&crate::issuer::claims(crate::fixture::WORKER, crate::fixture::AUDIENCE));
    let login = || async { client(&proxy.address).login("ticket-deploy", &jwt).await };
    let logins = || world.audit_text().matches("v1/auth/jwt/login").count();
    proxy.spoil(Rule::of("auth/", Fault::Lose).method("POST").times(1));
    assert!(!login().await.expect_err("it is lost").had_no_effect());
    assert_eq!(logins(), 1);
    proxy.spoil(Rule::of("auth/", Fault::Blackhole));
    assert!(timeout(A_MOMENT, login()).await.is_err(), "something came out of a black hole");
    assert_eq!((logins(), proxy.in_flight()), (1, 0));
    proxy.restore();
    login().await.expect("it passes");
    assert_eq!(proxy.count("POST", "auth/jwt/login"), 3);
    world.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn nobody_listens_while_it_is_shut_and_the_port_is_the_same_afterwards() {
    let world = World::start(|_| {}).await;
    let token = world.login("ticket-deploy").await;
    let proxy = Proxy::before(&world.vault.address, Clock::system()).await.expect("it listens");
    proxy.shut();
    until("connections are refused", || async {
        let error = read_through(&proxy, &token).await;
        matches!(error, Err(VaultError::Unreachable { never_sent: true, .. }))
    })
    .await;
    proxy.reopen();
    until("it passes again", || async { read_through(&proxy, &token).await.is_ok() }).await;
    world.vault.stop().await.expect("nothing is left");
}

#[tokio::test]
async fn what_is_slow_waits_for_the_clock_that_was_handed_in() {
    let world = World::start(|_| {}).await;
    let token = world.login("ticket-deploy").await;
    let (clock, hands) = Clock::by_hand();
    let proxy = Proxy::before(&world.vault.address, clock).await.expect("it listens");
    let (late, drops) = (Duration::from_secs(30), Duration::from_secs(1));
    let table =
        [(Fault::Slow(late), 1, late), (Fault::Drip { bytes: 100, pause: drops }, 100, drops)];
    for (fault, turns, by) in table {
        proxy.spoil(Rule::of(PATH, fault).times(1));
        let read = read_through(&proxy, &token);
        tokio::pin!(read);
        assert!(timeout(A_MOMENT, &mut read).await.is_err(), "the clock stands still");
        let turning = async {
            for _ in 0..turns {
                hands.advance(by);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            read = &mut read => read.expect("it comes in the end"),
            () = turning => {}
        }
    }
    world.vault.stop().await.expect("nothing is left");
}
