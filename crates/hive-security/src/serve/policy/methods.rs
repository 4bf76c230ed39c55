//! Which methods a rule is about.

/// More segments than this are a mistake: gRPC has two, and URLs of services a handful.
const SEGMENTS_MAX: usize = 32;

/// A pattern of paths: anchored at both ends, matched segment by segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Methods {
    /// Only calls with this HTTP verb.
    verb: Option<String>,
    segments: Vec<Segment>,
    /// Whether `**` ends it.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Exactly(String),
}

impl Methods {
    /// Reads `/pkg.Service/Method`, `/pkg.Service/*` or `GET /orders/**`; else says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (verb, path) = match text.split_once(' ') {
            Some((verb, path)) => (Some(read_verb(verb)?), path),
            None => (None, text),
        };
        let rest = path.strip_prefix('/').ok_or(
            "it must be /pkg.Service/Method, /pkg.Service/* or a path such as GET /orders/*",
        )?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.len() > SEGMENTS_MAX {
            return Err(format!("it has more than {SEGMENTS_MAX} segments"));
        }
        let (open, parts) = match parts.split_last() {
            Some((&"**", before)) => (true, before),
            _ => (false, parts.as_slice()),
        };
        // `/` itself has one segment, which is empty.
        let root = !open && parts == [""];
        let segments = parts.iter().map(|part| match *part {
            "" if root => Ok(Segment::Exactly(String::new())),
            part => Segment::parse(part),
        });
        Ok(Self { verb, segments: segments.collect::<Result<_, _>>()?, open })
    }

    pub(super) fn cover(&self, verb: Option<&str>, path: &str) -> bool {
        if self.verb.as_deref().is_some_and(|wanted| verb != Some(wanted)) {
            return false;
        }
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut given = rest.split('/');
        for wanted in &self.segments {
            match (wanted, given.next()) {
                (Segment::Exactly(wanted), Some(given)) if wanted == given => {}
                (Segment::Any, Some(given)) if is_plain(given) => {}
                _ => return false,
            }
        }
        if self.open { given.all(is_plain) } else { given.next().is_none() }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-~:@+,;=!$&'()".contains(c);
        if !is_plain(text) || !text.chars().all(allowed) {
            let shown: String = text.chars().take(64).collect();
            return Err(format!(
                "segment {shown:?} must be *, ** (last only) or plain letters, digits and signs, without escapes"
            ));
        }
        Ok(Self::Exactly(text.to_owned()))
    }
}

fn read_verb(verb: &str) -> Result<String, String> {
    if verb.is_empty() || verb.len() > 16 || !verb.bytes().all(|c| c.is_ascii_uppercase()) {
        return Err(
            "before the space, it must have an HTTP verb in capitals, such as GET".to_owned()
        );
    }
    Ok(verb.to_owned())
}

/// Whether every server takes this for one segment of a path, and not for another path.
fn is_plain(segment: &str) -> bool {
    let escape_of = |pair: &[u8]| {
        pair[0] == b'%'
            && matches!(&pair[1..].to_ascii_lowercase()[..], b"2e" | b"2f" | b"5c" | b"00")
    };
    !matches!(segment, "" | "." | "..")
        && !segment.contains('\\')
        && !segment.as_bytes().windows(3).any(escape_of)
}
