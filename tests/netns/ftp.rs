//! FTP through the director: vsftpd behind it; curl, lftp and clients of our own before it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use toml::{Table, Value};

use crate::director::{Director, Metrics};
use crate::lab::{Lab, VIP4, VIP6, VIPS, eventually, section};
use crate::traffic::{nothing_was_lost, shares};

/// The services: FTP's own port, and another one.
const PORTS: [u16; 2] = [21, 2121];

/// How often a file names its server: 256 KiB.
const NAMES: usize = 1 << 16;

/// A vsftpd on each server, with the server's name as a file, once and so often that it fills the
/// buffers of sockets, 3 MiB of data, and a place for uploads.
pub(crate) fn start_servers(lab: &Lab, more: &str) {
    for server in ["rs1", "rs2", "rs3"] {
        let root = lab.state().join(format!("ftp-{server}"));
        let upload = root.join("upload");
        fs::create_dir_all(&upload).unwrap();
        for directory in [&lab.state(), &root] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&upload, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(root.join("name"), format!("{server}\n")).unwrap();
        fs::write(root.join("names"), format!("{server}\n").repeat(NAMES)).unwrap();
        let data: Vec<u8> =
            (0..3_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(root.join("big"), data).unwrap();
        for number in 0..20 {
            fs::write(root.join(format!("small{number}")), format!("{number}\n")).unwrap();
        }
        let config = format!(
            "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
             no_anon_password=YES\nanon_root={}\nwrite_enable=YES\nanon_upload_enable=YES\n\
             anon_other_write_enable=YES\nanon_umask=022\nconnect_from_port_20=YES\n\
             seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\nxferlog_enable=NO\n\
             secure_chroot_dir=/var/run/vsftpd/empty\nftpd_banner=this is {server}\n{more}",
            root.display()
        );
        let file = lab.state().join(format!("vsftpd-{server}.conf"));
        fs::write(&file, config).unwrap();
        lab.lab(&["start", server, &format!("{server}-vsftpd"), "vsftpd", file.to_str().unwrap()]);
        eventually(Duration::from_secs(10), "vsftpd listens", || {
            lab.run(server, "ss -Hltn sport = 21").contains("LISTEN").then_some(())
        });
    }
}

pub(crate) fn service(vip: &str, port: u16, server_port: u16, servers: &[&str]) -> Value {
    let mut service = Table::new();
    let name = format!("ftp{}-{port}", if vip.starts_with('[') { "6" } else { "" });
    service.insert("name".into(), name.into());
    service.insert("listen".into(), format!("tcp://{vip}:{port}").into());
    service.insert("scheduler".into(), "rr".into());
    if port != 21 {
        service.insert("helper".into(), "ftp".into());
    }
    let server = |name: &&str| {
        let number = name.trim_start_matches("rs");
        let address = if vip.starts_with('[') {
            format!("[fd00:a::1{number}]:{server_port}")
        } else {
            format!("10.0.0.1{number}:{server_port}")
        };
        Value::Table(Table::from_iter([("address".to_owned(), Value::from(address))]))
    };
    service.insert("servers".into(), servers.iter().map(server).collect::<Vec<_>>().into());
    Value::Table(service)
}

pub(crate) fn config(lab: &Lab, workers: &str) -> Table {
    let mut config = lab.config(workers);
    let services = config["service"].as_array_mut().unwrap();
    for vip in VIPS {
        for port in PORTS {
            services.push(service(vip, port, 21, &["rs1", "rs2", "rs3"]));
        }
    }
    let timeouts = section(&mut config, &["timeouts"]);
    for state in ["syn_recv", "fin_wait", "time_wait", "close", "close_wait", "last_ack"] {
        timeouts.insert(state.into(), "2s".into());
    }
    config
}

/// Every table is empty again, once the closed connections have timed out.
fn nothing_is_left(director: &Director<'_>) -> Metrics {
    eventually(Duration::from_secs(20), "all tables are empty", || {
        let metrics = director.metrics();
        let left = ["connection_table_used", "control_connections", "expected_connections"];
        left.iter().all(|name| metrics.sum(name, &[]) == 0).then_some(metrics)
    })
}

/// The ways of curl to transfer data: passive and active, with and without the extended commands.
fn ways(vip: &str) -> &'static [&'static str] {
    if vip == VIP4 {
        &["", "--disable-epsv", "--ftp-port -", "--ftp-port - --disable-eprt"]
    } else {
        &["", "--ftp-port -"]
    }
}

fn curl(lab: &Lab, line: &str) -> String {
    lab.client(&format!("curl -sSf --max-time 20 {line}"))
}

/// Downloads and uploads, each in every way; what came is what was sent.
fn transfers_arrive_intact(lab: &Lab, vip: &str, port: u16) {
    let root = lab.state();
    let want = lab.client(&format!("sha256sum <{}", root.join("ftp-rs1/big").display()));
    for way in ways(vip) {
        let got = curl(lab, &format!("{way} ftp://{vip}:{port}/big | sha256sum"));
        assert_eq!(got, want, "{vip}:{port} {way}");
        let names = ["rs1", "rs2", "rs3"].map(|name| root.join(format!("ftp-{name}/upload/up")));
        for name in &names {
            drop(fs::remove_file(name));
        }
        let file = root.join("ftp-rs1/big");
        curl(lab, &format!("{way} -T {} ftp://{vip}:{port}/upload/up", file.display()));
        let came: Vec<_> = names.iter().filter(|name| name.exists()).collect();
        assert_eq!(came.len(), 1, "one server has it");
        let got = lab.client(&format!("sha256sum <{}", came[0].display()));
        assert_eq!(got, want, "upload {vip}:{port} {way}");
    }
}

/// The name of the server that answers, over both connections. The reply to a short file may
/// overtake its data connection, by another worker, which curl does not forgive.
fn names(lab: &Lab, vip: &str, port: u16, way: &str, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let text = curl(lab, &format!("{way} ftp://{vip}:{port}/names"));
        let name = text.lines().next().unwrap_or_default().to_owned();
        assert!(text == format!("{name}\n").repeat(NAMES), "{vip}:{port} {way}: {name}");
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn scenario(lab: &Lab, workers: &str) {
    let director = lab.direct(&config(lab, workers));
    for vip in VIPS {
        for port in PORTS {
            transfers_arrive_intact(lab, vip, port);
        }
    }
    // Both services have the same servers and ports: where a client uses the port again that its
    // connection through the other service has, it gets another server than the one in turn.
    nothing_is_left(&director);
    for (vip, name) in [(VIP4, "ftp-2121"), (VIP6, "ftp6-2121")] {
        let before = director.balanced_metrics().connections(name);
        for way in ways(vip) {
            assert_eq!(names(lab, vip, 2121, way, 3), shares([1, 1, 1]), "{vip} {way}");
        }
        let after = director.balanced_metrics().connections(name);
        // A control and a data connection each, at the same server.
        let each = 2 * ways(vip).len() as u64;
        let more: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(more, [each; 3], "{vip}");
    }
    let metrics = director.balanced_metrics();
    assert_eq!(metrics.workers().len(), workers.split(',').count());
    nothing_was_lost(&metrics.drops());
    nothing_is_left(&director);
    director.stop();
}

#[test]
fn curl_transfers_files_in_every_way_with_one_worker() {
    let lab = Lab::two_nic("ftp1");
    start_servers(&lab, "");
    scenario(&lab, "0");
}

#[test]
fn curl_transfers_files_in_every_way_with_three_workers() {
    let lab = Lab::two_nic("ftp3");
    start_servers(&lab, "");
    scenario(&lab, "0, 1, 0");
}

/// Many data connections of one control connection, and directories.
#[test]
fn lftp_mirrors_a_directory_in_every_way() {
    let lab = Lab::two_nic("lftp");
    start_servers(&lab, "");
    for workers in ["0", "0, 1, 0"] {
        let director = lab.direct(&config(&lab, workers));
        for vip in VIPS {
            for passive in ["true", "false"] {
                let target = lab.state().join("mirror");
                drop(fs::remove_dir_all(&target));
                let line = format!(
                    "HOME={} timeout 60 lftp -c 'set net:timeout 10; set net:max-retries 1; \
                     set ftp:passive-mode {passive}; set ftp:prefer-epsv true; \
                     set mirror:parallel-transfer-count 3; open -u anonymous,x ftp://{vip}; \
                     mirror / {}'",
                    lab.state().display(),
                    target.display()
                );
                lab.client(&line);
                for number in 0..20 {
                    let got = fs::read_to_string(target.join(format!("small{number}"))).unwrap();
                    assert_eq!(got, format!("{number}\n"), "{vip} passive {passive}");
                }
                let [got, want] = [target.join("big"), lab.state().join("ftp-rs1/big")]
                    .map(|file| fs::read(file).unwrap());
                assert!(got == want, "{vip} passive {passive}");
            }
        }
        nothing_was_lost(&director.balanced_metrics().drops());
        nothing_is_left(&director);
        director.stop();
    }
}

/// A client that sends its commands octet by octet, each in a segment of its own, and also checks
/// where data connections lead and come from.
const OCTETS: &str = r#"
import socket, sys, time
vip, port = sys.argv[1], int(sys.argv[2])
control = socket.create_connection((vip, port), 10)
control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
replies = control.makefile('rb')
own = control.getsockname()[0]
v6 = ':' in vip
def command(line, expected):
    for octet in line.encode() + b'\r\n':
        control.send(bytes([octet]))
        time.sleep(0.002)
    reply = replies.readline().decode()
    assert reply.startswith(expected), (line, reply)
    return reply
def fetch(data):
    content = b''
    while part := data.recv(65536): content += part
    assert replies.readline().startswith(b'226')
    return content
reply = replies.readline()
assert reply.startswith(b'220'), reply
name = reply.split()[-1]
command('USER anonymous', '2')
for round in range(3):
    if not v6:
        reply = command('PASV', '227')
        numbers = [int(n) for n in reply[reply.index('(') + 1:reply.index(')')].split(',')]
        assert '.'.join(map(str, numbers[:4])) == vip, reply
        data = socket.create_connection((vip, numbers[4] * 256 + numbers[5]), 10)
        command('RETR name', '150')
        assert fetch(data).strip() == name
    reply = command('EPSV', '229')
    data = socket.create_connection((vip, int(reply.split('|')[3])), 10)
    command('RETR name', '150')
    assert fetch(data).strip() == name
    for eprt in [True] if v6 else [True, False]:
        listener = socket.create_server((own, 0), family=socket.AF_INET6 if v6 else socket.AF_INET)
        listener.settimeout(10)
        p = listener.getsockname()[1]
        if eprt: command(f'EPRT |{2 if v6 else 1}|{own}|{p}|', '200')
        else: command(f"pOrT {own.replace('.', ',')},{p // 256},{p % 256}", '200')
        command('RETR name', '150')
        data, peer = listener.accept()
        assert peer[0] == vip and peer[1] == port - 1, peer
        assert fetch(data).strip() == name
command('QUIT', '221')
assert replies.readline() == b''
print('ok')
"#;

#[test]
fn commands_octet_by_octet_work_and_data_connections_are_the_vips() {
    let lab = Lab::two_nic("octets");
    start_servers(&lab, "");
    for workers in ["0", "0, 1, 0"] {
        let director = lab.direct(&config(&lab, workers));
        for vip in VIPS {
            for port in PORTS {
                let bare = vip.trim_matches(['[', ']']);
                let port = port.to_string();
                let said = lab.lab(&[
                    "exec",
                    "client",
                    "timeout",
                    "60",
                    "/usr/bin/python3",
                    "-c",
                    OCTETS,
                    bare,
                    &port,
                ]);
                assert_eq!(said, "ok\n", "{vip} {port}");
            }
        }
        nothing_was_lost(&director.balanced_metrics().drops());
        nothing_is_left(&director);
        director.stop();
    }
}

/// A server that sends its replies octet by octet, and waits for each to be acknowledged.
const SLOW_SERVER: &str = r#"
import socket, threading, time
listener = socket.create_server(('::', 2122), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(control):
    own = control.getsockname()[0]
    v4 = own.startswith('::ffff:')
    def say(line):
        begun = time.monotonic()
        for octet in line.encode() + b'\r\n':
            control.send(bytes([octet]))
            time.sleep(0.001)
    say('220 slow')
    data = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
    port = data.getsockname()[1]
    for line in control.makefile('rb'):
        if line.startswith(b'PASV'):
            say(f"227 Entering ({own[7:].replace('.', ',')},{port // 256},{port % 256})")
        elif line.startswith(b'EPSV'): say(f'229 Entering (|||{port}|)')
        else: break
        connection, _ = data.accept()
        connection.sendall(b'hello'); connection.close()
        say('226 done')
    say('221 bye')
    control.shutdown(socket.SHUT_WR)
    control.recv(1)
while True:
    control, _ = listener.accept()
    threading.Thread(target=serve, args=(control,), daemon=True).start()
"#;

const FAST_CLIENT: &str = r"
import socket, sys, time
vip = sys.argv[1]
control = socket.create_connection((vip, 2122), 10)
replies = control.makefile('rb')
assert replies.readline() == b'220 slow\r\n'
begun = time.monotonic()
for round in range(5):
    for command in [b'EPSV\r\n'] if ':' in vip else [b'EPSV\r\n', b'PASV\r\n']:
        control.sendall(command)
        reply = replies.readline().decode()
        if reply.startswith('229'): port = int(reply.split('|')[3])
        else:
            n = [int(n) for n in reply[reply.index('(') + 1:reply.index(')')].split(',')]
            assert '.'.join(map(str, n[:4])) == vip, reply
            port = n[4] * 256 + n[5]
        data = socket.create_connection((vip, port), 10)
        assert data.recv(100) == b'hello'
        assert replies.readline() == b'226 done\r\n'
spent = time.monotonic() - begun
control.sendall(b'QUIT\r\n')
assert replies.read() == b'221 bye\r\n'
print(f'ok {spent:.3f}')
";

#[test]
fn replies_octet_by_octet_are_translated_without_waiting_for_timers() {
    let lab = Lab::two_nic("slowly");
    lab.lab(&["start", "rs1", "rs1-slow", "/usr/bin/python3", "-c", SLOW_SERVER]);
    eventually(Duration::from_secs(10), "the slow server listens", || {
        lab.run("rs1", "ss -Hltn sport = 2122").contains("LISTEN").then_some(())
    });
    let mut config = config(&lab, "0, 1, 0");
    let services = config["service"].as_array_mut().unwrap();
    services.extend(VIPS.map(|vip| service(vip, 2122, 2122, &["rs1"])));
    let director = lab.direct(&config);
    for vip in VIPS {
        let bare = vip.trim_matches(['[', ']']);
        let said = lab.lab(&[
            "exec",
            "client",
            "timeout",
            "60",
            "/usr/bin/python3",
            "-c",
            FAST_CLIENT,
            bare,
        ]);
        let spent: f64 = said.trim().strip_prefix("ok ").unwrap().parse().unwrap();
        // 10 lines of some 40 octets; each octet would take 200 ms and more by timers.
        assert!(spent < 6.0, "{vip}: {spent} s");
    }
    nothing_was_lost(&director.balanced_metrics().drops());
    nothing_is_left(&director);
    director.stop();
}

/// Every server listens on the same port: the second control connection of a client is told of
/// another one.
#[test]
fn servers_with_the_same_passive_port_do_not_get_each_others_connections() {
    let lab = Lab::two_nic("sameport");
    start_servers(&lab, "pasv_min_port=50000\npasv_max_port=50000\n");
    let director = lab.direct(&config(&lab, "0, 1, 0"));
    let client = r"
import socket, sys
vip = sys.argv[1]
controls = [socket.create_connection((vip, 21), 10) for _ in range(3)]
files = [control.makefile('rb') for control in controls]
names = [file.readline().split()[-1] for file in files]
assert len(set(names)) == 3, names
def ask(control, file, line, expected):
    control.sendall(line + b'\r\n')
    reply = file.readline().decode()
    assert reply.startswith(expected), reply
    return reply
ports = []
for control, file in zip(controls, files):
    ask(control, file, b'USER anonymous', '2')
    ports.append(int(ask(control, file, b'EPSV', '229').split('|')[3]))
assert len(set(ports)) == 3 and 50000 in ports, ports
for control, file, name, port in reversed(list(zip(controls, files, names, ports))):
    data = socket.create_connection((vip, port), 10)
    ask(control, file, b'RETR name', '150')
    assert data.recv(100).strip() == name
    assert file.readline().startswith(b'226')
print('ok')
";
    for vip in VIPS {
        let bare = vip.trim_matches(['[', ']']);
        let said =
            lab.lab(&["exec", "client", "timeout", "30", "/usr/bin/python3", "-c", client, bare]);
        assert_eq!(said, "ok\n", "{vip}");
    }
    nothing_was_lost(&director.balanced_metrics().drops());
    nothing_is_left(&director);
    director.stop();
}
