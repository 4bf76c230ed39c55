//! Each ill that the doctor knows, brought about on purpose.

use crate::harness::{HIVE, Place, assert_status, stderr};
use crate::scripted::{self, Script, X509, X509Svid};
use hive_dev::authority::{Authority, AuthorityConfig, Entry, Selector};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use tonic::Status;

/// Who is neither us nor root.
const NOBODY: u32 = 65_534;

/// Runs `hive doctor` against this socket, with these settings besides.
fn doctor(place: &Place, socket: &Path, settings: &[(&str, &str)]) -> Output {
    command(place, HIVE, socket, settings).output().expect("hive can be run")
}

fn command(place: &Place, hive: &str, socket: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(hive);
    command
        .args(["doctor", "--json"])
        .env_clear()
        .env("TMPDIR", place.tmp())
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()))
        .envs(settings.iter().copied());
    command
}

/// The one check that failed: it is the last one that was made, or one of the last.
fn failed(output: &Output) -> Value {
    assert_status(output, 1);
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["ok"], false);
    let checks = report["checks"].as_array().expect("checks");
    let mut failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{report:#}");
    failed.remove(0).clone()
}

fn assert_failed(output: &Output, name: &str, cause: &str) {
    let check = failed(output);
    assert_eq!(check["name"], name, "{check:#}");
    let said = check["cause"].as_str().expect("a cause");
    assert!(said.contains(cause), "{said}");
    assert!(!check["remedy"].as_str().expect("a remedy").is_empty());
}

fn socket(place: &Place) -> PathBuf {
    place.path().join("api.sock")
}

/// An authority in this process; the runtime serves it until it is dropped.
fn authority(place: &Place, change: impl FnOnce(&mut AuthorityConfig)) -> (Runtime, Authority) {
    let runtime = Runtime::new().expect("a runtime");
    let mut config = AuthorityConfig::new(socket(place));
    config.trust_domain = Some("doctor.hive.internal".to_owned());
    change(&mut config);
    let authority = runtime.block_on(Authority::start(config)).expect("it starts");
    (runtime, authority)
}

fn hive_itself() -> Entry {
    Entry::new("/ns/shop/sa/cart", [Selector::Path(PathBuf::from(HIVE))])
}

#[test]
fn a_healthy_identity_passes_every_check() {
    let place = Place::new();
    let (_runtime, authority) = authority(&place, |_| {});
    authority.add_entry(hive_itself()).expect("an entry");
    let settings = [("SPIFFE_TRUST_DOMAIN", "doctor.hive.internal")];
    let output = doctor(&place, authority.socket(), &settings);
    assert_status(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().expect("checks");
    let names: Vec<_> =
        checks.iter().map(|check| check["name"].as_str().expect("a name")).collect();
    let expected = [
        "setting",
        "socket",
        "listener",
        "protocol",
        "identity",
        "trust domain",
        "clock",
        "X.509-SVID",
        "X.509 bundles",
        "JWT bundles",
    ];
    assert_eq!(names, expected);
    let text = command(&place, HIVE, authority.socket(), &[]).output().expect("hive can be run");
    assert_status(&text, 0);
}

#[test]
fn settings_that_are_missing_or_wrong_are_all_named() {
    let place = Place::new();
    let mut unset = command(&place, HIVE, &socket(&place), &[]);
    unset.env_remove("SPIFFE_ENDPOINT_SOCKET");
    let output = unset.output().expect("hive can be run");
    assert_failed(&output, "setting", "SPIFFE_ENDPOINT_SOCKET is required and not set");
    let wrong = [("SPIFFE_ENDPOINT_SOCKET", "api.sock"), ("SPIFFE_TRUST_DOMAIN", "Not/one")];
    let check = failed(&doctor(&place, &socket(&place), &wrong));
    let cause = check["cause"].as_str().expect("a cause");
    assert!(cause.contains("api.sock") && cause.contains("SPIFFE_TRUST_DOMAIN"), "{cause}");
}

#[test]
fn a_socket_that_is_missing_or_is_none_or_is_stale_is_told_apart() {
    let place = Place::new();
    let path = socket(&place);
    let missing = place.path().join("no/such/api.sock");
    let there = format!("; {} exists", place.path().display());
    assert_failed(&doctor(&place, &missing, &[]), "socket", &there);
    fs::write(&path, "").expect("a file");
    assert_failed(&doctor(&place, &path, &[]), "socket", "is a file and not a socket");
    assert_failed(&doctor(&place, place.path(), &[]), "socket", "is a directory and not a socket");
    fs::remove_file(&path).expect("it is there");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert_failed(&doctor(&place, &path, &[]), "listener", "left it behind");
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let place = Place::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let output = doctor(&place, &socket(&place), &[("SPIFFE_ENDPOINT_SOCKET", &endpoint)]);
    assert_failed(&output, "listener", "nobody listens");
}

/// As another user, for root may do everything.
#[test]
fn a_socket_that_this_user_may_not_use_is_shown_with_its_mode_and_owner() {
    let place = Place::new();
    let hive = place.path().join("hive");
    fs::copy(HIVE, &hive).expect("a copy");
    let inner = place.path().join("inner");
    fs::create_dir(&inner).expect("a directory");
    let path = inner.join("api.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| {
        use std::os::unix::fs::MetadataExt;
        process.uid() == 0
    });
    let ask = || {
        let mut command = command(&place, hive.to_str().expect("UTF-8"), &path, &[]);
        if is_root {
            command.uid(NOBODY);
        }
        command.output().expect("hive can be run")
    };
    mode(place.path(), 0o755);
    mode(&inner, 0o755);
    mode(&path, 0o400);
    assert_failed(&ask(), "socket", "may not connect to");
    mode(&inner, 0o600);
    let closed = format!("may not enter {} (mode 0600", inner.display());
    assert_failed(&ask(), "socket", &closed);
    mode(&inner, 0o755);
}

#[test]
fn something_else_that_listens_is_not_taken_for_a_workload_api() {
    let place = Place::new();
    let path = socket(&place);
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    });
    assert_failed(&doctor(&place, &path, &[]), "protocol", "not a Workload API");
}

#[test]
fn somebody_who_says_nothing_is_not_waited_for() {
    let place = Place::new();
    let path = socket(&place);
    // The kernel accepts on its behalf.
    let _listener = UnixListener::bind(&path).expect("a socket");
    assert_failed(&doctor(&place, &path, &[]), "protocol", "does not answer");
}

#[test]
fn without_an_identity_the_selectors_and_the_entry_that_would_help_are_shown() {
    let place = Place::new();
    let (_runtime, authority) = authority(&place, |_| {});
    let settings = [("SPIFFE_TRUST_DOMAIN", "shop.example")];
    let output = doctor(&place, authority.socket(), &settings);
    assert_failed(&output, "identity", "no identity");
    let check = failed(&output);
    let selectors: Vec<_> = check["selectors"]
        .as_array()
        .expect("selectors")
        .iter()
        .map(|selector| selector.as_str().expect("text"))
        .collect();
    let hive = fs::canonicalize(HIVE).expect("it is there");
    let path = format!("unix:path:{}", hive.display());
    assert!(selectors.contains(&path.as_str()), "{selectors:?}");
    let sum = Command::new("sha256sum").arg(&hive).output().expect("coreutils");
    let digest = stdout_word(&sum);
    assert!(selectors.contains(&format!("unix:sha256:{digest}").as_str()), "{selectors:?}");
    let command = check["command"].as_str().expect("a command");
    assert!(command.starts_with("spire-server entry create -parentID spiffe://shop.example/"));
    assert!(command.contains(&format!("-selector {path}")), "{command}");

    // What it says helps.
    authority.add_entry(hive_itself()).expect("an entry");
    let settings = [("SPIFFE_TRUST_DOMAIN", "doctor.hive.internal")];
    assert_status(&doctor(&place, authority.socket(), &settings), 0);
}

fn stdout_word(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().unwrap_or_else(|| panic!("{}", stderr(output))).to_owned()
}

#[test]
fn an_identity_of_another_trust_domain_is_a_mismatch() {
    let place = Place::new();
    let (_runtime, authority) = authority(&place, |_| {});
    authority.add_entry(hive_itself()).expect("an entry");
    let settings = [("SPIFFE_TRUST_DOMAIN", "prod.example")];
    let output = doctor(&place, authority.socket(), &settings);
    assert_failed(&output, "trust domain", "prod.example");
}

const DOMAIN: &str = "scripted.example";

/// The time in so many minutes.
fn in_min(minutes: i64) -> SystemTime {
    let by = Duration::from_secs(60 * minutes.unsigned_abs());
    if minutes < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

/// A Workload API that hands out this, with authority and SVID valid for these spans of minutes.
fn scripted(
    place: &Place,
    authority: (i64, i64),
    svid: (i64, i64),
    change: impl FnOnce(&Script, X509Svid),
) -> Runtime {
    let runtime = Runtime::new().expect("a runtime");
    let (from, until) = (in_min(authority.0), in_min(authority.1));
    let authority = scripted::Authority::new(DOMAIN, from, until);
    let svid = authority.svid("/a", "", in_min(svid.0), in_min(svid.1));
    let x509 = X509 { svids: vec![svid.clone()], ..X509::default() };
    let script = runtime.block_on(async { Script::serve(&socket(place), x509, DOMAIN) });
    change(&script, svid);
    runtime
}

/// The names of the checks that failed, and everything that was said about them.
fn all_failed(place: &Place) -> (Vec<String>, String) {
    let output = doctor(place, &socket(place), &[]);
    assert_status(&output, 1);
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    let failed: Vec<_> = checks.filter(|check| check["ok"] == false).collect();
    let names = failed.iter().map(|check| check["name"].as_str().expect("a name").to_owned());
    let causes = failed.iter().map(|check| check["cause"].to_string());
    (names.collect(), causes.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_clock_that_is_behind_or_ahead_is_told_by_how_much() {
    let place = Place::new();
    let _runtime = scripted(&place, (-600, 600), (10, 70), |script, svid| {
        let clock = (svid.spiffe_id, in_min(10));
        drop(script.clock.send_replace(Some(clock)));
    });
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["clock", "X.509-SVID"]);
    assert!(causes.contains("min behind the authority's"), "{causes}");
    assert!(causes.contains("is not valid for another"), "{causes}");

    let place = Place::new();
    let _runtime = scripted(&place, (-600, 600), (-180, -120), |script, svid| {
        let clock = (svid.spiffe_id, in_min(-150));
        drop(script.clock.send_replace(Some(clock)));
    });
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["clock", "X.509-SVID"]);
    assert!(causes.contains("2 h ahead of the authority's"), "{causes}");
    assert!(causes.contains("expired 2 h ago"), "{causes}");
}

#[test]
fn an_svid_that_was_not_renewed_is_no_matter_of_clocks() {
    let place = Place::new();
    let _runtime = scripted(&place, (-600, 600), (-60, -10), |_, _| {});
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["X.509-SVID"]);
    assert!(causes.contains("expired 10 min ago"), "{causes}");
}

#[test]
fn an_expired_authority_is_named_with_its_trust_domain() {
    let place = Place::new();
    let _runtime = scripted(&place, (-600, -10), (-60, 60), |_, _| {});
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["X.509 bundles"]);
    assert!(causes.contains("in the bundle of scripted.example expired 10 min ago"), "{causes}");

    let place = Place::new();
    let other = scripted::Authority::new("other.example", in_min(-60), in_min(-20));
    let _runtime = scripted(&place, (-600, 600), (-60, 60), |script, svid| {
        let federated = [("spiffe://other.example".to_owned(), other.bundle())].into();
        script.say(Ok(X509 { svids: vec![svid], federated }));
    });
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["X.509 bundles"]);
    assert!(causes.contains("in the bundle of other.example expired 20 min ago"), "{causes}");
}

#[test]
fn an_identity_that_the_bundle_does_not_vouch_for_is_seen() {
    let place = Place::new();
    let another = scripted::Authority::new(DOMAIN, in_min(-60), in_min(60));
    let _runtime = scripted(&place, (-600, 600), (-60, 60), |script, mut svid| {
        svid.bundle = another.bundle();
        script.issue(vec![svid]);
    });
    let (names, causes) = all_failed(&place);
    assert_eq!(names, ["X.509 bundles"]);
    assert!(causes.contains("does not chain"), "{causes}");
}

#[test]
fn a_proxy_that_drops_the_security_header_and_a_server_that_is_not_ready_are_told_apart() {
    for (status, cause) in [
        (Status::invalid_argument("security header missing"), "did not see the header"),
        (Status::unavailable("starting"), "is not ready"),
        (Status::unimplemented("unknown service"), "not a Workload API"),
    ] {
        let place = Place::new();
        let _runtime = scripted(&place, (-600, 600), (-60, 60), |script, _| {
            script.say(Err(status));
        });
        assert_failed(&doctor(&place, &socket(&place), &[]), "protocol", cause);
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_the_servers_fault() {
    let place = Place::new();
    let _runtime = scripted(&place, (-600, 600), (-60, 60), |script, mut svid| {
        svid.chain.truncate(50);
        script.issue(vec![svid]);
    });
    assert_failed(&doctor(&place, &socket(&place), &[]), "protocol", "cannot be used");
}
