use super::*;
use tempfile::TempDir;

struct World {
    directory: TempDir,
    artifacts: Artifacts,
    releases: Releases,
}

fn world() -> World {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let artifacts = Artifacts::open(&directory.path().join("artifacts")).expect("a store");
    let releases = Releases::at(directory.path().join("into"));
    World { directory, artifacts, releases }
}

impl World {
    fn wanted(&self, ticket: &str, release: &str, content: &str) -> Wanted {
        let stored = self.artifacts.store("program", &mut content.as_bytes()).expect("stored");
        Wanted {
            ticket_id: format!("{ticket}/deploy"),
            claim: 1,
            plan_id: ticket.to_owned(),
            release: release.to_owned(),
            file: "program".to_owned(),
            digest: stored.digest,
            sealed_by: None,
        }
    }

    fn prepare(&self, wanted: &Wanted) -> Result<Deployment, Error> {
        self.releases.prepare(wanted, &self.artifacts, |_| None)
    }

    fn deploy(&self, ticket: &str, release: &str, content: &str) -> Deployment {
        let deployment = self.prepare(&self.wanted(ticket, release, content)).expect("prepared");
        self.releases.commit(&deployment).expect("committed");
        deployment
    }

    fn undo(&self, ticket: &str) -> Undone {
        self.releases.undo(&format!("{ticket}/deploy")).expect("undone")
    }

    fn current_content(&self) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join("into/current/program")).ok()
    }

    fn exists(&self, release: &str) -> bool {
        self.releases.directory(release).is_dir()
    }
}

fn restored(release: &str) -> Undone {
    Undone::Restored(release.to_owned())
}

#[test]
fn an_undo_brings_the_previous_release_back_and_leaves_nothing_of_the_new_one() {
    let world = world();
    world.deploy("p1", "r1", "one");
    world.deploy("p2", "r2", "two");
    assert_eq!(world.current_content().as_deref(), Some("two"));
    assert_eq!(world.undo("p2"), restored("r1"));
    assert_eq!((world.current_content().as_deref(), world.exists("r2")), (Some("one"), false));
    assert_eq!(world.undo("p2"), Undone::Nothing);
}

#[test]
fn an_undo_of_the_first_release_leaves_nothing_released() {
    let world = world();
    assert_eq!(world.undo("p1"), Undone::Nothing);
    world.deploy("p1", "r1", "one");
    assert_eq!(world.undo("p1"), restored(""));
    assert_eq!((world.current_content(), world.exists("r1")), (None, false));
}

#[test]
fn a_deploy_that_is_repeated_remembers_what_the_first_one_found() {
    let world = world();
    world.deploy("p1", "r1", "one");
    let first = world.deploy("p2", "r2", "two");
    let mut wanted = world.wanted("p2", "r2", "two");
    wanted.claim = 2;
    let second = world.prepare(&wanted).expect("prepared again");
    world.releases.commit(&second).expect("committed again");
    assert_eq!((first.previous.as_str(), second.previous.as_str()), ("r1", "r1"));
    assert_eq!(world.undo("p2"), restored("r1"));
}

#[test]
fn an_undo_that_was_interrupted_can_be_repeated() {
    let world = world();
    world.deploy("p1", "r1", "one");
    world.deploy("p2", "r2", "two");
    // The crash comes after the swap, before anything is removed.
    world.releases.point_at("r1").expect("swapped");
    assert_eq!(world.undo("p2"), restored("r1"));
    assert!(!world.exists("r2"));
}

#[test]
fn a_release_never_changes() {
    let world = world();
    world.deploy("p1", "r1", "one");
    let refused = world.prepare(&world.wanted("p2", "r1", "another")).expect_err("it is taken");
    assert!(matches!(refused, Error::Taken { .. }), "{refused}");
    assert_eq!(world.current_content().as_deref(), Some("one"));
}

#[test]
fn the_same_release_again_is_found_and_its_undo_leaves_it() {
    let world = world();
    world.deploy("p1", "r1", "one");
    let again = world.deploy("p2", "r1", "one");
    assert_eq!((again.previous.as_str(), again.created), ("r1", false));
    assert_eq!(world.undo("p2"), restored("r1"));
    assert_eq!(world.current_content().as_deref(), Some("one"));
}

#[test]
fn an_undo_never_takes_away_what_a_later_deploy_made_current() {
    let world = world();
    world.deploy("p1", "r1", "one");
    world.deploy("p2", "r2", "two");
    assert_eq!(world.undo("p1"), Undone::Overtaken);
    assert_eq!(world.current_content().as_deref(), Some("two"));
    assert!(world.exists("r1"), "the later deploy goes back to it");
    assert_eq!(world.undo("p2"), restored("r1"));
}

#[test]
fn a_deploy_that_failed_before_it_counted_takes_itself_back() {
    let world = world();
    world.deploy("p1", "r1", "one");
    world.prepare(&world.wanted("p2", "r2", "two")).expect("prepared");
    world.releases.abandon("p2/deploy", 1).expect("abandoned");
    assert_eq!((world.current_content().as_deref(), world.exists("r2")), (Some("one"), false));
}

#[test]
fn a_claim_that_was_lost_changes_nothing_any_more() {
    let world = world();
    let old = world.wanted("p1", "r1", "one");
    let prepared = world.prepare(&old).expect("prepared");
    world.prepare(&Wanted { claim: 2, ..old.clone() }).expect("prepared by the next claim");
    assert!(matches!(world.releases.commit(&prepared), Err(Error::Stale)));
    assert!(matches!(world.prepare(&old), Err(Error::Stale)));
    world.releases.abandon("p1/deploy", 1).expect("it is not its any more");
    assert!(world.exists("r1"));
}

#[test]
fn names_cannot_lead_out_of_the_release_directory() {
    let world = world();
    for name in ["", "..", "../x", "a/b", ".hidden", "/etc", "release.json"] {
        let mut wanted = world.wanted("p1", "r1", "one");
        wanted.file = name.to_owned();
        assert!(matches!(world.prepare(&wanted), Err(Error::Name(_))), "{name:?}");
        wanted = Wanted { release: name.to_owned(), file: "program".to_owned(), ..wanted };
        assert!(matches!(world.prepare(&wanted), Err(Error::Name(_))), "{name:?}");
    }
}

#[test]
fn the_seal_is_made_of_the_bytes_that_are_written() {
    let world = world();
    let wanted = world.wanted("p1", "r1", "one");
    let seal = |manifest: &[u8]| Some(String::from_utf8_lossy(manifest).into_owned());
    world.releases.prepare(&wanted, &world.artifacts, seal).expect("prepared");
    let directory = world.releases.directory("r1");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("it is there");
    assert_eq!(read("release.json"), read("release.json.seal"));
    assert!(read("release.json").contains(&wanted.digest.to_string()));
}
