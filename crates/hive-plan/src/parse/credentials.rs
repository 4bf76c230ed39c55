//! The credentials that a ticket asks for.

use std::collections::BTreeSet;

use hive_yaml::Node;

use super::fields::{self, Fields};
use super::notes::Notes;
use crate::ticket::CredentialRequest;

/// Reads the list under `credentials`.
pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Vec<CredentialRequest> {
    let items = fields::list(node, notes).unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut requests = Vec::new();
    for item in items {
        let Some(request) = read_one(item, notes) else { continue };
        if names.insert(request.name.clone()) {
            requests.push(request);
        } else {
            let message = format!("duplicate credential name `{}`: choose another", request.name);
            notes.add(item.at, message);
        }
    }
    requests
}

fn read_one(node: &Node<'_>, notes: &mut Notes) -> Option<CredentialRequest> {
    let request = Fields::open(node, "a credential", &["name", "path", "optional"], notes)?;
    let name = request.required("name", notes);
    let name = name.and_then(|node| checked(node, is_file_name, FILE_NAME_RULE, notes));
    let path = request.required("path", notes);
    let path = path.and_then(|node| checked(node, is_vault_path, VAULT_PATH_RULE, notes));
    let optional = request.optional("optional").and_then(|node| fields::boolean(node, notes));
    Some(CredentialRequest { name: name?, path: path?, optional: optional.unwrap_or(false) })
}

fn checked(
    node: &Node<'_>,
    is_valid: fn(&str) -> bool,
    rule: &str,
    notes: &mut Notes,
) -> Option<String> {
    let text = fields::text(node, notes)?;
    if !is_valid(text) {
        notes.add(node.at, rule);
        return None;
    }
    Some(text.to_owned())
}

pub(super) const FILE_NAME_RULE: &str = "the credential becomes a file of this name: use at most 63 letters, \
                              digits, `.`, `_` and `-`, and start with a letter or digit";

fn is_file_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

pub(super) const VAULT_PATH_RULE: &str = "not a path of the Vault API: write it without `/v1/`, such as \
                               secret/data/release or database/creds/releases";

/// Segments that cannot be empty, climb, or begin a query or an escape.
fn is_vault_path(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._~:@+=-".contains(&c);
    let is_segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
    text.len() <= 512 && !text.starts_with("v1/") && text.split('/').all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_path_stays_below_v1() {
        for good in ["secret/data/release", "database/creds/releases", "kv", "a/b-c_d.e"] {
            assert!(is_vault_path(good), "{good}");
        }
        for bad in ["", "/secret", "secret/", "a//b", "a/../b", "v1/secret", "a?b", "a b", "a%2f"] {
            assert!(!is_vault_path(bad), "{bad}");
        }
    }

    #[test]
    fn a_credential_name_is_one_visible_file() {
        for good in ["signing-key", "db.json", "A_1"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["", ".hidden", "..", "a/b", "-x", "ü"] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }
}
