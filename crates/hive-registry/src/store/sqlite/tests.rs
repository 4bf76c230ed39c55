//! What a file must survive, and who may have it.

use super::*;
use crate::agent::AgentId;
use crate::store::{Expected, FeedItem};
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
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

/// Every record of a store that is opened here.
async fn records(directory: &Path) -> BTreeMap<AgentId, (Bytes, Revision)> {
    let opened = Sqlite::open(directory, ReplicaId::new("r1")).await;
    let (store, _writer) = opened.expect("nobody has it open");
    let mut feed = store.follow(None).await.expect("it can be read");
    let mut records = BTreeMap::new();
    loop {
        match feed.next().await.expect("it is whole") {
            FeedItem::Put { id, value, revision } => _ = records.insert(id, (value, revision)),
            FeedItem::InSync { .. } => return records,
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_is_no_record_is_forgotten_in_time_and_a_record_never() {
    const KEPT: u64 = 8;
    let directory = TempDir::new().expect("a directory can be made");
    let opened = Sqlite::open_keeping(directory.path(), ReplicaId::new("r1"), KEPT).await;
    let (store, writer) = opened.expect("the directory is new");
    let writing = tokio::spawn(writer.run());
    let put = |number, value| {
        store.write(Change::Put { id: id(1, number), value, expected: Expected::Any })
    };
    let first = put(1, Bytes::from("first")).await.expect("it is made");
    put(2, Bytes::from("to be deleted")).await.expect("it is made");
    store
        .write(Change::Delete { id: id(1, 2), expected: Expected::Any })
        .await
        .expect("it is made");
    for number in 0..5 * KEPT {
        put(3, Bytes::from(number.to_string())).await.expect("it is made");
    }
    let last = put(3, Bytes::from("last")).await.expect("it is made");
    drop(store);
    writing.await.expect("it ends with the store");
    let options = SqliteConnectOptions::new().filename(directory.path().join(DATA_FILE));
    let mut connection = options.connect().await.expect("the file is there");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM changes")
        .fetch_one(&mut connection)
        .await
        .expect("it counts");
    assert_eq!(
        rows,
        i64::try_from(KEPT + 1).expect("it is small"),
        "the latest, and the first record"
    );
    let left = records(directory.path()).await;
    let expected =
        [(id(1, 1), (Bytes::from("first"), first)), (id(1, 3), (Bytes::from("last"), last))];
    assert_eq!(left, expected.into());
}

#[tokio::test]
async fn a_file_that_kept_its_records_apart_is_taken_over() {
    const BEFORE: &str = "CREATE TABLE records (id BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL) \
         STRICT, WITHOUT ROWID; \
         CREATE TABLE changes (revision INTEGER PRIMARY KEY NOT NULL, id BLOB NOT NULL, deleted INTEGER NOT NULL, \
         value BLOB NOT NULL) STRICT; \
         CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), latest INTEGER NOT NULL) STRICT; \
         INSERT INTO position VALUES (1, 9000000000000012); \
         INSERT INTO records VALUES (x'00000000000000000000000000000001', x'61', 9000000000000003), \
         (x'00000000000000000000000000000002', x'62', 9000000000000012); \
         INSERT INTO changes VALUES (9000000000000011, x'00000000000000000000000000000003', 1, x'63'), \
         (9000000000000012, x'00000000000000000000000000000002', 0, x'62');";
    let directory = TempDir::new().expect("a directory can be made");
    let options = SqliteConnectOptions::new().filename(directory.path().join(DATA_FILE));
    let mut connection = options.create_if_missing(true).connect().await.expect("it can be made");
    sqlx::raw_sql(BEFORE).execute(&mut connection).await.expect("SQLite does it");
    let id = |number: u8| AgentId::from_bytes(u128::from(number).to_be_bytes());
    let kept = |value: &'static str, revision: u64| {
        (Bytes::from(value), Revision(9_000_000_000_000_000 + revision))
    };
    let expected = BTreeMap::from([(id(1), kept("a", 3)), (id(2), kept("b", 12))]);
    assert_eq!(records(directory.path()).await, expected);
    assert_eq!(records(directory.path()).await, expected, "and again");
    let opened = Sqlite::open(directory.path(), ReplicaId::new("r1")).await;
    let (store, writer) = opened.expect("nobody has it open");
    let writing = tokio::spawn(writer.run());
    let change = Change::Delete { id: id(1), expected: Expected::At(kept("a", 3).1) };
    assert_eq!(store.write(change).await.expect("it is there"), kept("", 13).1);
    drop(store);
    writing.await.expect("it ends with the store");
}
