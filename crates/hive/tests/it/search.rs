//! Looks for secrets in everything that a run has written or shown.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hive_dev::witness::{Listener, Seen};
use secrecy::ExposeSecret;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What is compared first. No secret is shorter.
const HEAD: usize = 8;
/// The lines of a PEM file.
const PEM_LINE: usize = 64;

/// All secrets of a run, each in the forms in which it could have been written.
pub(crate) struct Secrets {
    needles: Vec<Needle>,
    by_head: HashMap<[u8; HEAD], Vec<usize>>,
    /// Whether any needle begins with these two bytes: most positions end here.
    begins: Vec<bool>,
}

struct Needle {
    kind: String,
    bytes: Vec<u8>,
}

impl Secrets {
    /// What the listener heard of until now.
    pub(crate) fn of(listener: &Listener) -> Self {
        let needles: Vec<Needle> = listener.seen().iter().flat_map(forms).collect();
        let mut by_head: HashMap<_, Vec<usize>> = HashMap::new();
        let mut begins = vec![false; 1 << 16];
        for (index, needle) in needles.iter().enumerate() {
            let head = needle.bytes[..HEAD].try_into().expect("so many bytes");
            by_head.entry(head).or_default().push(index);
            begins[pair(&needle.bytes)] = true;
        }
        Self { needles, by_head, begins }
    }

    /// How many different secrets there are of each kind.
    pub(crate) fn count(&self) -> BTreeMap<&str, usize> {
        let mut kinds: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
        for needle in &self.needles {
            kinds.entry(&needle.kind).or_default().insert(&needle.bytes);
        }
        kinds.into_iter().map(|(kind, forms)| (kind, forms.len() / FORMS)).collect()
    }

    /// What stands in these bytes, and where they are from. Empty is good.
    pub(crate) fn found(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let mut hits = BTreeSet::new();
        for at in 0..bytes.len().saturating_sub(HEAD - 1) {
            if !self.begins[pair(&bytes[at..])] {
                continue;
            }
            let head: [u8; HEAD] = bytes[at..at + HEAD].try_into().expect("so many bytes");
            let candidates = self.by_head.get(&head).into_iter().flatten();
            let needles = candidates.map(|index| &self.needles[*index]);
            let here = needles.filter(|needle| bytes[at..].starts_with(&needle.bytes));
            hits.extend(here.map(|needle| format!("{} in {place}", needle.kind)));
        }
        hits.into_iter().collect()
    }

    /// The same for every file below a directory; also how many files and bytes were looked at.
    pub(crate) fn found_below(&self, directory: &Path) -> (Vec<String>, usize, usize) {
        let (mut hits, mut length) = (Vec::new(), 0);
        let files = files(directory);
        for file in &files {
            let bytes = std::fs::read(file).expect("a file can be read");
            length += bytes.len();
            hits.extend(self.found(&file.display().to_string(), &bytes));
        }
        (hits, files.len(), length)
    }

    /// The same for the command line and the environment of every process of this machine.
    pub(crate) fn found_in_processes(&self) -> Vec<String> {
        let mut hits = Vec::new();
        for process in std::fs::read_dir("/proc").expect("it is Linux").flatten() {
            for file in ["cmdline", "environ"] {
                let path = process.path().join(file);
                let bytes = std::fs::read(&path).unwrap_or_default();
                hits.extend(self.found(&path.display().to_string(), &bytes));
            }
        }
        hits
    }

    /// The search must be able to find: each form of each secret, planted among other bytes.
    pub(crate) fn assert_each_is_found_where_it_is_planted(&self) {
        for Needle { kind, bytes } in &self.needles {
            let mut text = b"before ".to_vec();
            text.extend_from_slice(bytes);
            text.extend_from_slice(b" after");
            assert_eq!(self.found("planted", &text), [format!("{kind} in planted")]);
        }
    }
}

/// How many forms each secret has.
const FORMS: usize = 3;

/// A document of text is looked for as it is, in base64, and as a list of numbers, as `Debug` shows bytes; a key in PEM
/// (which breaks the base64 into lines), in base64 of both alphabets, and in DER.
fn forms(seen: &Seen) -> [Needle; FORMS] {
    let secret = seen.value.expose_secret();
    let forms = if seen.kind == "x509-key" {
        let der = BASE64_STANDARD.decode(secret).expect("base64");
        let line = secret.as_bytes()[PEM_LINE..2 * PEM_LINE].to_vec();
        [line, BASE64_URL_SAFE_NO_PAD.encode(&der).into_bytes(), der]
    } else {
        // What stands before the signature of a token is public.
        let secret = if seen.kind == "jwt-svid" { signature(secret) } else { secret };
        let numbers = format!("{:?}", secret.as_bytes());
        let numbers = numbers.trim_matches(['[', ']']).to_owned();
        [secret.into(), BASE64_STANDARD.encode(secret).into_bytes(), numbers.into_bytes()]
    };
    forms.map(|bytes| Needle { kind: seen.kind.clone(), bytes })
}

fn signature(token: &str) -> &str {
    token.rsplit('.').next().expect("a part")
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Every file below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(below).expect("a directory can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(self::files(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}
