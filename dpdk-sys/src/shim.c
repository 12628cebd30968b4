#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_thash.h>

#include "shim.h"

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

int shim_rx_queue_count(uint16_t port, uint16_t queue)
{
	return rte_eth_rx_queue_count(port, queue);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

/* As drivers fetch what they are about to fill: another CPU may have freed these. */
static inline void fetch_to_write(const void *line)
{
#if defined(RTE_ARCH_X86_64)
	__asm__ volatile("prefetchw (%0)" : : "r"(line));
#else
	__builtin_prefetch(line, 1, 3);
#endif
}

int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	size_t data = sizeof(struct rte_mbuf) + rte_pktmbuf_priv_size(pool) + RTE_PKTMBUF_HEADROOM;
	int failed = rte_mempool_get_bulk(pool, (void **)packets, count);
	unsigned int i;

	if (failed)
		return failed;
	for (i = 0; i < count; i++) {
		fetch_to_write(packets[i]);
		fetch_to_write((const char *)packets[i] + data);
	}
	for (i = 0; i < count; i++)
		rte_pktmbuf_reset(packets[i]);
	return 0;
}

/* Whether a buffer goes back as it is: whole, in one piece, of its pool's memory, and nobody
 * else's. Told by its first cache line alone. */
static inline int is_plain(const struct rte_mbuf *packet)
{
	return packet->nb_segs == 1 && rte_mbuf_refcnt_read(packet) == 1 &&
	       RTE_MBUF_DIRECT(packet);
}

void shim_free_bulk(struct rte_mbuf **packets, unsigned int count)
{
	unsigned int first = 0, next;

	while (first < count) {
		struct rte_mempool *pool = packets[first]->pool;

		for (next = first; next < count; next++)
			if (packets[next]->pool != pool || !is_plain(packets[next]))
				break;
		if (next == first) {
			rte_pktmbuf_free(packets[first++]);
			continue;
		}
		rte_mempool_put_bulk(pool, (void **)(packets + first), next - first);
		first = next;
	}
}

unsigned int shim_ring_push(struct rte_ring *ring, void **objects, unsigned int count)
{
	return rte_ring_sp_enqueue_burst(ring, objects, count, NULL);
}

unsigned int shim_ring_pop(struct rte_ring *ring, void **objects, unsigned int count)
{
	return rte_ring_sc_dequeue_burst(ring, objects, count, NULL);
}

unsigned int shim_ring_count(const struct rte_ring *ring)
{
	return rte_ring_count(ring);
}

int shim_errno(void)
{
	return rte_errno;
}

unsigned int shim_lcore_id(void)
{
	return rte_lcore_id();
}

int shim_lcore_cpu(unsigned int lcore)
{
	rte_cpuset_t cpus;
	int cpu;

	if (lcore >= RTE_MAX_LCORE || !rte_lcore_is_enabled(lcore))
		return -1;
	cpus = rte_lcore_cpuset(lcore);
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus))
			return cpu;
	return -1;
}

int shim_link(uint16_t port, struct shim_link *link)
{
	struct rte_eth_link now = {0};
	int failed = rte_eth_link_get_nowait(port, &now);

	if (failed)
		return failed;
	link->speed_mbps = now.link_speed;
	link->up = now.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = now.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

/* A rule in DPDK's own terms; it points into itself. */
struct rule_parts {
	struct rte_flow_attr attr;
	struct rte_flow_item items[5];
	struct rte_flow_action actions[2];
	struct rte_flow_action_rss rss;
	struct rte_flow_item_ipv4 ipv4, ipv4_mask;
	struct rte_flow_item_ipv6 ipv6, ipv6_mask;
};

static void write_destination(struct rule_parts *parts, struct rte_flow_item *item,
			      const struct shim_rss_rule *rule)
{
	if (rule->destination == NULL)
		return;
	if (rule->ipv6) {
		memcpy(&parts->ipv6.hdr.dst_addr, rule->destination, 16);
		memset(&parts->ipv6_mask.hdr.dst_addr, 0xff, 16);
		item->spec = &parts->ipv6;
		item->mask = &parts->ipv6_mask;
	} else {
		memcpy(&parts->ipv4.hdr.dst_addr, rule->destination, 4);
		memset(&parts->ipv4_mask.hdr.dst_addr, 0xff, 4);
		item->spec = &parts->ipv4;
		item->mask = &parts->ipv4_mask;
	}
}

static void write_rule(struct rule_parts *parts, const struct shim_rss_rule *rule)
{
	struct rte_flow_item *item = parts->items;

	memset(parts, 0, sizeof(*parts));
	parts->attr.ingress = 1;
	parts->attr.priority = rule->priority;
	(item++)->type = RTE_FLOW_ITEM_TYPE_ETH;
	if (rule->tagged)
		(item++)->type = RTE_FLOW_ITEM_TYPE_VLAN;
	item->type = rule->ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6 : RTE_FLOW_ITEM_TYPE_IPV4;
	write_destination(parts, item++, rule);
	(item++)->type = rule->udp ? RTE_FLOW_ITEM_TYPE_UDP : RTE_FLOW_ITEM_TYPE_TCP;
	item->type = RTE_FLOW_ITEM_TYPE_END;

	parts->rss.func = RTE_ETH_HASH_FUNCTION_DEFAULT;
	parts->rss.types = rule->types;
	parts->rss.key = rule->key;
	parts->rss.key_len = rule->key_octets;
	parts->rss.queue = rule->queues;
	parts->rss.queue_num = rule->queue_count;
	parts->actions[0].type = RTE_FLOW_ACTION_TYPE_RSS;
	parts->actions[0].conf = &parts->rss;
	parts->actions[1].type = RTE_FLOW_ACTION_TYPE_END;
}

static void tell_why(const struct rte_flow_error *error, char *why, size_t room)
{
	snprintf(why, room, "%s", error->message == NULL ? "" : error->message);
}

int shim_rss_rule_validate(uint16_t port, const struct shim_rss_rule *rule, char *why, size_t room)
{
	struct rte_flow_error error = {0};
	struct rule_parts parts;
	int code;

	write_rule(&parts, rule);
	code = rte_flow_validate(port, &parts.attr, parts.items, parts.actions, &error);
	tell_why(&error, why, room);
	return code;
}

struct rte_flow *shim_rss_rule_create(uint16_t port, const struct shim_rss_rule *rule, char *why,
				      size_t room)
{
	struct rte_flow_error error = {0};
	struct rule_parts parts;
	struct rte_flow *created;

	write_rule(&parts, rule);
	created = rte_flow_create(port, &parts.attr, parts.items, parts.actions, &error);
	tell_why(&error, why, room);
	return created;
}

int shim_rss_rule_destroy(uint16_t port, struct rte_flow *rule)
{
	struct rte_flow_error error = {0};

	return rte_flow_destroy(port, rule, &error);
}

uint32_t shim_softrss(uint32_t *input, uint32_t words, const uint8_t *key)
{
	return rte_softrss(input, words, key);
}

/* The cookie is the sink itself, boxed: ISO C has no cast from a function to void *. */
static shim_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t octets)
{
	shim_log_sink sink = *(shim_log_sink *)cookie;

	if (sink != NULL)
		sink((uint32_t)rte_log_cur_msg_loglevel(), text, octets);
	return (ssize_t)octets;
}

int shim_log_to(shim_log_sink sink)
{
	static FILE *stream;

	log_sink = sink;
	if (sink == NULL)
		return rte_openlog_stream(NULL);
	if (stream == NULL) {
		cookie_io_functions_t functions = { .write = log_write };

		stream = fopencookie(&log_sink, "w", functions);
		if (stream == NULL)
			return -1;
	}
	return rte_openlog_stream(stream);
}
