//! Where pointsman deliberately does not answer as ipvsadm and the kernel did, and exactly what
//! it answers instead.

use crate::Outcome;

pub(crate) struct Difference {
    /// The command that differs.
    pub(crate) command: &'static str,
    /// What the recording would be if they did as pointsman.
    pub(crate) instead: fn(&Outcome) -> Outcome,
}

const fn differs(command: &'static str, instead: fn(&Outcome) -> Outcome) -> Difference {
    Difference { command, instead }
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    // The words of the original's help are under its licence; and this one says what is refused.
    differs("ipvsadm -h", |recorded| Outcome { stdout: crate::help(), ..recorded.clone() }),
    // pointsman forwards by masquerading alone: real servers that are reached otherwise would
    // answer past the director. Listings do without these servers from then on.
    differs("ipvsadm -a -t 192.0.2.100:80 -r 10.0.0.13 -g", |_| {
        Outcome::refused(
            "gatewaying (-g, which is the default) is not supported: pointsman forwards by \
         masquerading alone, use -m\n",
        )
    }),
    differs("ipvsadm -a -t 192.0.2.100:80 -r 10.0.0.14 -i", |_| {
        Outcome::refused(
            "tunneling (-i) is not supported: pointsman forwards by masquerading alone, use -m\n",
        )
    }),
    differs("ipvsadm -ln", without_refused_servers),
    differs("ipvsadm -l -n --stats", without_refused_servers),
    differs("ipvsadm -ln --rate", without_refused_servers),
    differs("ipvsadm -ln --thresholds", without_refused_servers),
    differs("ipvsadm -ln --persistent-conn", without_refused_servers),
    differs("ipvsadm -ln --tun-info", without_refused_servers),
    differs("ipvsadm -ln --sort", without_refused_servers),
    differs("ipvsadm -S -n", without_refused_servers),
    differs("ipvsadm-save -n", without_refused_servers),
    differs("ipvsadm -ln -t 192.0.2.100:80", without_refused_servers),
    // The kernel lists services by a hash that includes an address of its memory; pointsman in
    // the order in which they were made.
    differs("ipvsadm -ln --nosort", |recorded| {
        in_order_of_making(&without_refused_servers(recorded))
    }),
];

fn without_refused_servers(recorded: &Outcome) -> Outcome {
    let is_refused = |line: &&str| line.contains("10.0.0.13") || line.contains("10.0.0.14");
    let kept: Vec<_> = recorded.stdout.lines().filter(|line| !is_refused(line)).collect();
    Outcome { stdout: kept.join("\n") + "\n", ..recorded.clone() }
}

fn in_order_of_making(recorded: &Outcome) -> Outcome {
    const MADE: [&str; 7] = [
        "TCP  192.0.2.100:80 ",
        "UDP  192.0.2.100:53 ",
        "TCP  [2001:db8:1::100]:443 ",
        "FWM  7 ",
        "UDP  192.0.2.100:69 ",
        "FWM  8 ",
        "TCP  192.0.2.100:0 ",
    ];
    let lines: Vec<_> = recorded.stdout.lines().collect();
    let (header, services) = lines.split_at(3);
    let mut ordered = header.to_vec();
    for service in MADE {
        let start = services.iter().position(|line| line.starts_with(service)).unwrap();
        let servers = services[start + 1..].iter().take_while(|line| line.starts_with("  -> "));
        ordered.extend(services[start..=start].iter().chain(servers));
    }
    assert_eq!(ordered.len(), lines.len());
    Outcome { stdout: ordered.join("\n") + "\n", ..recorded.clone() }
}
