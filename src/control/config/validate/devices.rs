//! Which interface has which device: one each, or several VLANs of one.

use toml::Spanned;

use crate::control::config::diagnostic::{Finding, Span};
use crate::control::config::draft::{InterfaceDraft, Value};
use crate::control::config::model::Device;
use crate::control::config::reader::Problems;

/// As many ports as Debian's DPDK has (`RTE_MAX_ETHPORTS`).
const MAX_PORTS: usize = 32;
/// More VLANs would be possible; nobody has asked.
const MAX_INTERFACES: usize = 128;

/// A thing that only one port can have.
struct Taken<'d> {
    resource: String,
    device: &'d Spanned<Device>,
    is_vlan: bool,
}

pub(super) fn check(interfaces: &[InterfaceDraft], problems: &Problems) {
    let mut taken: Vec<Taken<'_>> = Vec::new();
    let mut ports = 0;
    for (index, interface) in interfaces.iter().enumerate() {
        if index == MAX_INTERFACES {
            let message = format!("there can be {MAX_INTERFACES} interfaces at most");
            problems.add(Finding::error(interface.name.span(), message));
        }
        let Some(device) = &interface.device else { continue };
        let before = interfaces.get(..index).unwrap_or_default();
        let before: Vec<_> = before.iter().filter(|other| has_device(other, device)).collect();
        if !before.is_empty() && has_vlans(interfaces, device) {
            check_vlan(&before, interface, problems);
            check_keys_of_port(&before, interface, problems);
            continue;
        }
        if ports == MAX_PORTS {
            let message = format!("DPDK has {MAX_PORTS} ports at most");
            problems.add(Finding::error(interface.name.span(), message));
        }
        ports += 1;
        check_resources(device, interface.vlan.is_some(), &mut taken, problems);
    }
}

fn has_device(interface: &InterfaceDraft, device: &Spanned<Device>) -> bool {
    interface.device.as_ref().is_some_and(|other| other.get_ref() == device.get_ref())
}

/// Whether a device is meant to have VLANs: then all interfaces that name it share it.
fn has_vlans(interfaces: &[InterfaceDraft], device: &Spanned<Device>) -> bool {
    let mut same = interfaces.iter().filter(|interface| has_device(interface, device));
    same.any(|interface| interface.vlan.is_some() || !interface.vlan_known)
}

fn check_resources<'d>(
    device: &'d Spanned<Device>,
    is_vlan: bool,
    taken: &mut Vec<Taken<'d>>,
    problems: &Problems,
) {
    for resource in device.get_ref().resources() {
        let Some(first) = taken.iter().find(|other| other.resource == resource) else {
            taken.push(Taken { resource, device, is_vlan });
            continue;
        };
        let message = format!("{resource} belongs to another interface already");
        let finding = Finding::error(device.span(), message).first_stated(first.device.span());
        problems.add(if is_vlan || first.is_vlan {
            finding.help("VLANs of one device need the same `device` in each of their sections")
        } else {
            finding
        });
    }
}

/// Each VLAN of a port has one interface.
fn check_vlan(before: &[&InterfaceDraft], interface: &InterfaceDraft, problems: &Problems) {
    let vlan = |interface: &InterfaceDraft| interface.vlan.as_ref().map(|vlan| *vlan.get_ref());
    let same = before.iter().find(|other| vlan(other) == vlan(interface) && other.vlan_known);
    let (Some(same), true) = (same, interface.vlan_known) else { return };
    let place = |interface: &InterfaceDraft| -> Span {
        let device = interface.device.as_ref().map(Spanned::span);
        let vlan = interface.vlan.as_ref().map(Spanned::span);
        vlan.or(device).unwrap_or_default()
    };
    let what = vlan(interface)
        .map_or_else(|| "the frames without a tag".to_owned(), |vlan| format!("VLAN {vlan}"));
    let message = format!("vlan: interface {} has {what} of this device already", same.name);
    let finding = Finding::error(place(interface), message).first_stated(place(same));
    problems.add(finding.help("state a `vlan` of its own for each interface of the device"));
}

/// What belongs to the port as such is stated once, or alike.
fn check_keys_of_port(before: &[&InterfaceDraft], interface: &InterfaceDraft, problems: &Problems) {
    alike("mac", before, interface, |section| &section.mac, problems);
    alike("queues", before, interface, |section| &section.queues, problems);
    alike("promiscuous", before, interface, |section| &section.promiscuous, problems);
}

fn alike<T: PartialEq + std::fmt::Display>(
    key: &str,
    before: &[&InterfaceDraft],
    interface: &InterfaceDraft,
    of: impl for<'d> Fn(&'d InterfaceDraft) -> &'d Value<T>,
    problems: &Problems,
) {
    let stated = before.iter().find_map(|other| Some((*other, of(other).as_ref()?)));
    let (Some((other, first)), Some(second)) = (stated, of(interface)) else { return };
    if first.get_ref() != second.get_ref() {
        let message = format!(
            "{key}: interface {} says {} for the same device, not {}",
            other.name,
            first.get_ref(),
            second.get_ref()
        );
        let finding = Finding::error(second.span(), message).first_stated(first.span());
        problems.add(finding.help("VLANs of one device share its port: state it once, or alike"));
    }
}
