//! The states of a TCP connection, and how long it is in them.

use crate::support::director::{IN, OUT, Setup, TestDirector};
use crate::support::packet::{ACK, FIN, PacketBuilder, RST, SYN};
use crate::{array, recorded, text};

fn control_bits(flags: &str) -> u8 {
    let bit = |flag| match flag {
        'S' => SYN,
        'A' => ACK,
        'F' => FIN,
        'R' => RST,
        other => panic!("flag {other}"),
    };
    flags.chars().map(bit).fold(0, |all, bit| all | bit)
}

/// Every recorded path of a TCP connection: after each packet, the state that `ipvsadm -lnc`
/// showed, the seconds to its expiry, and whether the packet was forwarded.
#[test]
fn tcp_states_and_timeouts_are_those_of_the_kernel() {
    let paths = recorded("tcp_states.json");
    assert!(paths.len() > 90);
    for (number, path) in paths.iter().enumerate() {
        let mut director = Setup::with_services(
            "[[service]]\nname = \"web\"\nlisten = \"tcp://192.0.2.100:80\"\n\
             servers = [{ address = \"10.0.0.11:80\" }]\n",
        )
        .connections(16, 0)
        .start();
        let mut story = String::new();
        for step in array(path, "steps") {
            let packet = &step["packet"];
            let (from, flags) = (text(packet, "from"), text(packet, "flags"));
            story.push_str(&format!("{from} {flags}, "));
            let control = control_bits(flags);
            if from == "client" {
                let frame = PacketBuilder::tcp("198.18.7.7:20000", "192.0.2.100:80");
                director.receive(OUT, &frame.flags(control).build());
            } else {
                let frame = PacketBuilder::tcp("10.0.0.11:80", "198.18.7.7:20000").from_server();
                director.receive(IN, &frame.flags(control).build());
            }
            let what = format!("path {number}: {story}");
            let forwarded = step["forwarded"].as_u64().unwrap();
            assert_eq!(director.take_sent().len() as u64, forwarded, "{what}");
            let [row] = director.list()[..] else { panic!("{what}: one connection") };
            assert_eq!(row.state.name(), text(step, "state"), "{what}");
            // Recorded a moment after the packet, and cut to whole seconds.
            let expires = u64::from(row.expires_ms).div_ceil(1000) - 1;
            assert_eq!(expires, step["expires_s"].as_u64().unwrap(), "{what}");
            director.advance(10);
        }
        expires_when_said(&mut director);
    }
}

/// The connection is there until its timeout and gone a quarter of a second after.
fn expires_when_said(director: &mut TestDirector) {
    let left = director.list()[0].expires_ms;
    director.advance(left - 1);
    assert_eq!(director.connections(), 1, "not before its time");
    director.advance(257);
    assert_eq!(director.connections(), 0, "256 ms after its time");
}
