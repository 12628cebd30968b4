//! The configurations that the tests of the packet path begin with.

use pointsman::control::config::{Config, Listing, Machine, parse};
use pointsman::ids::InterfaceId;

/// Interfaces of [`TOPOLOGY`].
pub const OUT: InterfaceId = InterfaceId(0);
pub const IN: InterfaceId = InterfaceId(1);

/// The two wires of tests/oracle/README.md; services follow.
pub const TOPOLOGY: &str = r#"
[interface.outside]
role = "outside"
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
routes = [
  { to = "198.18.0.0/15", via = "192.0.2.254" },
  { to = "203.0.113.0/24", via = "192.0.2.254" },
  { to = "2001:db8:ffff::/48", via = "2001:db8:1::254" },
]
[interface.outside.neighbors]
"192.0.2.254" = "02:00:00:00:00:01"
"2001:db8:1::254" = "02:00:00:00:00:01"

[interface.inside]
role = "inside"
# inside mtu
addresses = ["10.0.0.1/24", "fd00::1/64"]
[interface.inside.neighbors]
"10.0.0.11" = "02:00:00:00:01:01"
"10.0.0.12" = "02:00:00:00:01:01"
"10.0.0.13" = "02:00:00:00:01:01"
"10.0.0.14" = "02:00:00:00:01:01"
"fd00::11" = "02:00:00:00:01:01"
"fd00::12" = "02:00:00:00:01:01"
"#;

/// A pair of directors on both wires; what else is said of it takes the place of `# more`.
pub const PAIR: &str = r#"
[[failover]]
name = "pair"
router_id = 51
# more
floating = [
  { interface = "outside", address = "192.0.2.100" },
  { interface = "outside", address = "2001:db8:1::100" },
  { interface = "inside", address = "10.0.0.254" },
  { interface = "inside", address = "fd00::254" },
]
"#;

/// The comment of an interface on the port of the one before it.
const SAME_PORT: &str = "# On the same port.";

/// The text of a configuration file in which the interfaces lack their devices, with these.
pub fn with_devices(text: &str, devices: &[String]) -> String {
    let mut devices = devices.iter();
    let mut device = None;
    let mut whole = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        whole.push_str(line);
        whole.push('\n');
        if line.starts_with("[interface.") && line.matches('.').count() == 1 {
            if lines.peek() != Some(&SAME_PORT) {
                device = devices.next();
            }
            let device = device.expect("a device for every port");
            whole.push_str(&format!("device = {device:?}\n"));
        }
    }
    whole
}

/// A valid configuration from the text of a file in which the interfaces lack their devices.
pub fn configuration(text: &str) -> Config {
    let text = with_devices(text, &["net_null0".into(), "net_null1".into()]);
    match parse(&text, "the test's configuration", &Machine::with_cpus(8)) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{}\n{text}", Listing(&errors)),
    }
}
