"""What a session tries in the self-check: code of ours, run as a model's would be.

Each piece calls ``refused`` with what must raise or return -1, or ``holds`` with what must be true.
``NAME`` is what the piece is called; ``FOLDER`` one of the driver's, open to everyone, ``DRIVER``
its process id, ``ENVIRONMENT`` the names that a session's environment may hold.
"""

PRELUDE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
failed = []
def refused(name, attack):
    try:
        result = attack()
    except (OSError, PermissionError):
        return
    if result != -1:
        failed.append(name)
def holds(name, claim):
    if not claim:
        failed.append(name)
"""

ATTACKS: dict[str, str] = {
    "reads a file of the driver": "refused(NAME, lambda: open(FOLDER + '/canary').read())",
    "lists a folder of the driver": "refused(NAME, lambda: os.listdir(FOLDER))",
    "writes into a folder of the driver": "refused(NAME, lambda: open(FOLDER + '/new', 'w'))",
    "deletes a file of the driver": "refused(NAME, lambda: os.remove(FOLDER + '/canary'))",
    "changes the mode of a file": "refused(NAME, lambda: os.chmod(FOLDER + '/canary', 0))",
    "reads the user database": "refused(NAME, lambda: open('/etc/passwd').read())",
    "writes beside the standard library": "refused(NAME, lambda: open(os.__file__ + 'x', 'w'))",
    "opens a TCP socket": "refused(NAME, lambda: socket.socket())",
    "opens a Unix socket": "refused(NAME, lambda: socket.socket(socket.AF_UNIX))",
    "signals the driver": "os.getpid() == DRIVER or refused(NAME, lambda: os.kill(DRIVER, 0))",
    "forks": "refused(NAME, lambda: os.fork() or os._exit(0))",
    "runs a program": (
        "holds(NAME, libc.execv(b'/no/such', None) == -1 and ctypes.get_errno() == 1)"
    ),
    "makes namespaces": "refused(NAME, lambda: libc.unshare(0x10000000))",
    "mounts": "refused(NAME, lambda: libc.mount(b'x', b'/', b'tmpfs', 0, None))",
    "traces": "refused(NAME, lambda: libc.ptrace(16, DRIVER, None, None))",
    "becomes root": "refused(NAME, lambda: os.setresuid(0, 0, 0))",
    "has secrets in its environment": "holds(NAME, set(os.environ) <= ENVIRONMENT)",
    "could gain rights": "holds(NAME, libc.prctl(39, 0, 0, 0, 0) == 1)",
    "runs without a filter of system calls": "holds(NAME, libc.prctl(21, 0, 0, 0, 0) == 2)",
    "has capabilities": (
        # But to read, where only root can read the interpreter.
        "sets = (ctypes.c_uint * 6)()\n"
        "libc.capget((ctypes.c_uint * 2)(0x20080522, 0), sets)\n"
        "holds(NAME, {*sets[:2]} <= {0, 4} and not any(sets[2:]))"
    ),
    "inherits open files": (
        "def is_open(fd):\n"
        "    try: return bool(os.fstat(fd))\n"
        "    except OSError: return False\n"
        "holds(NAME, sum(map(is_open, range(256))) == 4)"
    ),
}
"""What no session may do at any level with isolation -> code that tries."""
PROCESSES = "holds(NAME, os.getpid() == 1)"
"""Holds where sessions have a process namespace."""
