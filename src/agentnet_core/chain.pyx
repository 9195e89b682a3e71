"""Chains of calls: who asked whom, how many calls may follow below, and how many be open at a time.

A request that a handler makes carries the agents above it that wait for it, one hop less than the one that
is handled, and a share of the calls that may be open below that. The k-th call that is open at a time gets
1/k(k+1) of all, so the shares never make more than the whole, however many there are, and a call that has
ended gives its share back: a storm is bounded, work that goes on one by one is not.  Without a handler
there is no chain, and nothing is carried.

What a handler sends carries its hops and its path only where `chain_sends` says so, and no share: nobody
waits for it.  So a call below it begins a path of its own, of those who wait.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from agentnet_core.envelope cimport AGENT_BYTES, FIELD_CHAIN, PATH_AGENTS_MAX, extend_path
from agentnet_core.message cimport TYPE_QUERY

from agentnet_core.errors import ChainSpent


cdef Envelope call_below(AgentMessage cause, uint64_t worker, int64_t hops_max, int64_t calls_max):
    """What a call carries that `worker` makes while it handles `cause`; ChainSpent, definite."""
    cdef Envelope above = cause.envelope, below = Envelope()
    cdef bint awaited = cause.type == TYPE_QUERY and cause.correlation != 0
    cdef bytes path
    if above is None:
        above = cause.envelope = Envelope()
    if not (above.started or (awaited and above.held & 1 << FIELD_CHAIN)):
        above.started, above.budget = True, <uint64_t>calls_max
        if not above.held & 1 << FIELD_CHAIN:
            above.hops = <uint32_t>hops_max
    path = above.passed_by if awaited else b""
    if above.hops == 0 or is_long(path):
        raise ChainSpent("calls followed one another as often as may be (chain_hops_max)")
    if above.budget == 0:
        raise ChainSpent("as many calls are open as may be at a time below one request (chain_calls_max)")
    below.put_chain(above.hops - 1, 0, extend_path(path, worker))
    return below


cdef Envelope send_below(AgentMessage cause, uint64_t worker, int64_t hops_max):
    """What a message carries that `worker` sends while it handles `cause`, and waits for no answer to it."""
    cdef Envelope above = cause.envelope, below = Envelope()
    cdef uint32_t hops = <uint32_t>hops_max
    cdef bytes path = b""
    if above is not None and above.held & 1 << FIELD_CHAIN:
        hops, path = above.hops, above.passed_by
    if hops == 0 or is_long(path):
        raise ChainSpent("messages followed one another as often as may be (chain_hops_max, chain_sends)")
    below.put_chain(hops - 1, 0, extend_path(path, worker))
    return below


cdef inline bint is_long(bytes path) noexcept:
    """Whether it has no room for one more agent: other nodes may let more hops be than this one."""
    return PyBytes_GET_SIZE(path) >= PATH_AGENTS_MAX * AGENT_BYTES


cdef uint64_t take_share(Envelope above, Envelope below) except? 0:
    """The call goes out: it counts, and takes a part of what may be open with it."""
    cdef uint64_t share = above.budget // (above.open_calls + 2)
    if share == 0:
        share = 1
    above.budget -= share
    above.open_calls += 1
    below.budget = share - 1
    return share


cdef int give_back(Envelope above, uint64_t share) except -1:
    """A call has ended."""
    above.budget += share
    above.open_calls -= 1
    return 0
