//! However many workers and queues: the same traffic, the same result.

use crate::lab::{Lab, VIPS, section};
use crate::traffic::{answers, bodies_arrive_intact, echoes, wrk};

const WORKERS: [(&str, &str); 4] =
    [("0", "one"), ("0, 1", "two"), ("0, 1, 0, 1", "four"), ("1, 1", "same-cpu")];

/// All workers share a service's rotation: each server gets its exact turn.
fn is_fair(answers: &std::collections::BTreeMap<String, usize>) {
    assert_eq!(answers.values().sum::<usize>(), 60, "{answers:?}");
    for name in ["rs1", "rs2", "rs3"] {
        let share = answers.get(name).copied().unwrap_or(0);
        assert_eq!(share, 20, "{answers:?}");
    }
}

/// `queues`: pairs of queues of each port.
fn scenario(lab: &Lab, workers: &str, queues: usize) {
    let cpus = workers.split(',').count();
    let mut config = lab.config(workers);
    for (number, interface) in ["outside", "inside"].into_iter().enumerate() {
        let device = format!("net_af_packet{number},iface={interface}0,qpairs={queues}");
        section(&mut config, &["interface", interface]).insert("device".into(), device.into());
    }
    let director = lab.direct(&config);
    for vip in VIPS {
        is_fair(&answers(lab, vip, 60));
        is_fair(&echoes(lab, vip, 60));
        bodies_arrive_intact(lab, vip, 8);
        wrk(lab, vip, "");
        lab.client(&format!("ping -c 3 -i 0.2 -W 2 {}", vip.trim_matches(['[', ']'])));
    }
    let metrics = director.balanced_metrics();
    assert_eq!(metrics.workers().len(), cpus);
    let handed = metrics.sum("packets_handed_over_total", &[("direction", "out")]);
    assert_eq!(cpus > 1, handed > 0, "{handed} packets handed over");
    for worker in metrics.workers() {
        let used = metrics.sum("connections", &[("worker", &worker)]);
        assert!(used > 0, "worker {worker} owns no connection");
    }
    let lost = metrics.sum("packets_dropped_total", &[("reason", "hand_over_full")]);
    assert_eq!(lost, 0, "packets were lost between workers");
    director.stop();
}

#[test]
fn any_number_of_workers_gives_the_same_result() {
    let lab = Lab::two_nic("workers");
    for (workers, name) in WORKERS {
        eprintln!("workers: {name}, one queue");
        scenario(&lab, workers, 1);
    }
}

#[test]
fn as_many_queues_as_workers_give_the_same_result() {
    let lab = Lab::two_nic("queues");
    scenario(&lab, "0, 1", 2);
    scenario(&lab, "0, 1, 0, 1", 4);
}

#[test]
fn fewer_queues_than_workers_give_the_same_result() {
    let lab = Lab::two_nic("fewqueues");
    scenario(&lab, "0, 1, 0, 1", 2);
    scenario(&lab, "0, 1, 0", 2);
}
