#![allow(dead_code, unused)]
#[path = "it/fixture.rs"]
mod fixture;
#[path = "it/issuer.rs"]
mod issuer;
use fixture::*;
use issuer::*;
use secrecy::ExposeSecret;
#[tokio::test(flavor = "multi_thread")]
async fn bao() {
    let dir = tempfile::tempdir().unwrap();
    let pg = postgres("bao", &dir.path().join("pg")).await.unwrap();
    let w = World::start(|s| s.database = Some(database(&pg, 600, 3600))).await;
    let t = w.login("ticket-deploy").await;
    let jwt = w.key.sign(&claims(WORKER, AUDIENCE));
    for args in [
        vec!["status"],
        vec!["token", "lookup"],
        vec!["kv", "get", "secret/release"],
        vec!["kv", "put", "secret/work/z", "a=1"],
        vec!["kv", "get", "-format=json", "secret/work/z"],
        vec!["kv", "put", "secret/work/z", "a=2"],
        vec!["kv", "get", "-version=1", "secret/work/z"],
        vec!["kv", "delete", "secret/work/z"],
        vec!["kv", "get", "secret/work/z"],
        vec!["kv", "list", "secret/work"],
        vec!["kv", "metadata", "get", "secret/work/z"],
        vec!["kv", "get", "secret/nope"],
        vec!["read", "database/creds/ledger"],
        vec!["read", "database/creds/zz"],
        vec!["token", "renew"],
        vec!["token", "capabilities", "secret/data/release"],
        vec![
            "write",
            "auth/jwt/login",
            "role=ticket-deploy",
            &format!("jwt={}", jwt.expose_secret()),
        ],
    ] {
        let o = std::process::Command::new("/tmp/baoenv/bin/bao")
            .args(&args)
            .env("BAO_ADDR", &w.vault.address)
            .env("VAULT_ADDR", &w.vault.address)
            .env("BAO_TOKEN", t.expose_secret())
            .env("VAULT_TOKEN", t.expose_secret())
            .env("HOME", "/tmp/baodir")
            .output()
            .unwrap();
        let s = String::from_utf8_lossy(&o.stdout).to_string();
        let e = String::from_utf8_lossy(&o.stderr).to_string();
        println!(
            "== {} -> {:?}\n{}\n{}",
            args[..2.min(args.len())].join(" "),
            o.status.code(),
            s.chars().take(500).collect::<String>(),
            e.chars().take(400).collect::<String>()
        );
    }
    let a = w.client.read(&t, "database/creds/ledger").await.unwrap().lease.unwrap().id;
    for args in [
        vec!["lease", "renew", &a],
        vec!["lease", "lookup", &a],
        vec!["lease", "revoke", &a],
        vec!["lease", "lookup", &a],
        vec!["token", "revoke", "-self"],
        vec!["token", "lookup"],
    ] {
        let o = std::process::Command::new("/tmp/baoenv/bin/bao")
            .args(&args)
            .env("BAO_ADDR", &w.vault.address)
            .env("VAULT_ADDR", &w.vault.address)
            .env("BAO_TOKEN", t.expose_secret())
            .env("HOME", "/tmp/baodir")
            .output()
            .unwrap();
        println!(
            "== {:?} -> {:?}\n{}\n{}",
            &args[..2],
            o.status.code(),
            String::from_utf8_lossy(&o.stdout).chars().take(400).collect::<String>(),
            String::from_utf8_lossy(&o.stderr).chars().take(400).collect::<String>()
        );
    }
    w.vault.stop().await.unwrap();
    pg.stop().await;
}
