/*
 * DPDK's inline functions as symbols that Rust can call: one call per burst, never per packet.
 * And the constants that bindgen cannot read: offsets of mbuf fields (the release decides whether
 * they lie in anonymous unions) and macros made of casts and shifts.
 */
#ifndef POINTSMAN_SHIM_H
#define POINTSMAN_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_interrupts.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

/* Packets. */
uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
/* Packets that wait; negative where the driver cannot tell. */
int shim_rx_queue_count(uint16_t port, uint16_t queue);
/* All `count` or none; 0 when it gave all. */
int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count);
/* As rte_pktmbuf_free_bulk, without a look at the second cache line of a packet of one segment:
 * it lies with the CPU that filled the packet. */
void shim_free_bulk(struct rte_mbuf **packets, unsigned int count);

/* Single-producer, single-consumer rings: how many went in or came out. */
unsigned int shim_ring_push(struct rte_ring *ring, void **objects, unsigned int count);
unsigned int shim_ring_pop(struct rte_ring *ring, void **objects, unsigned int count);
unsigned int shim_ring_count(const struct rte_ring *ring);

/* Control. */
int shim_errno(void);
unsigned int shim_lcore_id(void);
/* The first CPU that the lcore is pinned to, or -1. */
int shim_lcore_cpu(unsigned int lcore);

struct shim_link {
	uint32_t speed_mbps; /* UINT32_MAX: unknown */
	uint8_t up;
	uint8_t full_duplex;
};
int shim_link(uint16_t port, struct shim_link *link);

/* What a flow rule spreads over which queues, and by what. */
struct shim_rss_rule {
	uint64_t types; /* RTE_ETH_RSS_* */
	const uint8_t *key; /* NULL: the port's */
	const uint16_t *queues; /* NULL: those of the port's table */
	const uint8_t *destination; /* 4 or 16 octets; NULL: any */
	uint32_t key_octets;
	uint32_t queue_count;
	uint32_t priority;
	uint8_t ipv6; /* else IPv4 */
	uint8_t udp; /* else TCP */
	uint8_t tagged; /* behind a VLAN tag */
};
/* `why` gets the driver's words, or an empty text. 0 or a negative errno; a rule or NULL. */
int shim_rss_rule_validate(uint16_t port, const struct shim_rss_rule *rule, char *why, size_t room);
struct rte_flow *shim_rss_rule_create(uint16_t port, const struct shim_rss_rule *rule, char *why,
				      size_t room);
int shim_rss_rule_destroy(uint16_t port, struct rte_flow *rule);

/* DPDK's own Toeplitz hash, against which tests hold ours; `input` in 32-bit words. */
uint32_t shim_softrss(uint32_t *input, uint32_t words, const uint8_t *key);

/* Gets each piece of DPDK's log text: its level (RTE_LOG_*), the text, and its octets. */
typedef void (*shim_log_sink)(uint32_t level, const char *text, size_t octets);
/* Sends DPDK's log to `sink`, or to DPDK's default when it is NULL. 0 or -1. */
int shim_log_to(shim_log_sink sink);

/* Where a field of struct rte_mbuf begins, in octets. */
static const size_t SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port);
static const size_t SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci);
static const size_t SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next);
static const size_t SHIM_MBUF_RSS = offsetof(struct rte_mbuf, hash.rss);
static const size_t SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
/* Where the data of a buffer of a pool without private data begin when it is fresh. */
static const size_t SHIM_MBUF_FRESH_DATA = sizeof(struct rte_mbuf) + RTE_PKTMBUF_HEADROOM;

/* For rte_intr_instance_alloc: the handle is used by this process only. */
static const uint32_t SHIM_INTR_PRIVATE = RTE_INTR_INSTANCE_F_PRIVATE;
/* The mbuf's hash.rss is valid. */
static const uint64_t SHIM_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
/* Hash types of rte_eth_rss_conf.rss_hf. */
static const uint64_t SHIM_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t SHIM_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t SHIM_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t SHIM_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t SHIM_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t SHIM_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t SHIM_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t SHIM_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t SHIM_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;
/* Address and port of one end alone. */
static const uint64_t SHIM_RSS_SOURCE_ONLY = RTE_ETH_RSS_L3_SRC_ONLY | RTE_ETH_RSS_L4_SRC_ONLY;
static const uint64_t SHIM_RSS_DESTINATION_ONLY = RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_DST_ONLY;
/* Offloads of a port. */
static const uint64_t SHIM_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

#endif
