"""Attacks 67-71: code that opens connections.

They go to listeners of the test on loopback, and nowhere else.
"""

from __future__ import annotations

import textwrap

import pytest
from attack_bench import Arena
from attack_records import DONE, Attack, words

NO_SOCKET = words("EACCES", "EPERM")
TCP = """
def connect(family, *address):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(address[0] if len(address) == 1 else address)
        sock.sendall(b"hello")
"""

ATTACKS = (
    Attack(
        "067a",
        "tcp",
        TCP + "attempt(connect, socket.AF_INET, '127.0.0.1', TCP)",
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "067b",
        "tcp6",
        TCP + "attempt(connect, socket.AF_INET6, '::1', TCP6)",
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "067c",
        "udp",
        """
        def send():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", ("127.0.0.1", UDP))
        attempt(send)
        """,
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "067d",
        "listen",
        """
        def listen():
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                sock.listen()
        attempt(listen)
        """,
        NO_SOCKET,
        control=DONE,
    ),
    Attack(
        "067e",
        "raw_and_netlink",
        """
        for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW),
                             (socket.AF_NETLINK, socket.SOCK_RAW), (40, socket.SOCK_STREAM)):
            attempt(lambda: socket.socket(family, kind, 1 if family == 2 else 0).close())
        """,
        NO_SOCKET,
        control=words("DONE", "EAFNOSUPPORT"),
        root=True,
    ),
    Attack(
        "068",
        "urllib",
        """
        import urllib.request
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{TCP}/", timeout=2).read()
            print("DONE")
        except OSError as error:
            print(errno.errorcode[error.reason.errno])
        """,
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "069a",
        "unix_socket",
        TCP + "attempt(connect, socket.AF_UNIX, UNIX)",
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "069b",
        "abstract_unix_socket",
        TCP + "attempt(connect, socket.AF_UNIX, ABSTRACT)",
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "069c",
        "datagram_by_a_socket_pair",
        """
        def send(name):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            ours.sendto(b"hello", name)
        attempt(send, DATAGRAM)
        attempt(send, "\\0" + DATAGRAM)
        """,
        words("EPERM", "EACCES"),
        control=DONE,
        contact=True,
    ),
    Attack(
        "070a",
        "dns_question",
        """
        def ask():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                name = b"\\x06canary\\x07invalid\\x00"
                question = struct.pack(">6H", 1, 256, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
                sock.connect(("127.0.0.1", UDP))
                sock.send(question)
        attempt(ask)
        """,
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
    Attack(
        "070b",
        "resolver",
        """
        # A resolver that could open a socket is not asked: nothing may leave this machine.
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        except OSError:
            began = time.monotonic()
            attempt(socket.getaddrinfo, "localhost", 53)
            print("QUICK" if time.monotonic() - began < 2 else "SLOW")
        else:
            print("SOCKET")
        """,
        words("gaierror", "EAI", "EPERM", "EACCES", "EAGAIN", "DONE", "QUICK"),
        no_control="the question could leave the machine",
    ),
    Attack(
        "071",
        "metadata_service",
        """
        import http.client
        def ask():
            service = http.client.HTTPConnection("127.0.0.1", TCP, timeout=2)
            service.request("GET", "/latest/meta-data/", headers={"Metadata-Flavor": "x"})
            service.getresponse().read()
            service.close()
        attempt(ask)
        """,
        NO_SOCKET,
        control=DONE,
        contact=True,
    ),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda a: a.id)
def test_control(unsafe: Arena, attack: Attack) -> None:
    unsafe.show(attack)


def test_socket_pairs_of_other_kinds_are_refused_or_stay_pairs(arena: Arena) -> None:
    code = """
    for family in range(1, 46):
        for kind in range(1, 11):
            try:
                ours, theirs = socket.socketpair(family, kind)
            except OSError:
                continue
            try:
                ours.sendto(b"hello", DATAGRAM)
                print("SENT", family, kind)
            except OSError:
                print("PAIR", family, kind)
    """
    code = arena.preamble() + textwrap.dedent(code)
    contacts = arena.host.listeners.count
    # SEQPACKET takes no notice of the address: what is sent goes to the other end of the pair.
    [result] = arena.cells(code)
    assert set(result.output.splitlines()) <= {"PAIR 1 1", "SENT 1 5"}
    assert arena.host.listeners.count == contacts


def test_asyncio_still_works_without_sockets(arena: Arena) -> None:
    [result] = arena.cells("import asyncio\nasyncio.run(asyncio.sleep(0, 3))")
    assert (result.output, result.error) == ("3\n", "")
