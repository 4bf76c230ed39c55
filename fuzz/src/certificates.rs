//! X.509 documents that were issued once, and DER taken apart.

use crate::rng::Rng;

macro_rules! der {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name, ".der"))
    };
}

/// The authority of [`TRUST_DOMAIN`](crate::TRUST_DOMAIN).
pub const ROOT: &[u8] = der!("root");

/// The authority of [`OTHER`](crate::OTHER).
pub const OTHER_ROOT: &[u8] = der!("other-root");

/// Below [`ROOT`].
pub const INTERMEDIATE: &[u8] = der!("intermediate");

/// X.509-SVIDs, and whose they are. The second one needs [`INTERMEDIATE`].
pub const GOOD: [(&[u8], &str); 3] = [
    (der!("good-leaf"), "spiffe://td/a"),
    (der!("good-below"), "spiffe://td/b"),
    (der!("good-other"), "spiffe://other/a"),
];

/// Everything that was ever issued; the last seven must never be accepted.
pub const ALL: [&[u8]; 13] = [
    GOOD[0].0,
    GOOD[1].0,
    GOOD[2].0,
    ROOT,
    OTHER_ROOT,
    INTERMEDIATE,
    der!("bad-ca"),
    der!("bad-signs"),
    der!("bad-two-uris"),
    der!("bad-no-uri"),
    der!("bad-over"),
    der!("bad-rootless"),
    der!("bad-foreign"),
];

/// Where an element of DER stands.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    /// Where its tag is.
    pub start: usize,
    /// Where its content begins.
    pub content: usize,
    /// Where it ends.
    pub end: usize,
}

/// The element that begins at `start`, if it ends before `end`.
pub fn element(der: &[u8], start: usize, end: usize) -> Option<Element> {
    let first = usize::from(*der.get(start + 1)?);
    let (length, content) = match first {
        0..=0x7f => (first, start + 2),
        0x81 => (usize::from(*der.get(start + 2)?), start + 3),
        0x82 => {
            (usize::from(*der.get(start + 2)?) << 8 | usize::from(*der.get(start + 3)?), start + 4)
        }
        _ => return None,
    };
    let last = content + length;
    (last <= end && last <= der.len()).then_some(Element { start, content, end: last })
}

/// Some element on the way down from the outermost, and those that it stands in, outermost first.
fn descend(der: &[u8], rng: &mut Rng) -> Vec<Element> {
    let mut path = Vec::new();
    let Some(outermost) = element(der, 0, der.len()) else { return path };
    path.push(outermost);
    while let Some(&parent) = path.last() {
        let tag = der[parent.start];
        // Constructed ones, and the octet strings that extensions are wrapped in.
        if path.len() > 1 && rng.below(4) == 0 || tag & 0x20 == 0 && tag != 4 {
            break;
        }
        let children = children(der, parent);
        if children.is_empty() {
            break;
        }
        path.push(*rng.pick(&children));
    }
    path
}

/// The elements directly in `parent`; none unless they fill it.
pub fn children(der: &[u8], parent: Element) -> Vec<Element> {
    let mut children = Vec::new();
    let mut next = parent.content;
    while next < parent.end {
        let Some(child) = element(der, next, parent.end) else { return Vec::new() };
        next = child.end;
        children.push(child);
    }
    children
}

/// Exchanges, removes or repeats an element of `der`, and corrects the lengths around it.
pub fn mutate(der: &[u8], donor: &[u8], rng: &mut Rng) -> Vec<u8> {
    let path = descend(der, rng);
    let Some((target, around)) = path.split_last() else { return der.to_vec() };
    let own = &der[target.start..target.end];
    let mut content = match rng.below(5) {
        0 => Vec::new(),
        1 => own.repeat(2),
        2 => {
            // The same tag, another content.
            let bytes =
                *rng.pick(&[&b""[..], b"\0", b"\xff", b"\x03\x02\x05\xa0", b"spiffe://td/x"]);
            wrap(own[0], bytes)
        }
        _ => match descend(donor, rng).last() {
            Some(found) => donor[found.start..found.end].to_vec(),
            None => Vec::new(),
        },
    };
    let mut inner = *target;
    for outer in around.iter().rev() {
        let mut wrapped = der[outer.content..inner.start].to_vec();
        wrapped.extend_from_slice(&content);
        wrapped.extend_from_slice(&der[inner.end..outer.end]);
        content = wrap(der[outer.start], &wrapped);
        inner = *outer;
    }
    content.extend_from_slice(&der[inner.end..]);
    content
}

/// An element of this tag and content.
pub fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..=0x7f => der.push(length as u8),
        0x80..=0xff => der.extend([0x81, length as u8]),
        _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}

/// A chain as the targets read it: two bytes of length before each certificate.
pub fn join<T: AsRef<[u8]>>(chain: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for certificate in chain {
        let certificate = certificate.as_ref();
        bytes.extend((certificate.len() as u16).to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes
}

/// The certificates of a chain; the last one may be shorter than its length says.
pub fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let length = (usize::from(*high) << 8 | usize::from(*low)).min(rest.len());
        let (certificate, after) = rest.split_at(length);
        chain.push(certificate.to_vec());
        bytes = after;
    }
    chain
}

/// The SubjectPublicKeyInfo of one of [`ALL`].
pub fn public_key(der: &[u8]) -> &[u8] {
    let key = element(der, 0, der.len())
        .and_then(|certificate| children(der, certificate).first().copied())
        .and_then(|signed| children(der, signed).get(6).copied())
        .expect("the fixture has its key in the seventh place");
    &der[key.start..key.end]
}
