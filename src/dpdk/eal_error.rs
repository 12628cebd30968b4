//! Why EAL did not start, and what to do about it.

use super::error::{Said, errno_text};

/// Lines of DPDK's output that an error quotes at most.
const QUOTED_LINES: usize = 8;

/// What EAL says at every start.
const CHATTER: &[&str] = &[
    "Detected CPU lcores",
    "Detected NUMA nodes",
    "Detected shared linkage",
    "Detected static linkage",
    "Multi-process socket",
    "Selected IOVA mode",
    "selecting IOVA as VA mode",
    "VFIO support initialized",
];

/// EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// A second EAL in one process, also after the first one has ended.
    #[error("DPDK was already initialised in this process; it allows that once")]
    AlreadyInitialised,
    /// An argument cannot be handed to C.
    #[error("EAL argument {0:?} has a zero octet; remove it from eal_args")]
    ZeroOctet(String),
    /// EAL does not know an argument or its value.
    #[error("DPDK refused an EAL argument: check eal_args{}", Said(said))]
    BadArguments {
        /// DPDK's words.
        said: Vec<String>,
    },
    /// There are no huge pages.
    #[error(
        "no huge pages for DPDK: reserve some (echo 1024 > /sys/kernel/mm/hugepages/\
         hugepages-2048kB/nr_hugepages, or dpdk-config/hugepages.sh), or set hugepages = \
         false{}",
        Said(said)
    )]
    NoHugePages {
        /// DPDK's words.
        said: Vec<String>,
    },
    /// Fewer huge pages, or less memory, than asked for.
    #[error(
        "not enough memory for DPDK: lower `memory` under [dpdk], or reserve more huge pages \
         (dpdk-config/hugepages.sh), or set hugepages = false{}",
        Said(said)
    )]
    NotEnoughMemory {
        /// DPDK's words.
        said: Vec<String>,
    },
    /// The user may not do what EAL needs.
    #[error(
        "DPDK lacks a permission: run as root, or set XDG_RUNTIME_DIR to a folder of your own and \
         use --in-memory or --no-huge with --no-shconf{}",
        Said(said)
    )]
    Permission {
        /// DPDK's words.
        said: Vec<String>,
    },
    /// Another process uses the same DPDK files.
    #[error(
        "another DPDK process uses the same files: stop it, or give this one its own --file-prefix{}",
        Said(said)
    )]
    OtherProcess {
        /// DPDK's words.
        said: Vec<String>,
    },
    /// Anything else.
    #[error("DPDK did not start: {}{}", errno_text(*errno), Said(said))]
    Other {
        /// `rte_errno`.
        errno: i32,
        /// DPDK's words.
        said: Vec<String>,
    },
    /// The thread for DPDK's main lcore could not be made.
    #[error("cannot start the thread of DPDK's main lcore: {0}")]
    Thread(#[from] std::io::Error),
}

impl EalError {
    /// Tells the causes apart by DPDK's words first, as its error numbers are coarse.
    pub(super) fn from_failure(errno: i32, lines: &[String]) -> Self {
        let text = lines.join("\n").to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let said = last_words(lines);
        if has(&["usage:", "unrecognized option", "invalid option", "requires an argument"])
            || has(&["unable to parse device"])
        {
            Self::BadArguments { said }
        } else if has(&["cannot create lock on", "another primary process"]) {
            Self::OtherProcess { said }
        } else if has(&["permission denied", "cannot create runtime directory"]) {
            Self::Permission { said }
        } else if has(&["hugepage information", "no available", "no free 2048 kb hugepages"]) {
            Self::NoHugePages { said }
        } else if has(&["not enough memory", "cannot init memory", "cannot allocate memory"]) {
            Self::NotEnoughMemory { said }
        } else {
            match errno {
                libc::ENOMEM => Self::NotEnoughMemory { said },
                libc::EPERM => Self::Permission { said },
                libc::EINVAL => Self::BadArguments { said },
                libc::EALREADY => Self::AlreadyInitialised,
                errno => Self::Other { errno, said },
            }
        }
    }
}

/// The lines that tell something: without the long usage text and the usual chatter.
fn last_words(lines: &[String]) -> Vec<String> {
    let mut words: Vec<_> = Vec::new();
    for line in lines.iter().map(|line| line.trim()) {
        if line.starts_with("Usage:") {
            break;
        }
        if !line.is_empty() && !CHATTER.iter().any(|words| line.contains(words)) {
            words.push(line.to_owned());
        }
    }
    words.split_off(words.len().saturating_sub(QUOTED_LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn the_usage_text_is_not_quoted() {
        let output = lines(&["x: unrecognized option '--bogus'", "", "Usage: x [options]", "EAL"]);
        let error = EalError::from_failure(libc::EINVAL, &output);
        assert!(matches!(&error, EalError::BadArguments { said } if said.len() == 1), "{error}");
        assert!(error.to_string().contains("unrecognized option '--bogus'"), "{error}");
    }

    #[test]
    fn missing_huge_pages_are_told_from_too_few() {
        let none = lines(&["EAL: FATAL: Cannot get hugepage information."]);
        let few = lines(&["EAL: Not enough memory available! Requested: 9MB, available: 2MB"]);
        assert!(matches!(
            EalError::from_failure(libc::EACCES, &none),
            EalError::NoHugePages { .. }
        ));
        assert!(matches!(
            EalError::from_failure(libc::ENOMEM, &few),
            EalError::NotEnoughMemory { .. }
        ));
    }
}
