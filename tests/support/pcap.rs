//! Frames in pcap files. The time of a frame is its millisecond in the test.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

/// A frame of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    pub at_ms: u32,
    pub octets: Vec<u8>,
}

/// All frames of a file; none when there is no such file.
pub fn read(path: &Path) -> Vec<Stamped> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut reader = PcapReader::new(file).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert_eq!(packet.orig_len as usize, packet.data.len(), "{}: cut", path.display());
        frames.push(Stamped {
            at_ms: packet.timestamp.as_millis() as u32,
            octets: packet.data.into_owned(),
        });
    }
    frames
}

pub fn write(path: &Path, frames: &[Stamped]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for frame in frames {
        let at = Duration::from_millis(frame.at_ms.into());
        let packet = PcapPacket::new(at, frame.octets.len() as u32, &frame.octets);
        writer.write_packet(&packet).unwrap();
    }
}
