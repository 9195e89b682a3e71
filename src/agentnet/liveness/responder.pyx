"""The native thread that answers for all nodes of this process: alive, and how late its loop is.

It runs no Python and never takes the interpreter lock, so that neither an event loop that stands
nor C code that keeps the lock can stop it; a stopped process stops it.  It starts with the first
Pulse and ends with the last one.  It owns no socket but the connections that it has accepted.

Held: SLOTS_MAX nodes, CONNECTIONS_MAX connections for CONNECTION_NS each, the oldest of which goes
for a new one.  One mutex guards the table; the loop's heartbeat alone is written past it, as one
atomic store.  Nothing waits in here while it holds the mutex.

A fork has the table but no thread, and perhaps a mutex that nobody will unlock: `forget_all` is
for the child, where every Pulse from before then does nothing.

The bytes of probes and answers are those of `agentnet.liveness.sealing`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from agentnet.liveness.sealing cimport (
    ASKED, FREE, KEY_BYTES, LOCKED, PACKET_BYTES, STACK, STACK_BYTES, STILL, State, open_probe, write_answer,
)

from agentnet_core.errors import LimitReached, OutageError

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t*, const void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, const void*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t*)
    int pthread_sigmask(int, const sigset_t*, sigset_t*)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd*, unsigned long, int)

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass
    ctypedef unsigned int socklen_t
    int MSG_DONTWAIT
    int accept(int, sockaddr*, socklen_t*)
    Py_ssize_t recv(int, void*, size_t, int)
    Py_ssize_t recvfrom(int, void*, size_t, int, sockaddr*, socklen_t*)
    Py_ssize_t send(int, const void*, size_t, int)
    Py_ssize_t sendto(int, const void*, size_t, int, const sockaddr*, socklen_t)

cdef extern from "<fcntl.h>" nogil:
    int F_SETFD, F_SETFL, FD_CLOEXEC, O_NONBLOCK
    int fcntl(int, int, int)

cdef extern from "<unistd.h>" nogil:
    int pipe(int*)
    int close(int)
    Py_ssize_t read(int, void*, size_t)
    Py_ssize_t write(int, const void*, size_t)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec*)

cdef extern from *:
    """
    #define agentnet_load(at) __atomic_load_n((at), __ATOMIC_RELAXED)
    #define agentnet_store(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)
    static inline void agentnet_swap(int64_t* at, int64_t old, int64_t fresh) {
        __atomic_compare_exchange_n(at, &old, fresh, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    """
    int64_t load "agentnet_load"(int64_t*) nogil
    void store "agentnet_store"(int64_t*, int64_t) nogil
    void swap "agentnet_swap"(int64_t*, int64_t, int64_t) nogil

cdef enum:
    SLOTS_MAX = 256
    CONNECTIONS_MAX = 64
    READS_MAX = 64              # datagrams of one socket before the others have their turn
    FEW = 64                    # descriptors that are looked through in no time

cdef int64_t MS = 1_000_000
cdef int64_t CONNECTION_NS = 2_000_000_000
cdef int TOGETHER_MS = 20
cdef int64_t LOCKED_NS = 1_000_000_000      # a stack that takes longer needs a lock that is not to be had
cdef int64_t OVERSLEPT_NS = 200_000_000     # this thread itself was not let run


cdef struct Connection:
    int fd                      # -1: free
    uint64_t number             # of the slot that it asks
    int64_t since_ns
    int got
    uint8_t bytes[PACKET_BYTES]


cdef struct Hub:
    pthread_mutex_t mutex
    pthread_cond_t blocked      # a stack is wanted, or all ends
    pthread_t thread
    bint running, stopping
    int wake[2]
    uint64_t epoch, numbers, answers
    uint64_t arranged           # grows when `fds` is out of date
    int count
    Slot* slots
    Connection* connections
    pollfd fds[1 + 2 * SLOTS_MAX + CONNECTIONS_MAX]


cdef Hub hub
hub.epoch = 1
pthread_mutex_init(&hub.mutex, NULL)
pthread_cond_init(&hub.blocked, NULL)


cdef int64_t clock_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


# -- a probe in, an answer out


cdef int answer(Slot* slot, const uint8_t* probe, uint8_t* out, int64_t now_ns) noexcept nogil:
    """The size of the answer in `out`, PACKET_BYTES of room; 0 if the probe is not sealed."""
    cdef uint8_t key[KEY_BYTES]
    cdef State state
    cdef int64_t lag_ns
    if not open_probe(probe, slot.secret, key):
        slot.dropped += 1
        return 0
    lag_ns = max(0, now_ns - load(&slot.beat_ns))
    state.incarnation, state.lag_ns, state.stack, state.stack_size = slot.incarnation, lag_ns, slot.stack, 0
    if lag_ns < slot.lag_ns_max:
        state.kind = FREE
    elif slot.stack_size:
        state.kind, state.stack_size = STACK, slot.stack_size
    else:
        state.kind = LOCKED if slot.asked_ns and now_ns - slot.asked_ns > LOCKED_NS else ASKED
    slot.answered += 1
    hub.answers += 1
    return write_answer(out, probe, key, hub.answers, &state)


cdef void serve_datagrams(Slot* slot, int64_t now_ns) noexcept nogil:
    cdef uint8_t got[PACKET_BYTES + 1]
    cdef uint8_t out[PACKET_BYTES]
    cdef sockaddr_storage peer
    cdef socklen_t peer_size
    cdef Py_ssize_t n
    cdef int _, size
    for _ in range(READS_MAX):
        peer_size = sizeof(peer)
        n = recvfrom(slot.udp, got, PACKET_BYTES + 1, MSG_DONTWAIT, <sockaddr*>&peer, &peer_size)
        if n < 0:
            return
        if n != PACKET_BYTES:
            slot.dropped += 1
            continue
        size = answer(slot, got, out, now_ns)
        if size:
            sendto(slot.udp, out, size, MSG_DONTWAIT, <sockaddr*>&peer, peer_size)


cdef void hang_up(Connection* connection) noexcept nogil:
    close(connection.fd)
    connection.fd = -1
    hub.arranged += 1


cdef void take_connection(Slot* slot, int64_t now_ns) noexcept nogil:
    cdef Connection* at = NULL
    cdef int i, fd = accept(slot.tcp, NULL, NULL)
    if fd < 0:
        return
    fcntl(fd, F_SETFD, FD_CLOEXEC)
    for i in range(CONNECTIONS_MAX):
        if at == NULL or hub.connections[i].fd < 0 or (
                at.fd >= 0 and hub.connections[i].since_ns < at.since_ns):
            at = &hub.connections[i]
        if at.fd < 0:
            break
    if at.fd >= 0:
        hang_up(at)
    at.fd, at.number, at.since_ns, at.got = fd, slot.number, now_ns, 0
    hub.arranged += 1


cdef void serve_connection(Connection* connection, int64_t now_ns) noexcept nogil:
    """Read a probe, answer it, and close."""
    cdef uint8_t out[PACKET_BYTES]
    cdef Slot* slot = find(connection.number)
    cdef int size
    cdef Py_ssize_t n = recv(connection.fd, connection.bytes + connection.got, PACKET_BYTES - connection.got,
                             MSG_DONTWAIT)
    if n > 0 and slot != NULL:
        connection.got += <int>n
        if connection.got < PACKET_BYTES:
            return
        size = answer(slot, connection.bytes, out, now_ns)
        if size:
            send(connection.fd, out, size, MSG_DONTWAIT)
    hang_up(connection)


# -- the thread


cdef Slot* find(uint64_t number) noexcept nogil:
    cdef int i
    for i in range(SLOTS_MAX):
        if hub.slots[i].number == number:
            return &hub.slots[i]
    return NULL


cdef int arrange() noexcept nogil:
    """Fill `fds`; how many they are."""
    cdef int i, count = 1
    hub.fds[0].fd = hub.wake[0]
    for i in range(SLOTS_MAX):
        if hub.slots[i].number:
            hub.fds[count].fd, hub.fds[count + 1].fd = hub.slots[i].udp, hub.slots[i].tcp
            count += 2
    for i in range(CONNECTIONS_MAX):
        if hub.connections[i].fd >= 0:
            hub.fds[count].fd = hub.connections[i].fd
            count += 1
    for i in range(count):
        hub.fds[i].events = POLLIN
        hub.fds[i].revents = 0
    return count


cdef void serve(int count, int64_t now_ns) noexcept nogil:
    """Whatever has come, in the order in which `arrange` listed it."""
    cdef int i, at = 1
    cdef char drain[64]
    cdef uint64_t arranged = hub.arranged
    if hub.fds[0].revents:
        while read(hub.wake[0], drain, 64) == 64:
            pass
    for i in range(SLOTS_MAX):
        if hub.slots[i].number:
            if hub.fds[at].revents:
                serve_datagrams(&hub.slots[i], now_ns)
            if hub.fds[at + 1].revents and arranged == hub.arranged:
                take_connection(&hub.slots[i], now_ns)     # one a round: it changes what is listed
            at += 2
    if arranged != hub.arranged:
        return
    for i in range(CONNECTIONS_MAX):
        if hub.connections[i].fd >= 0 and at < count:
            if hub.fds[at].revents:
                serve_connection(&hub.connections[i], now_ns)
            at += 1


cdef int64_t look(int64_t now_ns) noexcept nogil:
    """Ask for the stack of loops that stand, end what takes too long; when to look again."""
    cdef int64_t lag_ns, next_ns = now_ns + 60_000 * MS
    cdef Slot* slot
    cdef int i
    for i in range(SLOTS_MAX):
        slot = &hub.slots[i]
        if not slot.number:
            continue
        lag_ns = now_ns - load(&slot.beat_ns)
        if lag_ns < slot.lag_ns_max:
            settle_down(slot)
        elif lag_ns >= slot.look_lag_ns:
            slot.look_lag_ns = 2 * lag_ns
            slot.looked = slot.wanted = True
            if slot.asked_ns == 0:
                slot.asked_ns = now_ns
            pthread_cond_broadcast(&hub.blocked)
        next_ns = min(next_ns, now_ns - lag_ns + slot.look_lag_ns)
    for i in range(CONNECTIONS_MAX):
        if hub.connections[i].fd >= 0:
            if now_ns - hub.connections[i].since_ns >= CONNECTION_NS:
                hang_up(&hub.connections[i])
            else:
                next_ns = min(next_ns, hub.connections[i].since_ns + CONNECTION_NS)
    return next_ns


cdef void settle_down(Slot* slot) noexcept nogil:
    """Its loop turns."""
    slot.look_lag_ns = slot.lag_ns_max
    slot.wanted = slot.looked = False
    slot.asked_ns = slot.stack_size = 0


cdef void forgive(int64_t overslept_ns, int64_t now_ns) noexcept nogil:
    """The whole process was not let run: that is no fault of its loops."""
    cdef int64_t beat_ns
    cdef int i
    for i in range(SLOTS_MAX):
        if hub.slots[i].number:
            beat_ns = load(&hub.slots[i].beat_ns)
            swap(&hub.slots[i].beat_ns, beat_ns, min(now_ns, beat_ns + overslept_ns))


cdef void* run(void* nothing) noexcept nogil:
    cdef int64_t now_ns = clock_ns(), wake_ns
    cdef uint64_t arranged
    cdef int count
    pthread_mutex_lock(&hub.mutex)
    while not hub.stopping:
        wake_ns = look(now_ns)
        count = arrange()
        arranged = hub.arranged
        pthread_mutex_unlock(&hub.mutex)
        wake_ns = max(wake_ns, now_ns + MS)
        if count > FEW:
            poll(hub.fds, 1, TOGETHER_MS)       # of many nodes some are answered together
        poll(hub.fds, count, <int>((wake_ns - now_ns + MS - 1) // MS))
        now_ns = clock_ns()
        pthread_mutex_lock(&hub.mutex)
        if now_ns - wake_ns > OVERSLEPT_NS:
            forgive(now_ns - wake_ns, now_ns)
        # Else a descriptor of the list may have been closed, and be somebody else's by now.
        if arranged == hub.arranged and not hub.stopping:
            serve(count, now_ns)
    pthread_mutex_unlock(&hub.mutex)
    return NULL


# -- its life, under the interpreter lock


cdef void poke() noexcept nogil:
    cdef char byte = 0
    write(hub.wake[1], &byte, 1)


cdef int start() except -1:
    cdef sigset_t every, before
    cdef int i, failed
    hub.slots = <Slot*>calloc(SLOTS_MAX, sizeof(Slot))
    hub.connections = <Connection*>calloc(CONNECTIONS_MAX, sizeof(Connection))
    if hub.slots == NULL or hub.connections == NULL or pipe(hub.wake) != 0:
        free(hub.slots)
        free(hub.connections)
        hub.slots, hub.connections = NULL, NULL
        raise OutageError("no memory or no descriptors left for the thread that answers liveness probes")
    for i in range(2):
        fcntl(hub.wake[i], F_SETFD, FD_CLOEXEC)
        fcntl(hub.wake[i], F_SETFL, O_NONBLOCK)
    for i in range(CONNECTIONS_MAX):
        hub.connections[i].fd = -1
    hub.stopping, hub.count = False, 0
    # Signals are for Python's own threads.
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    failed = pthread_create(&hub.thread, NULL, &run, NULL)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    hub.running = not failed
    if failed:
        let_go()
        raise OutageError("the thread that answers liveness probes could not be started")
    return 0


cdef int stop() except -1:
    """Returns when the thread is gone, which needs nobody's leave."""
    pthread_mutex_lock(&hub.mutex)
    hub.stopping = True
    pthread_cond_broadcast(&hub.blocked)
    pthread_mutex_unlock(&hub.mutex)
    poke()
    pthread_join(hub.thread, NULL)
    hub.running = False
    let_go()
    return 0


cdef void let_go() noexcept:
    cdef int i
    for i in range(CONNECTIONS_MAX):
        if hub.connections[i].fd >= 0:
            close(hub.connections[i].fd)
    close(hub.wake[0])
    close(hub.wake[1])
    pthread_mutex_lock(&hub.mutex)      # a thread in `wait_blocked` may look at the table
    free(hub.slots)
    free(hub.connections)
    hub.slots, hub.connections = NULL, NULL
    pthread_mutex_unlock(&hub.mutex)


cdef class Pulse:
    """The heartbeat of one node's event loop, and its sockets, as the native thread knows them.

    `udp`, `tcp`: descriptors, the second of a listening socket, both open until after `close`.
    `lag_ns_max`: a loop that stands for longer is blocked. LimitReached beyond 256 nodes.
    """

    def __cinit__(self, int udp, int tcp, bytes secret not None, uint64_t incarnation, int64_t lag_ns_max):
        cdef Slot* slot
        if PyBytes_GET_SIZE(secret) != KEY_BYTES:
            raise ValueError(f"secret of {PyBytes_GET_SIZE(secret)} bytes: expected {KEY_BYTES}")
        if not hub.running:
            start()
        if hub.count == SLOTS_MAX:
            raise LimitReached(f"{SLOTS_MAX} nodes of this process answer liveness probes already")
        pthread_mutex_lock(&hub.mutex)
        slot = find(0)
        memset(slot, 0, sizeof(Slot))
        hub.numbers += 1
        self.number = slot.number = hub.numbers
        slot.udp, slot.tcp, slot.incarnation, slot.lag_ns_max = udp, tcp, incarnation, lag_ns_max
        memcpy(slot.secret, PyBytes_AS_STRING(secret), KEY_BYTES)
        slot.beat_ns = clock_ns()
        settle_down(slot)
        hub.count += 1
        hub.arranged += 1
        pthread_mutex_unlock(&hub.mutex)
        self.slot, self.epoch = slot, hub.epoch
        poke()

    def beat(self):
        """The loop turns.  If it was blocked until now: (for how many ns, state, stack)."""
        cdef int64_t now_ns = clock_ns(), lag_ns
        cdef Slot* slot = self.slot
        cdef int state
        if slot == NULL or self.epoch != hub.epoch:
            return None
        lag_ns = now_ns - load(&slot.beat_ns)
        if lag_ns < slot.lag_ns_max:
            store(&slot.beat_ns, now_ns)
            return None
        pthread_mutex_lock(&hub.mutex)
        if slot.stack_size:
            state = STACK
        elif slot.looked:
            state = LOCKED if now_ns - slot.asked_ns > LOCKED_NS else ASKED
        else:
            state = STILL
        stack = PyBytes_FromStringAndSize(slot.stack, slot.stack_size)
        settle_down(slot)
        store(&slot.beat_ns, now_ns)
        pthread_mutex_unlock(&hub.mutex)
        return lag_ns, state, stack

    def describe(self, bytes stack not None):
        """Where the loop stands, if it still does; what is over 1024 bytes is cut off its front."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(stack)
        cdef Py_ssize_t cut = max(0, size - STACK_BYTES)
        cdef Slot* slot = self.slot
        if slot == NULL or self.epoch != hub.epoch:
            return
        pthread_mutex_lock(&hub.mutex)
        if slot.looked:
            memcpy(slot.stack, PyBytes_AS_STRING(stack) + cut, size - cut)
            slot.stack_size = <int>(size - cut)
            slot.asked_ns = 0
        pthread_mutex_unlock(&hub.mutex)

    def counts(self):
        """Probes that were answered, and datagrams or connections that were passed over."""
        if self.slot == NULL or self.epoch != hub.epoch:
            return 0, 0
        return self.slot.answered, self.slot.dropped

    def close(self):
        """Answer no more; then the sockets may be closed. The last one ends the thread."""
        self.end()

    cdef int end(self) except -1:
        cdef Slot* slot = self.slot
        self.slot = NULL
        if slot == NULL or self.epoch != hub.epoch:
            return 0
        pthread_mutex_lock(&hub.mutex)
        memset(slot, 0, sizeof(Slot))
        hub.count -= 1
        hub.arranged += 1
        pthread_mutex_unlock(&hub.mutex)
        if hub.count:
            poke()
        else:
            stop()
        return 0

    def __dealloc__(self):
        # Whoever forgets `close` must not leave descriptors in the table that may become another's.
        self.end()

    def __repr__(self):
        return f"<Pulse {self.number}>"


def wait_blocked():
    """The number of a Pulse whose loop stands and whose stack is wanted; 0 when the thread ends."""
    cdef uint64_t number = 0
    cdef int i
    with nogil:
        pthread_mutex_lock(&hub.mutex)
        while number == 0 and not hub.stopping and hub.slots != NULL:
            for i in range(SLOTS_MAX):
                if hub.slots[i].number and hub.slots[i].wanted:
                    hub.slots[i].wanted = False
                    number = hub.slots[i].number
                    break
            else:
                pthread_cond_wait(&hub.blocked, &hub.mutex)
        pthread_mutex_unlock(&hub.mutex)
    return number


def is_running():
    """Whether there is a thread."""
    return hub.running


def forget_all():
    """In the child of a fork: there is no thread here, and every Pulse of before belongs to the parent."""
    hub.epoch += 1
    pthread_mutex_init(&hub.mutex, NULL)
    pthread_cond_init(&hub.blocked, NULL)
    if hub.running:
        close(hub.wake[0])
        close(hub.wake[1])
        # Not freed: another thread of the parent may have been about to write there.
    hub.running, hub.stopping, hub.count = False, False, 0
    hub.slots, hub.connections = NULL, NULL
