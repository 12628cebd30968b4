//! The DPDK device of an interface: a PCI address, or a virtual device as `--vdev` takes it.

use toml::de::DeValue;

use super::model::Device;
use super::reader::{Wrong, nearest};
use super::value::kind;

/// The drivers of virtual devices that DPDK has, with the argument that each cannot do without.
const DRIVERS: [(&str, &[&str]); 14] = [
    ("net_af_packet", &["iface"]),
    ("net_af_xdp", &["iface"]),
    ("net_bonding", &[]),
    ("net_failsafe", &[]),
    ("net_memif", &[]),
    ("net_null", &[]),
    ("net_pcap", &["rx_pcap", "tx_pcap", "iface", "rx_iface", "rx_iface_in", "tx_iface"]),
    ("net_ring", &[]),
    ("net_softnic", &[]),
    ("net_tap", &[]),
    ("net_tun", &[]),
    ("net_vdev_netvsc", &[]),
    ("net_vhost", &["iface"]),
    ("net_virtio_user", &["path"]),
];

impl Device {
    /// The value of an argument of a virtual device.
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.arguments().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The arguments of a virtual device.
    pub fn arguments(&self) -> impl Iterator<Item = (&str, &str)> {
        let args = match self {
            Self::Pci(_) => "",
            Self::Vdev { args, .. } => args,
        };
        args.split(',')
            .filter(|arg| !arg.is_empty())
            .map(|arg| arg.split_once('=').unwrap_or((arg, "")))
    }

    /// The driver of a virtual device: its name without the number.
    pub fn driver(&self) -> Option<&str> {
        match self {
            Self::Pci(_) => None,
            Self::Vdev { name, .. } => Some(driver_of(name)),
        }
    }

    /// What two interfaces cannot share, each as a line of text.
    pub(super) fn resources(&self) -> Vec<String> {
        let Self::Vdev { name, .. } = self else {
            let Self::Pci(address) = self else { return Vec::new() };
            return vec![format!("PCI device {address}")];
        };
        let mut resources = Vec::new();
        if driver_of(name) != name {
            resources.push(format!("device {name}"));
        }
        for (key, value) in self.arguments() {
            match key {
                "iface" if driver_of(name) == "net_vhost" => {
                    resources.push(format!("socket {value}"));
                }
                "iface" => resources.push(format!("network interface {value}")),
                "tx_pcap" => resources.push(format!("output file {value}")),
                _ => {}
            }
        }
        resources
    }
}

fn driver_of(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

pub(super) fn device(value: &DeValue<'_>) -> Result<Device, Wrong> {
    let help = "write a PCI address (\"0000:3b:00.0\", see dpdk-devbind.py --status) or a DPDK \
                virtual device (\"net_af_packet,iface=eth0\")";
    let Some(text) = value.as_str().map(str::trim) else {
        let found = kind(value);
        return Err(Wrong::new(format!("expected a string, found {found}")).help(help));
    };
    if let Some(address) = pci_address(text) {
        return Ok(Device::Pci(address));
    }
    let (name, args) = text.split_once(',').unwrap_or((text, ""));
    let drivers: Vec<_> = DRIVERS.iter().map(|(name, _)| *name).collect();
    let Some((driver, needs)) = DRIVERS.iter().find(|(driver, _)| *driver == driver_of(name))
    else {
        if name.starts_with("net_") {
            return Err(Wrong::new(format!("there is no DPDK driver {name:?}")).help(nearest(
                driver_of(name),
                &drivers,
                "drivers",
            )));
        }
        return Err(Wrong::new(format!("{text:?} is not a DPDK device")).help(
            if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric()) {
                help.into()
            } else {
                format!(
                    "for the network interface {text} write \"net_af_packet,iface={text}\", or its \
                     PCI address"
                )
            },
        ));
    };
    if args.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new("the arguments of a device contain no white space"));
    }
    let device = Device::Vdev { name: name.into(), args: args.into() };
    let has = |key: &&str| device.argument(key).is_some_and(|value| !value.is_empty());
    if needs.is_empty() || needs.iter().any(has) {
        return Ok(device);
    }
    let first = needs.first().copied().unwrap_or_default();
    Err(Wrong::new(format!("{driver} needs an argument: {}=…", needs.join("=…, or ")))
        .help(format!("write for example \"{name},{first}={}\"", example(first))))
}

fn example(argument: &str) -> &'static str {
    match argument {
        "rx_pcap" => "in.pcap,tx_pcap=out.pcap",
        "path" => "/run/vhost.sock",
        _ => "eth0",
    }
}

/// `0000:3b:00.0` in DPDK's own form, from that or from `3b:00.0`.
fn pci_address(text: &str) -> Option<String> {
    let hex = |text: &str, digits| {
        let good = text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit());
        good.then(|| text.to_ascii_lowercase())
    };
    let (bus_device, function) = text.rsplit_once('.')?;
    let mut parts = bus_device.rsplit(':');
    let (device, bus) = (hex(parts.next()?, 2)?, hex(parts.next()?, 2)?);
    let domain = parts.next().map_or(Some("0000".into()), |domain| hex(domain, 4))?;
    let function = hex(function, 1).filter(|function| function.as_str() < "8")?;
    parts.next().is_none().then(|| format!("{domain}:{bus}:{device}.{function}"))
}

/// Numbers the virtual devices that have no number and are not the only one of their driver:
/// EAL wants distinct names.
pub(super) fn number_virtual_devices(devices: &mut [&mut Device]) {
    let drivers: Vec<_> = devices.iter().map(|device| device.driver().map(str::to_owned)).collect();
    let mut taken: Vec<String> = devices
        .iter()
        .filter_map(|device| match &**device {
            Device::Vdev { name, .. } if driver_of(name) != name => Some(name.clone()),
            Device::Pci(_) | Device::Vdev { .. } => None,
        })
        .collect();
    for (index, device) in devices.iter_mut().enumerate() {
        let Device::Vdev { name, .. } = &mut **device else { continue };
        let same_driver =
            drivers.iter().filter(|driver| driver.as_deref() == Some(driver_of(name))).count();
        if driver_of(name) != name || same_driver < 2 {
            continue;
        }
        let numbers = index..index + drivers.len() + 1;
        let free = numbers.map(|number| format!("{name}{number}")).find(|new| !taken.contains(new));
        *name = free.unwrap_or_else(|| name.clone());
        taken.push(name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vdev(name: &str) -> Device {
        Device::Vdev { name: name.into(), args: String::new() }
    }

    #[test]
    fn a_pci_address_takes_one_form() {
        assert_eq!(pci_address("3B:00.1").as_deref(), Some("0000:3b:00.1"));
        assert_eq!(pci_address("0001:3b:1f.7").as_deref(), Some("0001:3b:1f.7"));
        for wrong in ["3b:00", "3b:00.8", "3b:0.0", "00:0000:3b:00.0", "1.2", "é:00.0"] {
            assert_eq!(pci_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn devices_of_one_driver_get_distinct_numbers() {
        let mut devices = [vdev("net_null"), vdev("net_null1"), vdev("net_null"), vdev("net_tap")];
        // As the second one's own number is 1, so that the first takes its index, 0.
        let [a, b, c, d] = &mut devices;
        number_virtual_devices(&mut [a, b, c, d]);
        let names = ["net_null0", "net_null1", "net_null2", "net_tap"];
        assert_eq!(devices, names.map(vdev));
    }

    #[test]
    fn a_number_that_is_taken_is_passed_over() {
        let mut devices = [vdev("net_null1"), vdev("net_null")];
        let [a, b] = &mut devices;
        number_virtual_devices(&mut [a, b]);
        assert_eq!(devices, ["net_null1", "net_null2"].map(vdev));
    }
}
