//! Blocks of addresses, as CIDR writes them: `10.0.0.0/8`.

use std::net::{IpAddr, Ipv4Addr};

/// Where every caller is: the development vault listens on loopback alone.
pub(super) const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Whether it is one, as Go reads it: with its length.
pub(super) fn is_block(text: &str) -> bool {
    text.contains('/') && parse(text).is_some()
}

/// Whether it is a block or one address.
pub(super) fn is_address(text: &str) -> bool {
    parse(text).is_some()
}

/// Whether the caller is in one of the blocks.
pub(super) fn admit(blocks: &[String]) -> bool {
    blocks
        .iter()
        .filter_map(|block| parse(block))
        .any(|(block, length)| contains(block, length, CALLER))
}

/// Whether all addresses of the one block are in the other.
pub(super) fn is_within(inner: &str, outer: &str) -> bool {
    let both = parse(inner).zip(parse(outer));
    both.is_some_and(|((address, inner), (block, outer))| {
        outer <= inner && contains(block, outer, address)
    })
}

/// One address is shown without its length.
pub(super) fn without_needless_lengths(blocks: &[String]) -> Vec<String> {
    blocks.iter().map(|text| text.strip_suffix("/32").unwrap_or(text).to_owned()).collect()
}

/// An address alone is the block of itself.
fn parse(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    (length <= most).then_some((address, length))
}

fn contains(block: IpAddr, length: u32, address: IpAddr) -> bool {
    match (block, address) {
        (IpAddr::V4(block), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            block.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(block), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            block.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_begins_like_it() {
        let admits = |block: &str| admit(&[block.to_owned()]);
        for block in ["127.0.0.1", "127.0.0.1/32", "127.0.0.0/8", "0.0.0.0/0"] {
            assert!(admits(block), "{block}");
        }
        for block in ["10.9.8.0/24", "127.0.0.2", "127.0.0.2/32", "::1/128", "::/0", "nonsense"] {
            assert!(!admits(block), "{block}");
        }
    }

    #[test]
    fn a_block_is_within_those_that_are_not_smaller() {
        for (inner, outer) in [("10.1.0.0/16", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32")] {
            assert!(is_within(inner, outer), "{inner} in {outer}");
        }
        let others = [
            ("10.0.0.0/8", "10.1.0.0/16"),
            ("10.1.0.0/8", "10.1.0.0/16"),
            ("11.0.0.0/16", "10.0.0.0/8"),
        ];
        for (inner, outer) in others {
            assert!(!is_within(inner, outer), "{inner} in {outer}");
        }
    }

    #[test]
    fn a_block_has_a_length_that_fits() {
        let all = ["10.0.0.0/8", "::1/128", "10.0.0.1", "10.0.0.0/33", "10.0.0.0/", "x/8"];
        assert_eq!(all.map(is_block), [true, true, false, false, false, false]);
    }
}
