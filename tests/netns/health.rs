//! A director that cannot do its work gives up both sides: one of its threads stands still while all
//! others go on, or the interface of a port is gone.

use std::fs;
use std::time::Duration;

use crate::lab::{Lab, eventually};
use crate::pair::{Side, all_have_asked, answers_alone};

/// Stops one thread of a process, and lets it go when this ends.
const STOPPER: &str = "
import ctypes, pathlib, sys, time
pid, name = sys.argv[1:]
tasks = pathlib.Path(f'/proc/{pid}/task').iterdir()
task = next(task for task in tasks if (task / 'comm').read_text().strip() == name)
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT = 0x4206, 0x4207
for request in SEIZE, INTERRUPT:
    assert ptrace(request, int(task.name), None, None) == 0, ctypes.get_errno()
print('stopped', flush=True)
time.sleep(100)
";

/// Stops a thread of the director.
fn stop_thread(lab: &Lab, name: &str) {
    let script = lab.state().join("stopper.py");
    fs::write(&script, STOPPER).unwrap();
    let pid = lab.pid("director");
    let line = format!("/usr/bin/python3 {} {pid} {name}", script.display());
    lab.begin("director", "stopper", &line);
    eventually(Duration::from_secs(5), &format!("{name} is stopped"), || {
        lab.log("stopper").contains("stopped").then_some(())
    });
}

#[test]
fn any_thread_that_stands_still_and_a_port_that_is_gone_move_both_sides() {
    let lab = Lab::pair("still");
    let [director, backup] = Side::both(&lab, ["0, 1", "1"], |_| ());
    all_have_asked(&lab);
    for (thread, reason) in [
        ("rte-worker-1", "worker 0 stands still"),
        ("rte-worker-2", "worker 1 stands still"),
        ("control", "the control side stands still"),
        ("failover", "it stood still for "),
    ] {
        stop_thread(&lab, thread);
        backup.becomes("master");
        answers_alone(&lab, "backup");
        all_have_asked(&lab);
        lab.end("stopper");
        director.becomes("backup");
        eventually(Duration::from_secs(5), reason, || {
            lab.log("director").contains(reason).then_some(())
        });
        director.tell("ha takeover").unwrap();
        director.becomes("master");
        backup.becomes("backup");
        all_have_asked(&lab);
    }
    lab.run("director", "ip link delete outside0");
    director.becomes("fault");
    assert_eq!(director.reason(), "interface outside has no link");
    backup.becomes("master");
    answers_alone(&lab, "backup");
    all_have_asked(&lab);
    director.dies();
    backup.stop();
}
