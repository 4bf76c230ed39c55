//! What a file must survive, and who may have it.

use super::*;
use crate::agent::AgentId;
use crate::store::{Expected, FeedItem};
use prost::bytes::Bytes;
use std::collections::BTreeSet;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Names the directory to the process that is to be killed.
const DIRECTORY: &str = "HIVE_TEST_REGISTRY_DIRECTORY";
/// Changes that it makes at the same time, so that it dies amid transactions of many.
const WRITERS: u32 = 16;
/// Acknowledgements after which it is killed.
const ACKNOWLEDGED: usize = 2_000;
const DEADLINE: Duration = Duration::from_secs(120);

fn id(writer: u32, number: u32) -> AgentId {
    AgentId::from_random((u128::from(writer) << 32 | u128::from(number)) << 64)
}

/// Says each acknowledged change, until it is killed.
async fn one_writer(store: &Sqlite, writer: u32) {
    for number in 0.. {
        let (id, value) = (id(writer, number), Bytes::from(vec![7; 300]));
        let change = Change::Put { id, value, expected: Expected::Absent };
        let revision = store.write(change).await.expect("the file is ours");
        println!("acknowledged {revision} {id}");
    }
}

/// Not a test: the process that the test below kills.
#[tokio::test]
#[ignore = "only as the process that another test kills"]
async fn writes_until_it_is_killed() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the test says where"));
    let opened = Sqlite::open(&directory, ReplicaId::new("r1")).await;
    let (store, writer) = opened.expect("the directory is new");
    tokio::spawn(writer.run());
    futures_util::future::join_all((0..WRITERS).map(|writer| one_writer(&store, writer))).await;
}

/// What was acknowledged before the kernel ended the process.
async fn acknowledged_before_the_kill(directory: &Path) -> BTreeSet<String> {
    let program = std::env::current_exe().expect("this test runs");
    let mut child = Command::new(program)
        .args(["--exact", "store::sqlite::tests::writes_until_it_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this test can be run again");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut acknowledged = BTreeSet::new();
    while let Some(line) = lines.next_line().await.expect("it writes lines") {
        let Some(text) = line.strip_prefix("acknowledged ") else { continue };
        acknowledged.insert(text.to_owned());
        if acknowledged.len() == ACKNOWLEDGED {
            child.start_kill().expect("it runs");
        }
    }
    child.wait().await.expect("it ends");
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = TempDir::new().expect("a directory");
    let killed = acknowledged_before_the_kill(directory.path());
    let acknowledged = tokio::time::timeout(DEADLINE, killed).await.expect("it writes");
    assert!(acknowledged.len() >= ACKNOWLEDGED);
    let opened = Sqlite::open(directory.path(), ReplicaId::new("r2")).await;
    let (store, _writer) = opened.expect("the lock went with its process");
    let mut feed = store.follow(None).await.expect("it can be read");
    let mut stored = BTreeSet::new();
    loop {
        match feed.next().await.expect("it is whole") {
            FeedItem::Put { id, revision, .. } => _ = stored.insert(format!("{revision} {id}")),
            FeedItem::InSync { .. } => break,
            _ => {}
        }
    }
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let opened = Sqlite::open(directory.path(), ReplicaId::new("r1")).await;
    let _first = opened.expect("it is new");
    let second = Sqlite::open(directory.path(), ReplicaId::new("r2")).await;
    assert!(matches!(second, Err(FileError::InUse(_))), "{second:?}");
}

/// Changes the file behind the store's back.
async fn meddle(directory: &Path, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(directory.join(DATA_FILE));
    let mut connection = options.connect().await.expect("the file is there");
    sqlx::raw_sql(statement).execute(&mut connection).await.expect("SQLite does it");
}

#[tokio::test]
async fn a_commit_that_fails_changes_nothing_and_the_next_one_is_made() {
    let directory = TempDir::new().expect("a directory can be made");
    let opened = Sqlite::open(directory.path(), ReplicaId::new("r1")).await;
    let (store, writer) = opened.expect("the directory is new");
    let writing = tokio::spawn(writer.run());
    let put = |number, expected| {
        let value = Bytes::from(vec![7; 300]);
        store.write(Change::Put { id: id(1, number), value, expected })
    };
    let first = put(1, Expected::Absent).await.expect("it is made");
    meddle(directory.path(), "ALTER TABLE changes RENAME TO hidden").await;
    let failed = put(2, Expected::Absent).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    meddle(directory.path(), "ALTER TABLE hidden RENAME TO changes").await;
    let second = put(2, Expected::Absent).await.expect("the record of the failure is not there");
    assert_eq!(second, Revision(first.0 + 1), "and its revision was not used up");
    let conflict = put(1, Expected::Absent).await;
    assert!(matches!(conflict, Err(StoreError::Conflict)), "{conflict:?}");
    put(1, Expected::At(first)).await.expect("a transaction without a change is over, too");
    drop(store);
    writing.await.expect("it ends with the store");
}
