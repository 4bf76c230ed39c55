//! How late a change reaches many watchers of etcd; see `watchers.rs` of the registry's bench.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::Client;
use super::record;
use crate::calls::Times;
use crate::watchers::{BETWEEN, CHANGES, STREAMS};

const PREFIX: &str = "watched/";
const OPEN_DEADLINE: Duration = Duration::from_secs(120);

/// Opens so many watches, changes a key now and then, and says how long each event took to each watcher.
pub(crate) async fn measure(ways: &[Client], watchers: usize) -> Times {
    let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let opened = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for watcher in 0..watchers {
        let client = ways[watcher / STREAMS].clone();
        tasks.spawn(follow(client, Arc::clone(&sent), Arc::clone(&opened)));
    }
    let all = u32::try_from(watchers).unwrap();
    let all_open = tokio::time::timeout(OPEN_DEADLINE, opened.acquire_many(all)).await;
    all_open.expect("every watch opens").unwrap().forget();
    let mut client = ways[0].clone();
    let began = Instant::now();
    for change in 0..CHANGES {
        let (key, value) = (format!("{PREFIX}{}", change % 2), record(change));
        sent.lock().unwrap().push(Instant::now());
        client.put(key, value).await;
        tokio::time::sleep(BETWEEN).await;
    }
    let lasted = began.elapsed();
    Times::new(tasks.join_all().await.concat(), lasted)
}

async fn follow(
    mut client: Client,
    sent: Arc<Mutex<Vec<Instant>>>,
    opened: Arc<Semaphore>,
) -> Vec<u32> {
    let mut watch = client.watch(PREFIX).await;
    opened.add_permits(1);
    let mut took = Vec::with_capacity(CHANGES);
    while took.len() < CHANGES {
        for _ in 0..watch.events().await {
            let sent = sent.lock().unwrap()[took.len()];
            took.push(sent.elapsed().as_micros() as u32);
        }
    }
    took
}
