//! I1 to I7: the SPIFFE ID, as a token's subject.

use super::*;

fn judge_id(text: &str) -> Result<VerifiedJwt, Refusal> {
    judge(&Authority::new("td"), &header(), &with(claims(), "sub", json!(text)))
}

fn assert_refused(ids: &[&str]) {
    for id in ids {
        assert_eq!(judge_id(id).unwrap_err(), Refusal::Subject, "{id}");
    }
}

#[test]
fn i1_the_scheme_is_spiffe_and_case_counts_in_the_path_only() {
    assert_refused(&[
        "https://td/a",
        "spiffes://td/a",
        "spiffe:/td/a",
        "spiffe:td/a",
        "//td/a",
        "td/a",
    ]);
    for same in ["SPIFFE://td/Api", "Spiffe://TD/Api"] {
        let verified = judge_id(same).unwrap();
        assert_eq!(verified.spiffe_id().to_string(), "spiffe://td/Api", "{same}");
    }
}

#[test]
fn i2_a_query_or_a_fragment_is_refused() {
    assert_refused(&["spiffe://td/a?b=c", "spiffe://td/a?", "spiffe://td/a#b", "spiffe://td/a#"]);
}

#[test]
fn i3_an_empty_host_user_information_and_a_port_are_refused() {
    assert_refused(&[
        "spiffe:///a",
        "spiffe://",
        "spiffe://root@td/a",
        "spiffe://td:443/a",
        "spiffe://td:/a",
    ]);
}

#[test]
fn i4_a_trust_domain_has_letters_digits_dots_dashes_and_underscores_only() {
    assert_refused(&[
        "spiffe://t%64/a",
        "spiffe://td!/a",
        "spiffe://tä/a",
        "spiffe://t d/a",
        "spiffe://[::1]/a",
    ]);
}

#[test]
fn i5_a_name_that_looks_like_an_address_is_a_name() {
    for name in ["10.0.0.1", "1", "a-b_c.d", "-", "xn--td-0ia"] {
        let authority = Authority::new(name);
        let sub = format!("spiffe://{name}/a");
        let verified = judge(&authority, &header(), &with(claims(), "sub", json!(sub))).unwrap();
        assert_eq!(verified.spiffe_id().trust_domain().as_str(), name);
    }
}

#[test]
fn i6_a_path_has_no_percent_no_empty_or_dot_segment_and_no_trailing_slash() {
    assert_refused(&[
        "spiffe://td/a%2fb",
        "spiffe://td/a//b",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/a/..",
        "spiffe://td/a/",
        "spiffe://td/",
        "spiffe://td/a b",
        "spiffe://td/ä",
        "spiffe://td/a:b",
        "spiffe://td/a\\b",
    ]);
    assert!(judge_id("spiffe://td/a-Z_0.9/...").is_ok());
}

#[test]
fn i7_2048_bytes_are_read_and_a_trust_domain_of_more_than_255_is_refused() {
    let longest = format!("spiffe://td/{}", "a".repeat(2048 - "spiffe://td/".len()));
    assert_eq!(judge_id(&longest).unwrap().spiffe_id().to_string(), longest);
    let name = "a".repeat(255);
    assert!(TrustDomain::parse(&name).is_ok());
    assert_refused(&[&format!("spiffe://{name}b/a")]);
}
