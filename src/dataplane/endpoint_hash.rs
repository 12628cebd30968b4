//! The hash of a flow's outside party as NICs compute it, on a packet's way: by tables, or by matrices
//! of bits on processors that multiply by these (GFNI), which leaves the cache to the connections.

use arrayvec::ArrayVec;

use crate::dpdk::affine::{Gfni, Step};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::toeplitz::{End, EndpointTables, Key, RssInput, matrix};

/// The hash of an endpoint.
#[derive(Debug)]
pub struct EndpointHash(Way);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "in an `Arc` already; another pointer would cost time"
)]
enum Way {
    Tables(Box<EndpointTables>),
    Matrices(Gfni, Matrices),
}

impl EndpointHash {
    /// Of the endpoints at one end of a packet, in the way that this processor is quickest at.
    pub fn new(key: &Key, input: RssInput, end: End) -> Self {
        match Gfni::detect() {
            Some(gfni) => Self(Way::Matrices(gfni, Matrices::new(key, input, end))),
            None => Self::by_tables(key, input, end),
        }
    }

    /// The same, in the way that every processor knows.
    pub fn by_tables(key: &Key, input: RssInput, end: End) -> Self {
        Self(Way::Tables(Box::new(EndpointTables::new(key, input, end))))
    }

    /// The hash of an endpoint.
    #[inline]
    pub fn of<A: Address>(&self, address: &A, port: U16) -> u32 {
        match &self.0 {
            Way::Tables(tables) => tables.of(address, port),
            Way::Matrices(gfni, matrices) => {
                matrices.hash(address, port, |input, steps| gfni.sum(input, steps))
            }
        }
    }
}

/// An octet of the input adds to each of the hash's four, and what it adds to the next but n is by the
/// matrix of the octet that is n places further. So one matrix serves four octets, and all that come
/// to one octet of the hash stand at one place of their lanes.
#[derive(Debug)]
struct Matrices {
    /// Address and port.
    v4: [Step; 6],
    v6_address: [Step; 10],
    v6_port: [Step; 3],
}

/// What is multiplied by one matrix: it, and the octets.
type Lane = (u64, [u8; 8]);

impl Matrices {
    fn new(key: &Key, input: RssInput, end: End) -> Self {
        let field = |bit, octets, first| lanes(key, bit, octets, first);
        let [v4, v6] = [false, true];
        let (v4_address, v4_port) = (input.address_bit(v4, end), input.port_bit(v4, end));
        Self {
            v4: steps(field(v4_address, 4, 0).chain(field(v4_port, 2, 4))),
            v6_address: steps(field(input.address_bit(v6, end), 16, 0)),
            v6_port: steps(field(input.port_bit(v6, end), 2, 0)),
        }
    }

    /// The hash; `sum` is what [`Gfni::sum`] does.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the loops over steps have a constant number")]
    fn hash<A: Address>(
        &self,
        address: &A,
        port: U16,
        sum: impl Fn([u64; 2], &[Step]) -> u64,
    ) -> u32 {
        let port = u64::from(u16::from_le_bytes(port.to_bytes()));
        let octets = address.octets();
        let wide = if let [first, second] = octets.as_chunks().0 {
            let address = [first, second].map(|half| u64::from_le_bytes(*half));
            sum(address, &self.v6_address) ^ sum([port, 0], &self.v6_port)
        } else {
            let address = octets.first_chunk().copied().unwrap_or_default();
            sum([u64::from(u32::from_le_bytes(address)) | port << 32, 0], &self.v4)
        };
        #[allow(clippy::cast_possible_truncation, reason = "the upper octets are zero")]
        let hash = wide as u32;
        hash
    }
}

/// The lanes of a field of so many octets, which begins at `bit` of what is hashed and with octet
/// `first` of what is multiplied.
fn lanes(key: &Key, bit: usize, octets: u8, first: u8) -> impl Iterator<Item = Lane> {
    (0..octets + 3).map(move |lane| {
        let matrix = matrix(key, bit + 8 * usize::from(lane));
        // The hash's most significant octet comes first, and stands last.
        let choice = std::array::from_fn(|place| {
            let later = 3_usize.checked_sub(place).and_then(|later| u8::try_from(later).ok());
            let octet = later.and_then(|later| lane.checked_sub(later));
            octet.filter(|octet| *octet < octets).map_or(Step::NONE, |octet| first + octet)
        });
        (matrix, choice)
    })
}

/// Two lanes a step; what is left over is zero.
fn steps<const STEPS: usize>(lanes: impl Iterator<Item = Lane>) -> [Step; STEPS] {
    let mut lanes = lanes.fuse();
    std::array::from_fn(|_| {
        let nothing = (0, [Step::NONE; 8]);
        let (first, second) = (lanes.next().unwrap_or(nothing), lanes.next().unwrap_or(nothing));
        let choice: ArrayVec<u8, 16> = first.1.into_iter().chain(second.1).collect();
        Step {
            choice: choice.into_inner().unwrap_or([Step::NONE; 16]),
            matrices: [first.0, second.0],
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dpdk::affine::sum_portable;
    use crate::wire::address::{V4, V6};
    use crate::wire::toeplitz::KEY_OCTETS;

    fn any_key() -> impl Strategy<Value = Key> {
        (any::<[u8; 32]>(), any::<[u8; KEY_OCTETS - 32]>()).prop_map(|(start, end)| {
            std::array::from_fn(|i| if i < 32 { start[i] } else { end[i - 32] })
        })
    }

    fn each_way_says_the_same<A: Address>(
        (key, input, end): (&Key, RssInput, End),
        address: A,
        port: u16,
    ) -> Result<(), TestCaseError> {
        let port = U16::new(port);
        let expected = EndpointHash::by_tables(key, input, end).of(&address, port);
        let matrices = Matrices::new(key, input, end);
        prop_assert_eq!(matrices.hash(&address, port, sum_portable), expected);
        // By the instructions, where they are there.
        prop_assert_eq!(EndpointHash::new(key, input, end).of(&address, port), expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn matrices_give_the_hash_that_tables_give(
            key in any_key(), is_packed in any::<bool>(), is_source in any::<bool>(),
            v4 in any::<V4>(), v6 in any::<V6>(), port in any::<u16>(),
        ) {
            let input = if is_packed { RssInput::Packed } else { RssInput::Zeroed };
            let end = if is_source { End::Source } else { End::Destination };
            each_way_says_the_same((&key, input, end), v4, port)?;
            each_way_says_the_same((&key, input, end), v6, port)?;
        }
    }
}
