//! Test your SPIFFE client in ten lines: an authority inside your test, on the real wire.
//!
//! The client here is the crate `spiffe`; yours may be written in anything that can open a Unix socket. Run it with
//! `cargo run -p hive-dev --example test_your_client`.

use std::time::Duration;

use hive_dev::authority::{Authority, AuthorityConfig, Entry, Malformed, Method, Trouble};
use spiffe::{X509Source, X509SourceUpdates};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The ten lines.
    let directory = tempfile::tempdir()?;
    let authority =
        Authority::start(AuthorityConfig::new(directory.path().join("api.sock"))).await?;
    let entry = authority.add_entry(Entry::of_process("/ns/shop/sa/cart", std::process::id()))?;
    let source = X509Source::builder().endpoint(authority.endpoint()).build().await?;
    println!("it is           {}", source.svid()?.spiffe_id());
    authority.rotate_x509().await?;
    println!("after a new key {}", source.svid()?.spiffe_id());

    // And what usually goes untested: nonsense, a lost connection, a withdrawn identity.
    for trouble in [Trouble::Malformed(Malformed::Torn), Trouble::Drop] {
        let mut news = source.updated();
        println!("it lives through {trouble:?}");
        authority.weather().next(Method::FetchX509Svid, 1, trouble);
        authority.weather().say_again();
        change(&mut news).await?;
        assert!(source.svid().is_ok(), "what is still valid is kept");
    }
    let mut news = source.updated();
    authority.remove_entry(entry);
    while source.svid().is_ok() {
        change(&mut news).await?;
    }
    println!("it is nobody any more");
    authority.stop().await;
    Ok(())
}

/// Waits until the client has heard something new; a client that never does has failed.
async fn change(news: &mut X509SourceUpdates) -> Result<(), Box<dyn std::error::Error>> {
    tokio::time::timeout(Duration::from_secs(20), news.changed()).await??;
    Ok(())
}
