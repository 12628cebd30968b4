//! The CRC32c of SCTP (RFC 9260 appendix A) and its incremental update.
//!
//! A CRC is linear: what a change of the data changes in the CRC depends on the changed octets
//! and on how many follow them, not on the data itself. So the ports of a packet are rewritten
//! without reading its payload, and a wrong checksum stays wrong.
//!
//! Polynomials over GF(2) are kept as the CRC keeps them: the highest bit is the coefficient of
//! `x^0`.

/// The Castagnoli polynomial, without `x^32`.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// `x^8`: one octet further.
const OCTET: u32 = ONE >> 8;

/// `x^(8 n)` for n below 256.
static OCTETS: [u32; 256] = powers(OCTET);
/// `x^(8 * 256 n)` for n below 256.
static PAGES: [u32; 256] = powers(power(OCTET, 256));

/// The product of two polynomials, modulo the CRC's.
#[inline]
const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        // Masks, not branches: the bits of packets cannot be foretold.
        sum ^= b & 0_u32.wrapping_sub(a >> (31 - bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        bit += 1;
    }
    sum
}

const fn power(base: u32, exponent: u32) -> u32 {
    let mut result = ONE;
    let mut done = 0;
    while done < exponent {
        result = product(result, base);
        done += 1;
    }
    result
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks the bounds")]
const fn powers(base: u32) -> [u32; 256] {
    let mut table = [ONE; 256];
    let mut place = 1;
    while place < table.len() {
        table[place] = product(table[place - 1], base);
        place += 1;
    }
    table
}

/// What exchanging four octets changes in the CRC32c of data of which they and what follows them
/// are the last `length` octets.
#[inline]
pub fn change(old: [u8; 4], new: [u8; 4], length: u16) -> u32 {
    let [high, low] = length.to_be_bytes().map(usize::from);
    // Four octets taken in: their difference times x^32, which `length` counts.
    let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let shift = match (OCTETS.get(low), PAGES.get(high)) {
        (Some(octets), Some(pages)) => product(*octets, *pages),
        // A table has an entry for every octet.
        _ => return 0,
    };
    product(difference, shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change_of_nothing_changes_nothing() {
        assert_eq!(change([1, 2, 3, 4], [1, 2, 3, 4], 1480), 0);
    }

    #[test]
    fn a_change_is_right_for_every_length_that_a_packet_can_have() {
        let mut octets = vec![0xa5; 65_535];
        let (old, new) = ([0xa5; 4], [0x00, 0x50, 0x1f, 0x90]);
        for length in (4..300).chain([511, 512, 513, 1480, 9000, 65_534, 65_535]) {
            let packet = &mut octets[..length];
            packet[..4].copy_from_slice(&old);
            let before = crc32c::crc32c(packet);
            packet[..4].copy_from_slice(&new);
            let difference = change(old, new, u16::try_from(length).unwrap());
            assert_eq!(before ^ difference, crc32c::crc32c(packet), "{length} octets");
        }
    }

    proptest! {
        #[test]
        fn a_change_gives_what_a_full_recomputation_gives(
            mut octets in prop::collection::vec(any::<u8>(), 4..3000),
            new in prop::array::uniform4(any::<u8>()),
            before in 0_usize..50,
        ) {
            let at = before.min(octets.len() - 4);
            let old = octets[at..at + 4].try_into().unwrap();
            let crc = crc32c::crc32c(&octets);
            octets[at..at + 4].copy_from_slice(&new);
            let length = u16::try_from(octets.len() - at).unwrap();
            prop_assert_eq!(crc ^ change(old, new, length), crc32c::crc32c(&octets));
        }
    }
}
