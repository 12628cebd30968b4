//! What is tracked moves the addresses between two real directors: programs and the share of servers
//! that take connections.

use std::fs;
use std::time::Duration;

use crate::lab::{Lab, eventually};
use crate::pair::{Side, all_have_asked, answers_alone, set};

const LONG: Duration = Duration::from_secs(20);

/// Services, and their servers 11 to 13.
const SERVERS: [(&str, &str); 3] =
    [("echo6", "[fd00:a::N]:7007"), ("web", "10.0.0.N:8080"), ("web6", "[fd00:a::N]:8080")];

/// A program that ends each time as its plan says, whose last line holds for good.
struct Program<'l>(&'l Lab);

impl<'l> Program<'l> {
    fn new(lab: &'l Lab) -> Self {
        let program = Self(lab);
        let text = "#!/bin/sh\ncd \"${0%/*}\"\necho >>runs\nturn=$(wc -l <runs)\n\
            code=$(sed -n \"${turn}p\" plan)\nexit \"${code:-$(tail -n 1 plan)}\"\n";
        program.write("program", text);
        lab.run("director", &format!("chmod +x {}", program.path()));
        program.write("plan", "0\n");
        program
    }

    fn write(&self, name: &str, text: &str) {
        // As a whole, for it may just be read.
        let file = self.0.state().join(name);
        fs::write(file.with_extension("new"), text).unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
    }

    fn path(&self) -> String {
        self.0.state().join("program").display().to_string()
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.0.state().join("runs")).unwrap_or_default().lines().count()
    }

    /// It ends with these codes from soon on, and the last one has been seen.
    fn ends_with(&self, codes: &str) {
        let before = fs::read_to_string(self.0.state().join("plan")).unwrap();
        let before = before.lines().last().unwrap();
        let soon = self.runs() + 3;
        let all = [vec![before; soon], codes.split(' ').collect()].concat();
        self.write("plan", &format!("{}\n", all.join("\n")));
        eventually(LONG, "it has run", || (self.runs() > all.len()).then_some(()));
        // What is tracked is looked at once a second.
        std::thread::sleep(Duration::from_millis(1500));
    }
}

fn priority(side: &Side<'_>) -> u64 {
    side.ask().unwrap()["priority"].as_u64().unwrap()
}

/// This one is the master and sends this priority, and the other one is what is stated.
fn stands(master: &Side<'_>, sends: u64, other: (&Side<'_>, &str, u64)) {
    master.becomes("master");
    other.0.becomes(other.1);
    assert_eq!((priority(master), priority(other.0)), (sends, other.2));
}

#[test]
fn a_program_and_the_share_of_servers_move_the_addresses_by_their_weights() {
    let lab = Lab::pair("weights");
    let program = Program::new(&lab);
    let path = program.path();
    let tracks = format!(
        "track = [\n\
         {{ script = \"{path}\", interval = \"200ms\", rise = 3, fall = 2, weight = -100 }},\n\
         {{ servers = 90, weight = -60 }}, {{ servers = 40 }},\n]\n"
    );
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        let is_better = config["failover"][0]["priority"].as_integer() == Some(150);
        set(config, &format!("preempt = true\n{}", if is_better { &tracks } else { "" }));
    });
    let changes = || director.ask().unwrap()["transitions"].as_u64().unwrap();
    let before = changes();
    // Fewer bad ends in a row than it takes change nothing.
    program.ends_with("1 0 1 0");
    assert_eq!((changes(), priority(&director)), (before, 150));
    program.ends_with("1 1");
    stands(&backup, 100, (&director, "backup", 50));
    all_have_asked(&lab);
    // Nor do fewer good ones.
    program.ends_with("0 0 1 0 0 1");
    stands(&backup, 100, (&director, "backup", 50));
    program.ends_with("0 0 0");
    stands(&director, 150, (&backup, "backup", 100));

    // Of 14 servers 11 are 78 %, and 5 are 35 %.
    let weigh = |weight: u32, services: &[(&str, &str)]| {
        for (service, server) in services {
            for number in ["11", "12", "13"] {
                let server = server.replace('N', number);
                let line = format!("set {service}/{server} weight={weight}");
                assert!(director.tell(&line).is_some(), "{line}");
            }
        }
    };
    weigh(0, &SERVERS[..1]);
    stands(&backup, 100, (&director, "backup", 90));
    weigh(0, &SERVERS[1..]);
    director.becomes("fault");
    assert_eq!(director.reason(), "35 % of the servers take connections");
    answers_alone(&lab, "backup");
    weigh(1, &SERVERS);
    stands(&director, 150, (&backup, "backup", 100));
    all_have_asked(&lab);
    director.stop();
    backup.stop();
}
