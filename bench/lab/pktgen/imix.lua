-- IMIX: twelve packets that take turns, 64, 594 and 1518 octets with FCS in the ratio 7 : 4 : 1.
-- Each is one UDP flow of its own.

local port = "0"
-- The director's outside port, and its virtual service.
local director = "0200:0000:0101"
local generator = "0200:0000:01fe"
local service, service_port = "192.0.2.100", 9

local sizes = { 64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64 }

for place, size in ipairs(sizes) do
    pktgen.seqTable(place - 1, port, {
        ["eth_dst_addr"] = director,
        ["eth_src_addr"] = generator,
        ["ip_dst_addr"] = service,
        ["ip_src_addr"] = "198.18.0." .. place .. "/15",
        ["sport"] = 1023 + place,
        ["dport"] = service_port,
        ["ethType"] = "ipv4",
        ["ipProto"] = "udp",
        ["vlanid"] = 1,
        ["pktSize"] = size,
    })
end
pktgen.set(port, "seqCnt", #sizes)
pktgen.set(port, "count", 0)
pktgen.set(port, "rate", 10)
