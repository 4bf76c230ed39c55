//! One suite for every store.

use super::*;
#[cfg(feature = "etcd")]
use crate::store::etcd::tests::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Changes that the stores of this suite keep where that is up to them.
const CHANGES_MAX: usize = 64;
/// Far longer than anything here takes: whoever waits for it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a store is, so that it can be opened again.
enum Place {
    #[cfg(feature = "etcd")]
    Etcd(Box<Cluster>),
    Memory(Memory),
    Sqlite(TempDir),
}

impl Place {
    fn memory() -> Self {
        Self::Memory(Memory::new(ReplicaId::new("r1"), CHANGES_MAX))
    }

    fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().expect("a directory"))
    }

    #[cfg(feature = "etcd")]
    async fn etcd() -> Self {
        Self::Etcd(Box::new(Cluster::start::<1>().await))
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => Arc::new(cluster.open("r1").await),
            Self::Memory(memory) => Arc::new(memory.clone()),
            Self::Sqlite(directory) => Arc::new(sqlite(directory).await),
        }
    }

    /// Ends the feeds of a store, and opens it again where it has to be.
    async fn cut(&mut self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => {
                cluster.restart(0).await;
                return store;
            }
            Self::Memory(memory) => {
                memory.cut();
                return store;
            }
            Self::Sqlite(_) => drop(store),
        }
        self.open().await
    }

    /// Makes the store forget what led to its present state.
    async fn compact(&self, store: &dyn Store) {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(cluster) => {
                let latest = write(store, put(9, "latest", Expected::Any)).await;
                cluster.open("r2").await.compact(latest).await;
            }
            Self::Memory(_) | Self::Sqlite(_) => {
                for number in 0..=CHANGES_MAX {
                    write(store, put(9, &number.to_string(), Expected::Any)).await;
                }
            }
        }
    }
}

/// Opens the file, as soon as the store before has let go of it.
async fn sqlite(directory: &TempDir) -> Sqlite {
    let open = async || {
        let replica = ReplicaId::new("r1");
        match Sqlite::open_keeping(directory.path(), replica, CHANGES_MAX as u64).await {
            Ok((store, writer)) => {
                tokio::spawn(writer.run());
                Some(store)
            }
            Err(FileError::InUse(_)) => None,
            Err(error) => panic!("{error}"),
        }
    };
    within(async {
        loop {
            match open().await {
                Some(store) => return store,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

fn id(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn put(number: u8, value: &str, expected: Expected) -> Change {
    Change::Put { id: id(number), value: Bytes::copy_from_slice(value.as_bytes()), expected }
}

fn delete(number: u8, expected: Expected) -> Change {
    Change::Delete { id: id(number), expected }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it does not hang")
}

async fn write(store: &dyn Store, change: Change) -> Revision {
    within(store.write(change)).await.expect("what it expects holds")
}

async fn conflict(store: &dyn Store, change: Change) {
    let written = within(store.write(change)).await;
    assert!(matches!(written, Err(StoreError::Conflict)), "{written:?}");
}

/// A follower that keeps what it is told.
struct View {
    feed: Feed,
    records: BTreeMap<AgentId, (String, Revision)>,
    replicas: BTreeSet<ReplicaId>,
    /// The changes since "in sync", or since where it resumed.
    changes: Vec<FeedItem>,
    at: Revision,
}

impl View {
    /// Follows up to "in sync".
    async fn open(store: &dyn Store, from: Option<Revision>) -> Self {
        let feed = within(store.follow(from)).await.expect("it can be followed");
        let (records, replicas, at) = Default::default();
        let mut view = Self { feed, records, replicas, changes: Vec::new(), at };
        loop {
            match view.next().await.expect("the feed goes on") {
                FeedItem::InSync { revision } => {
                    view.at = revision;
                    return view;
                }
                item @ (FeedItem::Delete { .. } | FeedItem::Put { .. }) if from.is_some() => {
                    view.fold_change(item);
                }
                FeedItem::Put { id, value, revision } => view.keep(id, &value, revision),
                FeedItem::Replicas(replicas) => view.replicas = replicas,
                item @ FeedItem::Delete { .. } => panic!("a snapshot tells {item:?}"),
            }
        }
    }

    async fn next(&mut self) -> Result<FeedItem, StoreError> {
        within(self.feed.next()).await
    }

    /// Follows until this revision is there.
    async fn until(&mut self, revision: Revision) {
        while self.at < revision {
            match self.next().await.expect("the feed goes on") {
                FeedItem::Replicas(replicas) => self.replicas = replicas,
                FeedItem::InSync { revision } => self.at = self.at.max(revision),
                change => self.fold_change(change),
            }
        }
    }

    fn fold_change(&mut self, change: FeedItem) {
        match &change {
            FeedItem::Put { id, value, revision } => {
                assert!(*revision > self.at, "{revision} comes after {}", self.at);
                self.at = *revision;
                self.keep(*id, value, *revision);
            }
            FeedItem::Delete { id, revision, .. } => {
                assert!(*revision > self.at, "{revision} comes after {}", self.at);
                self.at = *revision;
                self.records.remove(id);
            }
            other => panic!("{other:?} is no change"),
        }
        self.changes.push(change);
    }

    fn keep(&mut self, id: AgentId, value: &[u8], revision: Revision) {
        let value = String::from_utf8(value.to_vec()).expect("the tests write text");
        self.records.insert(id, (value, revision));
    }
}

/// Each test of the suite, for each store.
macro_rules! suite {
    ($($test:ident)*) => {
        #[cfg(feature = "etcd")]
        mod etcd {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::etcd().await).await;
            })*
        }
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::memory()).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::sqlite()).await;
            })*
        }
    };
}

suite! {
    a_change_is_made_only_if_what_it_expects_holds
    a_feed_tells_every_record_and_then_each_change
    a_feed_resumes_behind_any_revision_that_is_still_known
    a_feed_from_a_forgotten_revision_says_so
    a_feed_from_a_revision_that_never_was_says_so
    a_feed_that_is_cut_says_so_and_goes_on_where_it_ended
    a_reopened_store_has_every_record_and_goes_on_with_larger_revisions
    a_slow_follower_misses_nothing_or_is_told
    of_writers_with_the_same_expectation_one_wins
    many_writers_at_once_get_revisions_of_their_own
    a_deletion_tells_what_was_deleted
    the_replica_is_present
}

async fn a_change_is_made_only_if_what_it_expects_holds(place: Place) {
    let store = &*place.open().await;
    conflict(store, delete(1, Expected::Any)).await;
    conflict(store, put(1, "a", Expected::At(Revision(1)))).await;
    let first = write(store, put(1, "a", Expected::Absent)).await;
    conflict(store, put(1, "b", Expected::Absent)).await;
    conflict(store, delete(1, Expected::Absent)).await;
    let second = write(store, put(1, "b", Expected::At(first))).await;
    assert!(second > first);
    conflict(store, put(1, "c", Expected::At(first))).await;
    conflict(store, delete(1, Expected::At(first))).await;
    let view = View::open(store, None).await;
    assert_eq!(view.records, [(id(1), ("b".to_owned(), second))].into());
    let third = write(store, delete(1, Expected::At(second))).await;
    assert!(third > second);
    write(store, put(1, "d", Expected::Any)).await;
}

async fn a_feed_tells_every_record_and_then_each_change(place: Place) {
    let store = &*place.open().await;
    let first = write(store, put(1, "a", Expected::Any)).await;
    let second = write(store, put(2, "b", Expected::Any)).await;
    let mut view = View::open(store, None).await;
    let records = [(id(1), ("a".to_owned(), first)), (id(2), ("b".to_owned(), second))];
    assert_eq!(view.records, records.into());
    assert!(view.at >= second);
    let third = write(store, put(1, "c", Expected::Any)).await;
    let fourth = write(store, delete(2, Expected::Any)).await;
    view.until(fourth).await;
    let (value, last) = (Bytes::from_static(b"c"), Bytes::from_static(b"b"));
    let changes = [
        FeedItem::Put { id: id(1), value, revision: third },
        FeedItem::Delete { id: id(2), last, revision: fourth },
    ];
    assert_eq!(view.changes, changes);
}

async fn a_feed_resumes_behind_any_revision_that_is_still_known(place: Place) {
    let store = &*place.open().await;
    let mut revisions = Vec::new();
    for number in 1..=10 {
        revisions.push(write(store, put(number % 3, &number.to_string(), Expected::Any)).await);
    }
    let whole = View::open(store, Some(revisions[0])).await.changes;
    for (index, from) in revisions.iter().enumerate() {
        let view = View::open(store, Some(*from)).await;
        assert_eq!(view.changes, whole[index..]);
        assert!(view.at >= revisions[9]);
    }
    let mut view = View::open(store, Some(revisions[4])).await;
    let revision = write(store, put(7, "x", Expected::Any)).await;
    view.until(revision).await;
    let value = Bytes::from_static(b"x");
    assert_eq!(view.changes.last(), Some(&FeedItem::Put { id: id(7), value, revision }));
}

async fn a_feed_from_a_forgotten_revision_says_so(place: Place) {
    let store = &*place.open().await;
    let first = write(store, put(1, "a", Expected::Any)).await;
    write(store, put(1, "b", Expected::Any)).await;
    place.compact(store).await;
    let oldest = match within(store.follow(Some(first))).await {
        Err(StoreError::Compacted { oldest }) => oldest,
        Err(error) => panic!("{error}"),
        // A store may find it out only once it has begun.
        Ok(mut feed) => loop {
            match within(feed.next()).await {
                Err(StoreError::Compacted { oldest }) => break oldest,
                Ok(FeedItem::Replicas(_)) => {}
                other => panic!("{other:?} hides that changes were forgotten"),
            }
        },
    };
    assert!(oldest > first);
    let view = View::open(store, Some(oldest)).await;
    assert!(view.at >= oldest);
}

async fn a_feed_from_a_revision_that_never_was_says_so(place: Place) {
    let store = &*place.open().await;
    let latest = write(store, put(1, "a", Expected::Any)).await;
    let ahead = Revision(latest.0 + 1_000);
    let followed = within(store.follow(Some(ahead))).await;
    assert!(matches!(followed, Err(StoreError::Compacted { .. })), "{followed:?}");
}

async fn a_feed_that_is_cut_says_so_and_goes_on_where_it_ended(mut place: Place) {
    let store = place.open().await;
    let mut view = View::open(&*store, None).await;
    let first = write(&*store, put(1, "a", Expected::Any)).await;
    view.until(first).await;
    let store = place.cut(store).await;
    loop {
        match view.next().await {
            Ok(item) => assert!(matches!(item, FeedItem::Replicas(_)), "{item:?} is not new"),
            Err(StoreError::Cut | StoreError::Unavailable(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let change = put(1, "b", Expected::At(first));
    let second = within(async {
        loop {
            match store.write(change.clone()).await {
                Ok(revision) => return revision,
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    let resumed = View::open(&*store, Some(view.at)).await;
    let value = Bytes::from_static(b"b");
    assert_eq!(resumed.changes, [FeedItem::Put { id: id(1), value, revision: second }]);
}

async fn a_reopened_store_has_every_record_and_goes_on_with_larger_revisions(place: Place) {
    let before = place.open().await;
    let first = write(&*before, put(1, "a", Expected::Any)).await;
    let second = write(&*before, put(2, "b", Expected::Any)).await;
    drop(before);
    let store = &*place.open().await;
    let resumed = View::open(store, Some(first)).await;
    let value = Bytes::from_static(b"b");
    assert_eq!(resumed.changes, [FeedItem::Put { id: id(2), value, revision: second }]);
    let view = View::open(store, None).await;
    let records = [(id(1), ("a".to_owned(), first)), (id(2), ("b".to_owned(), second))];
    assert_eq!(view.records, records.into());
    assert!(write(store, put(3, "c", Expected::Absent)).await > second);
    conflict(store, put(1, "d", Expected::Absent)).await;
}

async fn a_slow_follower_misses_nothing_or_is_told(place: Place) {
    let store = &*place.open().await;
    let mut view = View::open(store, None).await;
    let mut last = view.at;
    let changes = 4 * CHANGES_MAX;
    for number in 0..changes {
        last = write(store, put(1, &number.to_string(), Expected::Any)).await;
    }
    while view.at < last {
        match view.next().await {
            Ok(change) => view.fold_change(change),
            Err(StoreError::Compacted { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(view.changes.len(), changes);
}

async fn of_writers_with_the_same_expectation_one_wins(place: Place) {
    let store = place.open().await;
    let at = write(&*store, put(1, "a", Expected::Any)).await;
    let writers = (0..32).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let change = put(1, &format!("by {writer}"), Expected::At(at));
            within(store.write(change)).await
        })
    });
    let written = futures_util::future::join_all(writers).await;
    let won: Vec<Revision> =
        written.into_iter().filter_map(|written| written.expect("no panic").ok()).collect();
    assert_eq!(won.len(), 1);
    let view = View::open(&*store, None).await;
    assert_eq!(view.records[&id(1)].1, won[0]);
}

async fn many_writers_at_once_get_revisions_of_their_own(place: Place) {
    let store = place.open().await;
    let mut view = View::open(&*store, None).await;
    let writers = (0..60).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { write(&*store, put(writer, "a", Expected::Absent)).await })
    });
    let written = futures_util::future::join_all(writers).await;
    let revisions: BTreeSet<Revision> =
        written.into_iter().map(|written| written.expect("no panic")).collect();
    assert_eq!(revisions.len(), 60);
    view.until(*revisions.last().expect("there are sixty")).await;
    let told = view.records.values().map(|(_, revision)| *revision).collect();
    assert_eq!(revisions, told);
}

async fn a_deletion_tells_what_was_deleted(place: Place) {
    let store = &*place.open().await;
    let from = write(store, put(1, "a", Expected::Any)).await;
    write(store, put(1, "b", Expected::Any)).await;
    let revision = write(store, delete(1, Expected::Any)).await;
    let view = View::open(store, Some(from)).await;
    let last = Bytes::from_static(b"b");
    assert_eq!(view.changes.last(), Some(&FeedItem::Delete { id: id(1), last, revision }));
}

async fn the_replica_is_present(place: Place) {
    let store = &*place.open().await;
    assert_eq!(View::open(store, None).await.replicas, [ReplicaId::new("r1")].into());
    let latest = View::open(store, None).await.at;
    assert_eq!(View::open(store, Some(latest)).await.replicas, [ReplicaId::new("r1")].into());
}
