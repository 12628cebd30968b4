//! VRRP advertisements: version 3 (RFC 9568) and version 2 (RFC 3768).

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::address::{V4, V6};
use super::checksum;
use super::ethernet::Mac;
use super::ipv4::protocol;

/// Hop limit, or TTL, of every advertisement; another one proves that it was forwarded (RFC 9568
/// section 5.1.1.3).
pub const HOP_LIMIT: u8 = 255;
/// Where IPv4 advertisements go (RFC 9568 section 5.1.1.2).
pub const GROUP_V4: V4 = [224, 0, 0, 18];
/// Where IPv6 advertisements go (RFC 9568 section 5.1.2.2).
pub const GROUP_V6: V6 = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];
/// The priority of who owns the addresses (RFC 9568 section 5.2.4).
pub const OWNER: u8 = 255;
/// The priority of who gives them up (RFC 9568 section 5.2.4).
pub const RESIGNED: u8 = 0;
/// Octets before the addresses.
pub const HEADER: usize = 8;
/// Octets of version 2's authentication data (RFC 3768 section 5.3.10).
pub const AUTHENTICATION: usize = 8;
/// Addresses that an advertisement may have room for.
pub const ADDRESSES: usize = 255;
/// The longest interval of version 3, hundredths of a second.
pub const LONGEST_INTERVAL: u16 = 0x0fff;

/// `version << 4 | type` of an advertisement, the only type.
const ADVERTISEMENT: u8 = 1;
/// Version 2's authentication types (RFC 3768 section 5.3.6, RFC 2338 section 5.3.6).
const NO_AUTHENTICATION: u8 = 0;
const SIMPLE_TEXT: u8 = 1;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768: IPv4 alone, intervals of whole seconds.
    V2,
    /// RFC 9568: both families, intervals of hundredths of a second.
    V3,
}

impl Version {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// The Ethernet address of a virtual router (RFC 9568 section 7.3).
pub const fn virtual_mac(router_id: u8, is_v6: bool) -> Mac {
    [0x00, 0x00, 0x5e, 0x00, if is_v6 { 0x02 } else { 0x01 }, router_id]
}

/// The addresses that an advertisement went from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Of the sender.
    pub source: IpAddr,
    /// The group, or a peer.
    pub destination: IpAddr,
}

impl Ends {
    /// The sum over the pseudo header (RFC 8200 section 8.1).
    fn pseudo_header(self, length: usize) -> u16 {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        match (self.source, self.destination) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                checksum::pseudo_header(&from.octets(), &to.octets(), protocol::VRRP, length)
            }
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                checksum::pseudo_header(&from.octets(), &to.octets(), protocol::VRRP, length)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        }
    }
}

/// An advertisement's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Its version.
    pub version: Version,
    /// The virtual router (VRID).
    pub router_id: u8,
    /// The sender's; [`RESIGNED`]: it gives up.
    pub priority: u8,
    /// How many addresses follow.
    pub count: u8,
    /// How often it is sent: hundredths of a second.
    pub interval: u16,
    /// Version 2: the password, padded with zeros.
    pub password: Option<[u8; AUTHENTICATION]>,
}

/// What an advertisement is sent with.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// Its head; `count` is that of the addresses.
    pub head: Advertisement,
    /// The virtual router's addresses, of the family of `ends`.
    pub addresses: &'a [IpAddr],
    /// From and to.
    pub ends: Ends,
    /// Whether the checksum of version 3 over IPv4 has a pseudo header, too: RFC 5798 was read so
    /// (by keepalived, FRR); RFC 9568 section 5.2.8 says that it has none.
    pub pseudo_header: bool,
}

/// Why an advertisement is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// Another version, or type.
    #[error("version and type are {0:#04x}")]
    Version(u8),
    /// A sum that is not right.
    #[error("its checksum is wrong")]
    Checksum,
    /// An authentication type that RFC 3768 does not know or that this does not speak.
    #[error("authentication type {0} is not known")]
    Authentication(u8),
    /// Version 2 is for IPv4 alone.
    #[error("version 2 is not spoken over IPv6")]
    Family,
}

impl Advertisement {
    /// Reads the payload of an IP packet. The addresses lie behind the first [`HEADER`] octets.
    ///
    /// # Errors
    /// It is none, or was changed on its way.
    pub fn parse(octets: &[u8], ends: Ends) -> Result<Self, Wrong> {
        let Some((&[kind, router_id, priority, count, fifth, sixth, ..], rest)) =
            octets.split_first_chunk::<HEADER>()
        else {
            return Err(Wrong::Truncated);
        };
        let is_v6 = ends.source.is_ipv6();
        let width = if is_v6 { size_of::<V6>() } else { size_of::<V4>() };
        let addresses = usize::from(count) * width;
        let (version, authentication) = match (kind, is_v6) {
            (0x21, false) => (Version::V2, AUTHENTICATION),
            (0x21, true) => return Err(Wrong::Family),
            (0x31, _) => (Version::V3, 0),
            _ => return Err(Wrong::Version(kind)),
        };
        // Without authentication some senders leave its data out.
        let length = HEADER + addresses + authentication;
        let password = rest.get(addresses..addresses + authentication);
        let message = match (octets.get(..length), version, fifth) {
            (Some(message), ..) => message,
            (None, Version::V2, NO_AUTHENTICATION) => {
                octets.get(..HEADER + addresses).ok_or(Wrong::Truncated)?
            }
            (None, ..) => return Err(Wrong::Truncated),
        };
        let plain = checksum::sum(message);
        let with_header =
            checksum::fold(u64::from(plain) + u64::from(ends.pseudo_header(message.len())));
        let is_right = match version {
            Version::V2 => plain == 0xffff,
            Version::V3 => with_header == 0xffff || !is_v6 && plain == 0xffff,
        };
        if !is_right {
            return Err(Wrong::Checksum);
        }
        let (interval, password) = match (version, fifth) {
            (Version::V3, high) => (u16::from_be_bytes([high & 0x0f, sixth]), None),
            (Version::V2, NO_AUTHENTICATION) => (u16::from(sixth) * 100, None),
            (Version::V2, SIMPLE_TEXT) => {
                (u16::from(sixth) * 100, password.and_then(|octets| octets.try_into().ok()))
            }
            (Version::V2, other) => return Err(Wrong::Authentication(other)),
        };
        Ok(Self { version, router_id, priority, count, interval, password })
    }
}

impl Sending<'_> {
    /// Octets that it will have.
    pub fn octets(&self) -> usize {
        let width = if self.ends.source.is_ipv6() { size_of::<V6>() } else { size_of::<V4>() };
        let authentication = match self.head.version {
            Version::V2 => AUTHENTICATION,
            Version::V3 => 0,
        };
        HEADER + self.addresses.len() * width + authentication
    }

    /// Writes the payload of an IP packet; `None`: it does not fit.
    pub fn write<const N: usize>(&self) -> Option<ArrayVec<u8, N>> {
        let Advertisement { version, router_id, priority, interval, password, .. } = self.head;
        let count = u8::try_from(self.addresses.len()).ok()?;
        let mut octets = ArrayVec::<u8, N>::new();
        let [high, low] = interval.to_be_bytes();
        let (kind, fifth, sixth) = match (version, password) {
            (Version::V3, _) => (3, high & 0x0f, low),
            (Version::V2, None) => (2, NO_AUTHENTICATION, whole_seconds(interval)),
            (Version::V2, Some(_)) => (2, SIMPLE_TEXT, whole_seconds(interval)),
        };
        let header = [kind << 4 | ADVERTISEMENT, router_id, priority, count, fifth, sixth, 0, 0];
        octets.try_extend_from_slice(&header).ok()?;
        for address in self.addresses {
            match address {
                IpAddr::V4(v4) => octets.try_extend_from_slice(&v4.octets()).ok()?,
                IpAddr::V6(v6) => octets.try_extend_from_slice(&v6.octets()).ok()?,
            }
        }
        if version == Version::V2 {
            octets.try_extend_from_slice(&password.unwrap_or_default()).ok()?;
        }
        let needs_header =
            version == Version::V3 && (self.ends.source.is_ipv6() || self.pseudo_header);
        let parts = if needs_header { self.ends.pseudo_header(octets.len()) } else { 0 };
        let sum = checksum::finish(&octets, parts);
        octets.get_mut(HEADER - 2..HEADER)?.copy_from_slice(&sum);
        Some(octets)
    }
}

fn whole_seconds(hundredths: u16) -> u8 {
    u8::try_from(hundredths / 100).unwrap_or(u8::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    const HEAD: Advertisement = Advertisement {
        version: Version::V3,
        router_id: 51,
        priority: 150,
        count: 2,
        interval: 10,
        password: None,
    };

    fn sending(head: Advertisement, addresses: &[IpAddr], ends: Ends) -> Sending<'_> {
        Sending { head, addresses, ends, pseudo_header: false }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let v4 = ["192.0.2.100", "192.0.2.101"].map(|text| text.parse().unwrap());
        let v6 = ["fe80::1", "2001:db8::100"].map(|text| text.parse().unwrap());
        let old = Advertisement { version: Version::V2, interval: 300, ..HEAD };
        let secret = Advertisement { password: Some(*b"secret\0\0"), ..old };
        let from4 = ends("192.0.2.1", "224.0.0.18");
        let from6 = ends("fe80::2", "ff02::12");
        for (head, addresses, ends) in
            [(HEAD, &v4, from4), (HEAD, &v6, from6), (old, &v4, from4), (secret, &v4, from4)]
        {
            for pseudo_header in [false, true] {
                let sending = Sending { pseudo_header, ..sending(head, addresses, ends) };
                let octets = sending.write::<1500>().unwrap();
                assert_eq!(octets.len(), sending.octets());
                assert_eq!(Advertisement::parse(&octets, ends), Ok(head));
                damaged_ones_are_noticed(&octets, head, ends);
            }
        }
    }

    fn damaged_ones_are_noticed(octets: &[u8], head: Advertisement, ends: Ends) {
        for place in 0..octets.len() {
            let mut changed = octets.to_vec();
            changed[place] ^= 0x04;
            assert_ne!(Advertisement::parse(&changed, ends), Ok(head), "octet {place}");
            // Version 2 may leave authentication data out that says nothing.
            let is_plain = head.version == Version::V2 && head.password.is_none();
            let is_whole = is_plain && place >= octets.len() - AUTHENTICATION;
            let cut = Advertisement::parse(&octets[..place], ends);
            assert!(is_whole || cut.is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_sum_by_hand_is_the_sum() {
        let v4 = ["192.0.2.100".parse().unwrap()];
        let head = Advertisement { version: Version::V2, count: 1, interval: 100, ..HEAD };
        let octets = sending(head, &v4, ends("192.0.2.1", "224.0.0.18")).write::<64>().unwrap();
        // 0x2133 + 0x9601 + 0x0001 + 0xc000 + 0x0264 = 0x1_7999, that is 0x799a.
        assert_eq!(octets[..8], [0x21, 51, 150, 1, 0, 1, 0x86, 0x65]);
    }

    #[test]
    fn what_no_one_should_send_is_refused() {
        let from = ends("192.0.2.1", "224.0.0.18");
        let of = |kind: u8, fifth: u8| {
            let mut octets = [kind, 51, 100, 0, fifth, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let sum = checksum::finish(&octets, 0);
            octets[6..8].copy_from_slice(&sum);
            Advertisement::parse(&octets, from)
        };
        assert_eq!(of(0x22, 0), Err(Wrong::Version(0x22)));
        assert_eq!(of(0x41, 0), Err(Wrong::Version(0x41)));
        assert_eq!(of(0x21, 2), Err(Wrong::Authentication(2)));
        assert!(of(0x21, 0).is_ok());
        let v6 = ends("fe80::1", "ff02::12");
        assert_eq!(Advertisement::parse(&[0x21, 1, 1, 0, 0, 1, 0, 0], v6), Err(Wrong::Family));
        let many = vec![IpAddr::from([10, 0, 0, 1]); 256];
        assert!(sending(HEAD, &many, from).write::<4096>().is_none());
        assert!(sending(HEAD, &many[..20], from).write::<64>().is_none());
    }

    #[test]
    fn a_version_2_message_without_authentication_data_is_understood() {
        let from = ends("192.0.2.1", "224.0.0.18");
        let mut octets = [0x21, 51, 100, 0, 0, 1, 0, 0];
        let sum = checksum::finish(&octets, 0);
        octets[6..8].copy_from_slice(&sum);
        assert_eq!(Advertisement::parse(&octets, from).unwrap().interval, 100);
    }
}
