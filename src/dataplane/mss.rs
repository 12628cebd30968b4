//! The largest segment that a TCP SYN announces (RFC 9293 section 3.7.1), lowered to what the
//! links carry: for paths on which Fragmentation Needed gets lost.

use zerocopy::FromBytes;

use crate::wire::checksum::Delta;
use crate::wire::tcp::{self, TcpHeader, option};

/// Lowers the announced segment size to `limit` octets, where a larger one is announced.
pub(super) fn clamp(frame: &mut [u8], transport: usize, limit: u16) -> Option<()> {
    let segment = frame.get_mut(transport..)?;
    let (header, _) = TcpHeader::ref_from_prefix(segment).ok()?;
    let end = header.header_length();
    let at = find(segment.get(tcp::HEADER..end)?)? + tcp::HEADER;
    let field = segment.get_mut(at..at + 2)?.first_chunk_mut::<2>()?;
    let before = *field;
    if u16::from_be_bytes(before) <= limit {
        return None;
    }
    *field = limit.to_be_bytes();
    let delta = if at.is_multiple_of(2) {
        Delta::between(&before, &limit.to_be_bytes())
    } else {
        // The value lies across two words of the sum.
        let [old_high, old_low] = before;
        let [high, low] = limit.to_be_bytes();
        Delta::between(&[0, old_high, old_low, 0], &[0, high, low, 0])
    };
    let (header, _) = TcpHeader::mut_from_prefix(segment).ok()?;
    header.checksum = delta.apply(header.checksum);
    Some(())
}

/// Where the value of the option lies among these options.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [option::END, ..] => return None,
            [option::NO_OPERATION, ..] => at += 1,
            [option::MAXIMUM_SEGMENT_SIZE, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;

    /// A segment with these options, its checksum right without a pseudo header.
    fn segment(options: &[u8]) -> Vec<u8> {
        let mut octets = vec![0; tcp::HEADER];
        octets.extend_from_slice(options);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets[12] = u8::try_from(octets.len() / 4).unwrap() << 4;
        let sum = checksum::finish(&octets, 0);
        octets[16..18].copy_from_slice(&sum);
        octets
    }

    #[test]
    fn a_larger_segment_size_is_lowered_wherever_the_option_lies() {
        for before in [&[][..], &[1], &[1, 1], &[4, 2, 1], &[3, 3, 7, 8, 2, 1]] {
            let mut octets = segment(&[before, &[2, 4, 0x05, 0xb4]].concat());
            let expected = segment(&[before, &[2, 4, 0x02, 0x18]].concat());
            assert_eq!(clamp(&mut octets, 0, 536), Some(()), "{before:?}");
            assert_eq!(octets, expected, "{before:?}");
        }
    }

    #[test]
    fn what_is_small_enough_absent_or_malformed_stays() {
        let none: [&[u8]; 6] =
            [&[2, 4, 2, 24], &[], &[0, 2, 4, 9, 9], &[3, 0, 2, 4], &[2, 3, 9], &[1, 1, 1, 2]];
        for options in none {
            let mut octets = segment(options);
            let before = octets.clone();
            assert_eq!(clamp(&mut octets, 0, 536), None, "{options:?}");
            assert_eq!(octets, before, "{options:?}");
        }
    }
}
