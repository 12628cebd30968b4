//! Control and data connections through the kernel's helper.

use serde_json::Value;

use crate::support::director::Setup;
use crate::support::packet::{hex, internet_checksum, unhex};
use crate::{expected, explain, one_test_for_each_case, recorded, run, text};

/// What the listing after a case of ftp.json shows otherwise: the persistence template of the
/// kernel, which asks for persistence on FTP services, and the state of a connection that the
/// server opened, which pointsman follows from the server's SYN on.
const FTP_DIFFERENCES: [&str; 2] = ["ASSURED", "LISTEN"];

fn listing_row(line: &str) -> Option<[String; 4]> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, _, state, client, service, server] = fields[..] else { return None };
    let row = [state, client, service, server].map(str::to_owned);
    (state != "state").then_some(row)
}

/// Where the kernel changed a text it left the checksum to the NIC: it is completed here.
fn with_checksums(case: &Value) -> Value {
    let mut case = case.clone();
    for step in case["steps"].as_array_mut().unwrap() {
        for out in step["out"].as_array_mut().unwrap() {
            let mut frame = unhex(text(out, "frame"));
            let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            frame[50..52].fill(0);
            let mut summed = frame[26..34].to_vec();
            summed.extend([0, 6]);
            summed.extend(((end - 34) as u16).to_be_bytes());
            summed.extend(&frame[34..end]);
            frame[50..52].copy_from_slice(&internet_checksum(&summed).to_be_bytes());
            out["frame"] = hex(&frame).into();
        }
    }
    case
}

/// A case on a director of its own.
fn passes_as_through_the_kernel(name: &str) {
    const SERVICE: &str = "[[service]]\nname = \"ftp\"\nlisten = \"tcp://192.0.2.100:21\"\n\
                           servers = [{ address = \"10.0.0.11:21\" }]\n";
    let cases = recorded("ftp.json");
    let case = with_checksums(cases.iter().find(|case| text(case, "case") == name).unwrap());
    for workers in [1, 4] {
        let mut director = Setup::with_services(SERVICE).workers(workers).start();
        let (sent, expected) = (run(&mut director, &case), expected(&case));
        assert!(sent == expected, "{workers} workers\n{}", explain(&sent, &expected));
        let rows: Vec<_> = director
            .list()
            .iter()
            .map(|row| {
                let ends = [row.client, row.service, row.server].map(|end| end.to_string());
                let [client, service, server] = ends;
                [row.state.name().to_owned(), client, service, server]
            })
            .collect();
        // The listing goes on with the connections of the cases before.
        let clients: Vec<_> = rows.iter().map(|[_, client, ..]| client.clone()).collect();
        let listing = text(&case, "listing").lines().filter_map(listing_row);
        let recorded: Vec<_> = listing.filter(|[_, client, ..]| clients.contains(client)).collect();
        assert_eq!((rows.len(), recorded.len()), (2, 2), "{name}");
        for mut expected in recorded {
            if FTP_DIFFERENCES.contains(&expected[0].as_str()) {
                expected[0] = "SYN_RECV".into();
            }
            assert!(rows.contains(&expected), "{name}: {expected:?} in {rows:?}");
        }
    }
}

one_test_for_each_case!("ftp.json", passes_as_through_the_kernel, [ftp_pasv, ftp_epsv, ftp_port]);
