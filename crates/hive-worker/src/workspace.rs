//! Paths of a plan, resolved where the plan lives.
//!
//! The rule: a relative path is below the workspace, and stays there. It may not contain `..`, and may not lead
//! out through a symbolic link. Whoever means a place outside writes the absolute path, so that it can be seen in the plan.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The directory that relative paths of a plan refer to.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

/// Why a path of a plan was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The workspace is not a directory of this machine.
    #[error("the workspace {} is not an absolute path of a directory on this machine", .0.display())]
    NoWorkspace(PathBuf),
    /// A relative path leads out of the workspace.
    #[error("{path} leads out of the workspace {}: write the absolute path if that is meant", workspace.display())]
    Outside {
        /// The path as the plan has it.
        path: String,
        /// The workspace.
        workspace: PathBuf,
    },
    /// The path names nothing at all.
    #[error("a path of the plan is empty")]
    Empty,
}

impl Workspace {
    /// The workspace at `root`.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let refused = || Error::NoWorkspace(root.to_owned());
        if !root.is_absolute() || !root.is_dir() {
            return Err(refused());
        }
        Ok(Self { root: root.canonicalize().map_err(|_| refused())? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` is. It need not exist.
    pub fn resolve(&self, path: &str) -> Result<PathBuf, Error> {
        if path.is_empty() {
            return Err(Error::Empty);
        }
        let given = Path::new(path);
        if given.is_absolute() {
            return Ok(given.to_owned());
        }
        let outside = || Error::Outside { path: path.to_owned(), workspace: self.root.clone() };
        if !stays_below(given) {
            return Err(outside());
        }
        let resolved = follow(&self.root.join(given));
        if resolved.starts_with(&self.root) { Ok(resolved) } else { Err(outside()) }
    }
}

/// Whether a path is relative and never goes up.
pub(crate) fn stays_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// `path` with the links of its existing part followed.
fn follow(path: &Path) -> PathBuf {
    let mut missing: Vec<OsString> = Vec::new();
    let mut existing = path;
    loop {
        // A link that leads nowhere exists as a link: it must not pass for a part that is yet to be made.
        if existing.symlink_metadata().is_ok() {
            let real = existing.canonicalize().unwrap_or_default();
            return missing.iter().rev().fold(real, |path, part| path.join(part));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                existing = parent;
            }
            _ => return PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn workspace() -> (tempfile::TempDir, Workspace) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let workspace = Workspace::open(directory.path()).expect("it is a directory");
        (directory, workspace)
    }

    #[test]
    fn a_relative_path_is_below_the_workspace_whether_it_exists_or_not() {
        let (_directory, workspace) = workspace();
        for path in ["releases", "./a/b/c"] {
            let resolved = workspace.resolve(path).expect("it is inside");
            assert!(resolved.starts_with(workspace.root()), "{}", resolved.display());
        }
    }

    #[test]
    fn a_path_that_goes_up_is_refused_even_where_it_comes_back() {
        let (_directory, workspace) = workspace();
        for path in ["..", "a/../../b", "a/../b"] {
            assert!(matches!(workspace.resolve(path), Err(Error::Outside { .. })), "{path}");
        }
    }

    #[test]
    fn a_link_does_not_lead_out_either() {
        let (directory, workspace) = workspace();
        symlink("/etc", directory.path().join("out")).expect("linked");
        symlink("/does/not/exist", directory.path().join("nowhere")).expect("linked");
        for path in ["out", "out/passwd", "nowhere", "nowhere/file"] {
            assert!(matches!(workspace.resolve(path), Err(Error::Outside { .. })), "{path}");
        }
    }

    #[test]
    fn an_absolute_path_is_taken_as_written() {
        let (_directory, workspace) = workspace();
        assert_eq!(
            workspace.resolve("/srv/releases").expect("explicit"),
            Path::new("/srv/releases")
        );
    }
}
