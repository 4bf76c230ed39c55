//! Connections of redis-rs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hive_security::SecretJson;
use hive_security::adapters::redis::{RedisHolder, is_barred_error};
use hive_security::credentials::{Credential, Holder, HolderError};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{
    AsyncCommands, AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult, Value,
};
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::load::{Load, Outcome};
use crate::postgres::username;
use crate::redis_server::Cache;
use crate::rotation::{Order, Users, begin, rotate};

const WORKERS: u64 = 32;
const ROTATIONS: u64 = 12;

fn holder(cache: &Cache) -> RedisHolder {
    RedisHolder::new([cache.url()]).expect("an address")
}

async fn multiplexed(cache: &Cache, holder: &RedisHolder) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(10)))
        .set_credentials_provider(holder.provider());
    cache.client().get_multiplexed_async_connection_with_config(&settings).await
}

async fn managed(cache: &Cache, holder: &RedisHolder) -> ConnectionManager {
    let settings = ConnectionManagerConfig::new()
        .set_response_timeout(Some(Duration::from_secs(10)))
        .set_credentials_provider(holder.provider());
    ConnectionManager::new_with_config(cache.client(), settings).await.expect("it connects")
}

/// A transaction that counts, and on the last connection one that blocks for a while.
async fn count(mut connection: impl AsyncCommands, blocks: bool) -> Result<(), RedisError> {
    if blocks {
        let nothing: Option<(String, String)> = connection.blpop("nothing", 0.1).await?;
        assert!(nothing.is_none());
    }
    let mut transaction = redis::pipe();
    transaction.atomic().incr("count", 1).incr("twice", 2).ignore();
    transaction.query_async(&mut connection).await
}

async fn rotate_under_load(order: Order) -> Outcome {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    let first = begin(&holder, &cache).await;
    let plain = multiplexed(&cache, &holder).await.expect("it connects");
    let blocked = multiplexed(&cache, &holder).await.expect("it connects");
    let managed = managed(&cache, &holder).await;
    let load = Load::start(WORKERS, move |worker, _| {
        let (plain, blocked, managed) = (plain.clone(), blocked.clone(), managed.clone());
        async move {
            match worker {
                0 => count(blocked, true).await,
                _ if worker.is_multiple_of(2) => count(plain, false).await,
                _ => count(managed, false).await,
            }
        }
    });
    let last = rotate((&holder, &cache), first, ROTATIONS, order, &load).await;
    assert_eq!(cache.users().await, [username(&last)], "old users are gone");
    cache.only_connections_of(Some(&last)).await;
    let outcome = load.stop().await;
    if order == Order::Drain {
        assert_eq!(cache.count("count").await, outcome.done, "every one is there");
        assert_eq!(cache.count("twice").await, 2 * outcome.done);
    }
    cache.stop().await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_redis_move_through_twelve_logins_under_load_and_nothing_fails() {
    let outcome = rotate_under_load(Order::Drain).await;
    assert!(outcome.failed.is_empty() && outcome.done > 1000, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_revoked_before_redis_connections_have_left_it_fails_operations() {
    let outcome = rotate_under_load(Order::Revoke).await;
    assert!(!outcome.failed.is_empty(), "the load would not notice anything: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_no_longer_follows_is_noticed_and_ended_with_the_overlap() {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    begin(&holder, &cache).await;
    let mut managed = managed(&cache, &holder).await;
    // Without a probe: nobody can authenticate with this, and redis-rs gives up for good.
    let wrong = json!({ "username": "u2", "password": "hunter2" });
    holder
        .adopt(&Credential::new("cache", 2, SecretJson::new(wrong)))
        .await
        .expect("it is a login");
    let fresh = cache.create(3).await;
    holder.adopt(&fresh).await.expect("it is usable");
    let waited = timeout(Duration::from_millis(500), holder.drained(3)).await;
    assert!(waited.is_err(), "a connection stays with the first login");
    let _: () = managed.set("works", "still").await.expect("its login is valid");
    holder.cut(3).await;
    timeout(Duration::from_secs(5), holder.drained(3)).await.expect("it was cut");
    cache.only_connections_of(Some(&fresh)).await;
    let came_back = async {
        while managed.get::<_, String>("works").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), came_back).await.expect("the manager connects again");
    cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_redis_still_knows_which_connections_no_longer_follow() {
    let mut cache = Cache::start().await;
    cache.may_list = false;
    let holder = holder(&cache);
    let first = begin(&holder, &cache).await;
    let connection = multiplexed(&cache, &holder).await.expect("it connects");
    let second = cache.create(2).await;
    holder.adopt(&second).await.expect("it is usable");
    timeout(Duration::from_secs(5), holder.drained(2)).await.expect("it has followed");
    cache.revoke(&first).await;

    let wrong = json!({ "username": "u3", "password": "hunter2" });
    holder
        .adopt(&Credential::new("cache", 3, SecretJson::new(wrong)))
        .await
        .expect("it is a login");
    let waited = timeout(Duration::from_millis(500), holder.drained(3)).await;
    assert!(waited.is_err(), "one connection has not followed");
    holder.cut(3).await;
    timeout(Duration::from_secs(5), holder.drained(3)).await.expect("it was given up");
    drop(connection);
    cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_login_fails_each_command_at_once_and_the_next_one_ends_that() {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    let none = multiplexed(&cache, &holder).await.expect_err("none was issued");
    assert!(is_barred_error(&none), "{none}");
    begin(&holder, &cache).await;
    let mut guarded = holder.guard(multiplexed(&cache, &holder).await.expect("it connects"));
    let _: () = guarded.set("key", 1).await.expect("it may");
    holder.withdraw().await;
    let asked = Instant::now();
    let refused = guarded.get::<_, u64>("key").await.expect_err("nothing is valid");
    assert!(is_barred_error(&refused), "{refused}");
    let refused = redis::pipe().get("key").query_async::<Vec<u64>>(&mut guarded).await;
    assert!(is_barred_error(&refused.expect_err("nothing is valid")));
    let none = multiplexed(&cache, &holder).await.expect_err("nothing is valid");
    assert!(is_barred_error(&none), "{none}");
    assert!(asked.elapsed() < Duration::from_secs(1));

    holder.adopt(&cache.create(2).await).await.expect("it is usable");
    assert_eq!(guarded.get::<_, u64>("key").await.expect("there is a login again"), 1);
    timeout(Duration::from_secs(5), holder.drained(2)).await.expect("it has followed");
    cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_of_resp3_loses_no_message_over_rotations() {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    let mut current = begin(&holder, &cache).await;
    let (pushed, mut messages) = unbounded_channel();
    let client =
        redis::Client::open(format!("{}/?protocol=resp3", cache.url())).expect("an address");
    let settings = AsyncConnectionConfig::new()
        .set_push_sender(pushed)
        .set_credentials_provider(holder.provider());
    let mut subscriber =
        client.get_multiplexed_async_connection_with_config(&settings).await.expect("it connects");
    subscriber.subscribe("news").await.expect("it may");
    let enough = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (mut root, enough) = (cache.root.clone(), Arc::clone(&enough));
        async move {
            for number in 0u64.. {
                if enough.load(Ordering::Relaxed) {
                    return number;
                }
                let heard: u64 = root.publish("news", number).await.expect("it may");
                assert_eq!(heard, 1, "message {number}");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            unreachable!("numbers end later");
        }
    });
    for generation in 2..8 {
        let fresh = cache.create(generation).await;
        holder.adopt(&fresh).await.expect("it is usable");
        timeout(Duration::from_secs(10), holder.drained(generation)).await.expect("it follows");
        cache.revoke(&current).await;
        current = fresh;
    }
    enough.store(true, Ordering::Relaxed);
    let published = publishing.await.expect("each was heard");
    let mut heard = Vec::new();
    while heard.len() < usize::try_from(published).expect("few") {
        let push = timeout(Duration::from_secs(5), messages.recv()).await.expect("another one");
        if let Some(PushInfo { kind: PushKind::Message, data }) = push {
            let Some(Value::BulkString(number)) = data.last() else { panic!("{data:?}") };
            heard.push(String::from_utf8_lossy(number).parse::<u64>().expect("a number"));
        }
    }
    assert_eq!(heard, (0..published).collect::<Vec<_>>());
    cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_resp2_holds_the_drain_until_it_has_a_new_connection() {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    begin(&holder, &cache).await;
    let subscribe = async || {
        let node = cache.client().get_connection_info().clone();
        let client = redis::Client::open(holder.with_login(node).expect("there is one"));
        let mut subscriber =
            client.expect("an address").get_async_pubsub().await.expect("it connects");
        subscriber.subscribe("news").await.expect("it may");
        subscriber
    };
    let old = subscribe().await;
    let fresh = cache.create(2).await;
    holder.adopt(&fresh).await.expect("it is usable");
    assert!(timeout(Duration::from_millis(300), holder.drained(2)).await.is_err());
    let _new = subscribe().await;
    drop(old);
    timeout(Duration::from_secs(5), holder.drained(2)).await.expect("only the new one is left");
    cache.only_connections_of(Some(&fresh)).await;
    cache.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_redis_leaves_nothing_behind_and_says_who_is_at_fault() {
    let cache = Cache::start().await;
    let holder = holder(&cache);
    let good = cache.create(1).await;
    holder.probe(&good).await.expect("the server takes it");
    cache.only_connections_of(None).await;
    let wrong = json!({ "username": "u1", "password": "hunter2" });
    let wrong = Credential::new("cache", 2, SecretJson::new(wrong));
    let refused = holder.probe(&wrong).await.expect_err("the password is wrong");
    assert!(matches!(refused, HolderError::Refused { .. }), "{refused:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));
    for step in 0..30 {
        let _ = timeout(Duration::from_micros(step * 100), holder.probe(&good)).await;
    }
    cache.only_connections_of(None).await;
    let other = Cache::start().await;
    let both = RedisHolder::new([cache.url(), other.url()]).expect("addresses");
    let refused = both.probe(&good).await.expect_err("each node has users of its own");
    assert!(matches!(refused, HolderError::Refused { .. }), "{refused:?}");
    other.stop().await;
    cache.stop().await;
    let away = holder.probe(&good).await.expect_err("nobody is there");
    assert!(matches!(away, HolderError::Unreachable { .. }), "{away:?}");
}
