//! What the meaning of a configuration file depends on beside its text.

use crate::ids::CpuId;

/// The CPUs that a configuration may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// In ascending order; at least one.
    pub cpus: Vec<CpuId>,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn this() -> Self {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut cpus: Vec<_> =
            cores.iter().filter_map(|core| u16::try_from(core.id).ok()).map(CpuId).collect();
        cpus.sort_unstable();
        if cpus.is_empty() {
            cpus.push(CpuId(0));
        }
        Self { cpus }
    }

    /// A machine with CPUs 0 to `count` - 1.
    pub fn with_cpus(count: u16) -> Self {
        Self { cpus: (0..count.max(1)).map(CpuId).collect() }
    }

    pub(super) fn has(&self, cpu: u16) -> bool {
        self.cpus.contains(&CpuId(cpu))
    }

    /// For messages: `0-3`.
    pub(super) fn cpu_list(&self) -> String {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for CpuId(cpu) in &self.cpus {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(*cpu) => *last = *cpu,
                Some(_) | None => ranges.push((*cpu, *cpu)),
            }
        }
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
            .collect();
        ranges.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_ranges() {
        let machine = Machine { cpus: [0, 1, 2, 5, 7, 8].map(CpuId).to_vec() };
        assert_eq!(machine.cpu_list(), "0-2, 5, 7-8");
    }
}
