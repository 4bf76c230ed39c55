//! A JWT-SVID taken apart: a JWS in compact form (JWT-SVID.md §2, §3 and §5.1).

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{AUDIENCES_MAX, HEADER_MAX_BYTES, TOKEN_MAX_BYTES};
use crate::Refusal;
use crate::spiffe::id::{Audience, SpiffeId};
use crate::spiffe::keys::Algorithm;

/// The three parts of a token.
pub(super) struct Token<'a> {
    /// Header and payload as they were signed.
    pub(super) signed: &'a str,
    /// Header, payload and signature, one behind the other: one allocation is cheaper than three.
    decoded: Vec<u8>,
    header_end: usize,
    payload_end: usize,
}

/// What the header says: how the token was signed, and perhaps with which key.
pub(super) struct Header<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<Cow<'a, str>>,
}

/// The claims that count. `iat` must be a time where it is there, and is not held against the token when it
/// is in the future: it informs (RFC 7519 §4.1.6), and only `nbf` forbids.
#[derive(Deserialize)]
pub(super) struct Claims<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    sub: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    aud: Audiences<'a>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    #[serde(rename = "iat")]
    _iat: Option<NumericDate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader<'a> {
    #[serde(borrow, deserialize_with = "text")]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    typ: Option<Cow<'a, str>>,
}

/// One text or a list of texts (RFC 7519 §4.1.3).
#[derive(Default)]
struct Audiences<'a>(Vec<Text<'a>>);

/// Text that is borrowed where it was written without escapes.
struct Text<'a>(Cow<'a, str>);

/// Seconds since the epoch, perhaps with a fraction (RFC 7519 §2), which is dropped.
struct NumericDate(u64);

impl<'a> Token<'a> {
    pub(super) fn split(token: &'a str) -> Result<Self, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Refusal::TooLong { limit: TOKEN_MAX_BYTES });
        }
        let (signed, signature) =
            token.rsplit_once('.').ok_or_else(|| malformed("it has no parts"))?;
        let (header, payload) =
            signed.split_once('.').ok_or_else(|| malformed("it has two parts, not three"))?;
        if payload.contains('.') {
            return Err(malformed("it has more than three parts"));
        }
        if header.len() > HEADER_MAX_BYTES {
            return Err(Refusal::HeaderTooLong { limit: HEADER_MAX_BYTES });
        }
        let mut decoded = Vec::with_capacity(token.len());
        let mut decode = |part: &str, what| {
            let before = decoded.len();
            let decoding = URL_SAFE_NO_PAD.decode_vec(part, &mut decoded);
            if decoding.is_err() || decoded.len() == before {
                return Err(malformed(what));
            }
            Ok(decoded.len())
        };
        let header_end = decode(header, "its header is not base64url")?;
        let payload_end = decode(payload, "its payload is not base64url")?;
        decode(signature, "its signature is not base64url")?;
        Ok(Self { signed, decoded, header_end, payload_end })
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.decoded[self.payload_end..]
    }

    pub(super) fn header(&self) -> Result<Header<'_>, Refusal> {
        let json = &self.decoded[..self.header_end];
        let header: RawHeader<'_> = from_json(json).ok_or_else(|| why_no_header(json))?;
        let algorithm =
            header.alg.as_deref().and_then(Algorithm::parse).ok_or(Refusal::Algorithm)?;
        if !matches!(header.typ.as_deref(), None | Some("JWT" | "JOSE")) {
            return Err(Refusal::Type);
        }
        Ok(Header { algorithm, kid: header.kid })
    }

    pub(super) fn claims(&self) -> Result<Claims<'_>, Refusal> {
        let what = "its payload is not JSON with claims of the right types";
        from_json(&self.decoded[self.header_end..self.payload_end])
            .ok_or(Refusal::Malformed { what })
    }
}

impl Claims<'_> {
    pub(super) fn workload(&self) -> Result<SpiffeId, Refusal> {
        let sub = self.sub.as_deref().ok_or(Refusal::Subject)?;
        let spiffe_id = SpiffeId::parse(sub).map_err(|_| Refusal::Subject)?;
        if spiffe_id.path().is_empty() { Err(Refusal::Subject) } else { Ok(spiffe_id) }
    }

    pub(super) fn check_audience(&self, expected: &Audience) -> Result<(), Refusal> {
        let Audiences(audiences) = &self.aud;
        if audiences.is_empty() {
            return Err(Refusal::NoAudience);
        }
        if audiences.len() > AUDIENCES_MAX {
            return Err(Refusal::TooManyAudiences { limit: AUDIENCES_MAX });
        }
        if audiences.iter().any(|Text(audience)| audience == expected.as_str()) {
            return Ok(());
        }
        Err(Refusal::Audience { expected: expected.clone() })
    }

    /// When the token expires, if it is neither past that nor before its time.
    pub(super) fn check_times(
        &self,
        now: SystemTime,
        leeway: Duration,
    ) -> Result<SystemTime, Refusal> {
        let expires_at = self.expires_at()?;
        if let Some(refusal) = expired(expires_at, now, leeway) {
            return Err(refusal);
        }
        if let Some(not_before) = &self.nbf
            && let Ok(ahead) = not_before.time()?.duration_since(now)
            && ahead > leeway
        {
            return Err(Refusal::NotYetValid { in_s: ahead.as_secs() });
        }
        Ok(expires_at)
    }

    pub(super) fn not_before(&self) -> Result<Option<SystemTime>, Refusal> {
        self.nbf.as_ref().map(NumericDate::time).transpose()
    }

    pub(super) fn expires_at(&self) -> Result<SystemTime, Refusal> {
        self.exp.as_ref().ok_or(Refusal::NoExpiry)?.time()
    }
}

/// The refusal of a token that expired more than `leeway` ago.
pub(super) fn expired(
    expires_at: SystemTime,
    now: SystemTime,
    leeway: Duration,
) -> Option<Refusal> {
    let ago = now.duration_since(expires_at).ok().filter(|ago| *ago >= leeway)?;
    Some(Refusal::Expired { ago_s: ago.as_secs() })
}

impl NumericDate {
    fn time(&self) -> Result<SystemTime, Refusal> {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.0))
            .ok_or(Refusal::Malformed { what: "one of its times is out of range" })
    }
}

/// Tells a header that says too much from one that is no header. Only a refused token gets here.
fn why_no_header(json: &[u8]) -> Refusal {
    match serde_json::from_slice::<serde_json::Map<_, _>>(json) {
        Ok(names) if names.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) => {
            Refusal::HeaderParameter
        }
        _ => {
            Refusal::Malformed { what: "its header is not JSON with alg, and kid and typ, as text" }
        }
    }
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    // JSON between systems is UTF-8 (RFC 7519 §7.2), also where nobody looks.
    serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// Text that is there; `null` is not text.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    Text::deserialize(deserializer).map(|Text(text)| Some(text))
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audiences<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Audiences<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Audiences(vec![Text(Cow::Borrowed(text))]))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Audiences(vec![Text(Cow::Owned(text.to_owned()))]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut audiences = Vec::new();
                while let Some(audience) = list.next_element()? {
                    audiences.push(audience);
                }
                Ok(Audiences(audiences))
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let fraction =
            || number.as_f64().filter(|seconds| (0.0..9e15).contains(seconds)).map(|s| s as u64);
        let seconds = number.as_u64().or_else(fraction);
        seconds.map(Self).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}
