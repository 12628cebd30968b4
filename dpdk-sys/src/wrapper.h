/* What bindgen reads. The allow-list in build.rs says which of it becomes Rust. */
#include <rte_eal.h>
#include <rte_alarm.h>
#include <rte_errno.h>
#include <rte_version.h>
#include <rte_log.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_launch.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_ethdev.h>
#include <rte_eth_ring.h>
#include <rte_hash.h>

#include "shim.h"
