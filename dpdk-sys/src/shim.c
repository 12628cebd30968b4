#define _GNU_SOURCE
#include <stdio.h>
#include <sys/types.h>

#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>

#include "shim.h"

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

int shim_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, count);
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
