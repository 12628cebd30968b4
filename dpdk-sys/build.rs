//! Finds DPDK, checks its release, builds the shim and writes the bindings.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const RANGE_FILE: &str = "../dpdk-config/DPDK_VERSION";

const FUNCTIONS: &[&str] = &[
    "rte_delay_us_sleep",
    "rte_dev_probe",
    "rte_eal_alarm_set",
    "rte_eal_cleanup",
    "rte_eal_has_hugepages",
    "rte_eal_init",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_is_valid_port",
    "rte_eth_dev_mac_addr_add",
    "rte_eth_dev_mac_addr_remove",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_reta_query",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_from_rings",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_get",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_get_main_lcore",
    "rte_get_next_lcore",
    "rte_get_tsc_hz",
    "rte_hash_add_key_data",
    "rte_hash_create",
    "rte_hash_free",
    "rte_hash_lookup_bulk_data",
    "rte_intr_callback_register",
    "rte_intr_fd_set",
    "rte_intr_instance_alloc",
    "rte_intr_type_set",
    "rte_lcore_to_socket_id",
    "rte_mempool_free",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_ring_create",
    "rte_ring_free",
    "rte_strerror",
    "rte_version",
    "shim_alloc_bulk",
    "shim_errno",
    "shim_free_bulk",
    "shim_lcore_cpu",
    "shim_lcore_id",
    "shim_link",
    "shim_log_to",
    "shim_ring_count",
    "shim_ring_pop",
    "shim_ring_push",
    "shim_rss_rule_create",
    "shim_rss_rule_destroy",
    "shim_rss_rule_validate",
    "shim_rx_burst",
    "shim_rx_queue_count",
    "shim_softrss",
    "shim_tx_burst",
];

/// Types come with the functions that take them; these are only named.
const TYPES: &[&str] = &["rte_intr_handle_type", "rte_eth_rx_mq_mode", "rte_eth_tx_mq_mode"];

const CONSTANTS: &[&str] = &[
    "RING_F_EXACT_SZ",
    "RING_F_SC_DEQ",
    "RING_F_SP_ENQ",
    "RTE_ETHER_MTU",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_HASH_LOOKUP_BULK_MAX",
    "RTE_LOG_CRIT",
    "RTE_LOG_ERR",
    "RTE_LOG_INFO",
    "RTE_LOG_NOTICE",
    "RTE_LOG_WARNING",
    "RTE_MAX_ETHPORTS",
    "RTE_MAX_LCORE",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
    "SHIM_INTR_PRIVATE",
    "SHIM_MBUF_BUF_ADDR",
    "SHIM_MBUF_BUF_LEN",
    "SHIM_MBUF_DATA_LEN",
    "SHIM_MBUF_DATA_OFF",
    "SHIM_MBUF_FRESH_DATA",
    "SHIM_MBUF_NB_SEGS",
    "SHIM_MBUF_NEXT",
    "SHIM_MBUF_OL_FLAGS",
    "SHIM_MBUF_PKT_LEN",
    "SHIM_MBUF_PORT",
    "SHIM_MBUF_RSS",
    "SHIM_MBUF_VLAN_TCI",
    "SHIM_RSS_DESTINATION_ONLY",
    "SHIM_RSS_IP",
    "SHIM_RSS_IPV4",
    "SHIM_RSS_IPV4_TCP",
    "SHIM_RSS_IPV4_UDP",
    "SHIM_RSS_IPV6",
    "SHIM_RSS_IPV6_TCP",
    "SHIM_RSS_IPV6_UDP",
    "SHIM_RSS_SOURCE_ONLY",
    "SHIM_RSS_TCP",
    "SHIM_RSS_UDP",
    "SHIM_RX_OFFLOAD_RSS_HASH",
    "SHIM_RX_OFFLOAD_SCATTER",
    "SHIM_RX_RSS_HASH",
    "SHIM_TX_OFFLOAD_MULTI_SEGS",
];

/// Passed by pointer only. Their layout differs between releases and breaks bindgen in places, so
/// they get no fields; the shim has the offsets of the mbuf fields that Rust reads.
const OPAQUE: &[&str] =
    &["rte_mbuf", "rte_mempool", "rte_ring", "rte_device", "rte_intr_handle", "rte_flow"];

/// The libraries called directly. The drivers are loaded by EAL from its own plugin directory.
const LIBRARIES: &[&str] =
    &["rte_eal", "rte_log", "rte_ethdev", "rte_hash", "rte_mbuf", "rte_mempool", "rte_ring"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed={RANGE_FILE}");
    if let Err(message) = build() {
        // Cargo ends each directive at the line's end.
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn build() -> Result<(), String> {
    let range = Range::read()?;
    let dpdk = Dpdk::find(&range)?;
    dpdk.link()?;
    compile_shim(&dpdk.cflags)?;
    write_bindings(&dpdk.cflags)
}

/// The accepted releases, both ends included.
struct Range {
    min: (u32, u32),
    max: (u32, u32),
}

impl Range {
    fn read() -> Result<Self, String> {
        let text =
            fs::read_to_string(RANGE_FILE).map_err(|e| format!("cannot read {RANGE_FILE}: {e}"))?;
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .and_then(|(_, value)| release(value.trim()))
                .ok_or(format!("{RANGE_FILE} has no line `{key} = YY.MM`"))
        };
        Ok(Self { min: value("min")?, max: value("max")? })
    }

    fn contains(&self, version: (u32, u32)) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (min, max) = (self.min, self.max);
        write!(f, "{}.{:02} to {}.{:02}", min.0, min.1, max.0, max.1)
    }
}

/// `22.11.11` → (22, 11); the third number is a bug-fix release of the same interface.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-', '~']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

struct Dpdk {
    version: String,
    cflags: Vec<String>,
    libraries: Vec<String>,
    libdir: PathBuf,
}

impl Dpdk {
    fn find(range: &Range) -> Result<Self, String> {
        let library = pkg_config::Config::new()
            .cargo_metadata(false)
            .env_metadata(true)
            .probe("libdpdk")
            .map_err(|e| missing(range, &e))?;
        let found = release(&library.version)
            .ok_or(format!("cannot read the DPDK version {:?}", library.version))?;
        if !range.contains(found) {
            return Err(format!(
                "found DPDK {}, but pointsman accepts {range} (dpdk-config/DPDK_VERSION): \
                 install such a release, or point PKG_CONFIG_PATH at one",
                library.version
            ));
        }
        let libdir = pkg_config::get_variable("libdpdk", "libdir")
            .map_err(|e| format!("libdpdk.pc names no libdir: {e}"))?;
        Ok(Self {
            version: library.version,
            cflags: cflags()?,
            libraries: library.libs,
            libdir: PathBuf::from(libdir),
        })
    }

    fn link(&self) -> Result<(), String> {
        let libdir = self.libdir.display();
        if !self.libdir.join("librte_eal.so").exists() {
            return Err(format!(
                "DPDK {} in {libdir} has no shared libraries: build it with \
                 `meson setup -Ddefault_library=shared`, or install the package libdpdk-dev",
                self.version
            ));
        }
        println!("cargo::rustc-link-search=native={libdir}");
        for wanted in LIBRARIES {
            if self.libraries.iter().any(|library| library == wanted) {
                println!("cargo::rustc-link-lib=dylib={wanted}");
            }
        }
        // A driver, so pkg-config does not list it; rte_eth_from_rings is called directly.
        println!("cargo::rustc-link-lib=dylib=rte_net_ring");
        println!("cargo::metadata=version={}", self.version);
        println!("cargo::metadata=libdir={libdir}");
        Ok(())
    }
}

fn missing(range: &Range, error: &pkg_config::Error) -> String {
    let cause = if matches!(error, pkg_config::Error::Command { .. }) {
        "pkg-config does not run: install the package pkgconf"
    } else {
        "libdpdk was not found by pkg-config"
    };
    format!(
        "{cause}; install package libdpdk-dev (Debian, Ubuntu) or dpdk-devel (Fedora), DPDK \
         {range}, or set PKG_CONFIG_PATH to the folder of libdpdk.pc; without DPDK, \
         `--no-default-features` builds the parts that need no packet I/O"
    )
}

/// All of them: the pkg-config crate drops `-include rte_config.h` and `-march`.
fn cflags() -> Result<Vec<String>, String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&program)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn compile_shim(cflags: &[String]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("src/shim.c").opt_level(3).std("gnu11").warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    build
        .try_compile("pointsman_dpdk_shim")
        .map_err(|e| format!("cannot compile dpdk-sys/src/shim.c (package gcc or clang?): {e}"))
}

fn write_bindings(cflags: &[String]) -> Result<(), String> {
    require_libclang()?;
    let mut builder = bindgen::Builder::default()
        .header("src/wrapper.h")
        .clang_args(cflags)
        .use_core()
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .derive_default(true)
        .layout_tests(true);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.blocklist_type(name).raw_line(format!(
            "#[repr(C)] #[derive(Debug)] pub struct {name} {{ _private: [u8; 0] }}"
        ));
    }
    let bindings = builder.generate().map_err(|e| {
        format!(
            "bindgen cannot read DPDK's headers: {e}; if a standard header such as stddef.h is \
             missing, install package libclang-dev together with clang"
        )
    })?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    bindings
        .write_to_file(Path::new(&out).join("bindings.rs"))
        .map_err(|e| format!("cannot write the bindings: {e}"))
}

/// bindgen panics when it finds no libclang: ask first, quietly.
fn require_libclang() -> Result<(), String> {
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(bindgen::clang_version);
    drop(std::panic::take_hook());
    found.map(drop).map_err(|cause| {
        let cause = cause.downcast_ref::<String>().map_or("", String::as_str);
        format!(
            "libclang was not found; install package libclang-dev (Debian, Ubuntu) or clang-devel \
             (Fedora), or set LIBCLANG_PATH to the folder of libclang.so {cause}"
        )
    })
}
