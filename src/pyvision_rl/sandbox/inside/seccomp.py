"""seccomp: which system calls model code may make. An allow-list; what it does not name is ENOSYS.

In: the machine, and whether there is a scratch folder. Out: a BPF program, and ``install`` to
enforce it on this process for good. Calls known to be dangerous fail with EPERM and connections
with EACCES, so that model code reads a plain error. Calls of another ABI (32-bit, x32) end the
process or are ENOSYS.

The numbers are those of Linux's ``unistd.h``, written ``name:x86_64:aarch64``.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import kernel

_ALLOWED = """
read:0:63 write:1:64 close:3:57 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291
poll:7:- ppoll:271:73 lseek:8:62 open:2:- openat:257:56 openat2:437:437 creat:85:- access:21:-
faccessat:269:48 faccessat2:439:439 mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214
mremap:25:216 msync:26:227 mincore:27:232 madvise:28:233 mlock:149:228 mlock2:325:284
munlock:150:229 mlockall:151:230 munlockall:152:231 membarrier:324:283 rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 restart_syscall:219:128 pause:34:- pread64:17:67
pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70 preadv2:327:286
pwritev2:328:287 sendfile:40:71 splice:275:76 tee:276:77 copy_file_range:326:285 readahead:187:213
fadvise64:221:223 fallocate:285:47 sync_file_range:277:84 pipe:22:- pipe2:293:59 select:23:-
pselect6:270:72 dup:32:23 dup2:33:- dup3:292:24 fsync:74:82 fdatasync:75:83
ftruncate:77:46 close_range:436:436 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
epoll_ctl_old:214:- epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:-
eventfd2:290:19 timerfd_create:283:85 timerfd_settime:286:86 timerfd_gettime:287:87 signalfd:282:-
signalfd4:289:74 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
sendmmsg:307:269 recvmmsg:299:243 shutdown:48:210 getsockname:51:204 getpeername:52:205
getsockopt:55:209 setsockopt:54:208 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113
clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153 getitimer:36:102
setitimer:38:103 alarm:37:- timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_getoverrun:225:109 timer_delete:226:111 getpid:39:172 gettid:186:178 getppid:110:173
getpgrp:111:- getpgid:121:155 getsid:124:156 getuid:102:174 geteuid:107:175 getgid:104:176
getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpriority:140:141
getrlimit:97:163 setrlimit:160:164 getrusage:98:165 getcpu:309:168 sysinfo:99:179 uname:63:160
umask:95:166 capget:125:90 sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121
sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126
sched_rr_get_interval:148:127 futex:202:98 futex_waitv:449:449 set_tid_address:218:96
set_robust_list:273:99 get_robust_list:274:100 rseq:334:293 arch_prctl:158:- exit:60:93
exit_group:231:94 wait4:61:260 waitid:247:95 getrandom:318:278 getdents:78:- getdents64:217:61
getcwd:79:17 chdir:80:49 fchdir:81:50 readlink:89:- readlinkat:267:78 statfs:137:43 fstatfs:138:44
getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12
flistxattr:196:13 rename:82:- renameat:264:38 renameat2:316:276 mkdir:83:- mkdirat:258:34
rmdir:84:- unlink:87:- unlinkat:263:35 link:86:- linkat:265:37 symlink:88:- symlinkat:266:36
"""
_CHANGES = """
chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 truncate:76:45 utime:132:- utimes:235:-
futimesat:261:- utimensat:280:88
"""
_SOCKETS = """
socket:41:198 connect:42:203 bind:49:200 listen:50:201 accept:43:202 accept4:288:242
"""
_REFUSED = """
fork:57:- vfork:58:- execve:59:221 execveat:322:281 ptrace:101:117 process_vm_readv:310:270
process_vm_writev:311:271 process_madvise:440:440 process_mrelease:448:448 kcmp:312:272
flock:73:32 pidfd_open:434:434 pidfd_getfd:438:438 pidfd_send_signal:424:424 tkill:200:130
rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 mount:165:40 umount2:166:39 pivot_root:155:41
chroot:161:51 unshare:272:97 setns:308:268 fsopen:430:430 fsconfig:431:431 fsmount:432:432
fspick:433:433 move_mount:429:429 open_tree:428:428 mount_setattr:442:442 listmount:458:458
statmount:457:457 bpf:321:280 perf_event_open:298:241 userfaultfd:323:282 io_uring_setup:425:425
io_uring_enter:426:426 io_uring_register:427:427 add_key:248:217 request_key:249:218
keyctl:250:219 init_module:175:105 finit_module:313:273 delete_module:176:106 kexec_load:246:104
kexec_file_load:320:294 reboot:169:142 swapon:167:224 swapoff:168:225 syslog:103:116 acct:163:89
quotactl:179:60 quotactl_fd:443:443 sethostname:170:161 setdomainname:171:162 vhangup:153:58
settimeofday:164:170 clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266
personality:135:92 modify_ldt:154:- iopl:172:- ioperm:173:- mknod:133:- mknodat:259:33 chown:92:-
fchown:93:55 lchown:94:- fchownat:260:54 setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7
removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 setxattrat:463:463
open_by_handle_at:304:265 name_to_handle_at:303:264 fanotify_init:300:262 fanotify_mark:301:263
memfd_create:319:279 memfd_secret:447:447 vmsplice:278:75 remap_file_pages:216:234 mbind:237:235
set_mempolicy:238:237 migrate_pages:256:238 move_pages:279:239 shmget:29:194 shmat:30:196
shmctl:31:195 shmdt:67:197 semget:64:190 semop:65:193 semctl:66:191 semtimedop:220:192
msgget:68:186 msgsnd:69:189 msgrcv:70:188 msgctl:71:187 mq_open:240:180 mq_unlink:241:181
mq_timedsend:242:182 mq_timedreceive:243:183 setuid:105:146 setgid:106:144 setreuid:113:145
setregid:114:143 setresuid:117:147 setresgid:119:149 setgroups:116:159 setfsuid:122:151
setfsgid:123:152 capset:126:91 setsid:112:157 setpgid:109:154 setpriority:141:140
sched_setscheduler:144:119 sched_setparam:142:118 sched_setattr:314:274 ioprio_set:251:30
seccomp:317:277 landlock_create_ruleset:444:444 landlock_add_rule:445:445
landlock_restrict_self:446:446
"""
_BY_ARGUMENT = """
clone:56:220 clone3:435:435 prctl:157:167 ioctl:16:29 fcntl:72:25 kill:62:129 tgkill:234:131
prlimit64:302:261 sched_setaffinity:203:122 socketpair:53:199
"""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _JUMP = 0x20, 0x15, 0x35, 0x45, 0x06, 0x05
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where the program finds what it judges (``struct seccomp_data``)."""
_EPERM = _ERRNO | errno.EPERM

_NAMESPACES = 0x2000000 | sum(
    (kernel.NEWNS, kernel.NEWUTS, kernel.NEWIPC, kernel.NEWUSER, kernel.NEWPID, kernel.NEWNET)
)
_CLONE_PARENT, _CLONE_THREAD = 0x8000, 0x10000
_PRCTL = (2, 3, 15, 16, 21, 23, 27, 29, 30, 39, 0x53564D41)
"""Questions, the name of a thread, the slack of its timers, the name of a piece of memory."""
_IOCTL = (0x5412, 0x541C, 0x8901, 0x8902)
"""Not to be made: input put into a terminal, and signals sent by a descriptor."""
_FCNTL = (8, 10, 15, 1024, 1026, 1031)
"""Not to be made: signals sent by a descriptor, leases, huge pipes."""

_LENT_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""All that may be made where files of the user are held: whether one is a terminal, how much waits
to be read, whether it blocks or is inherited. Others change a file's attributes."""
_LENT_FCNTL = (*_FCNTL, 5, 6, 7, 36, 37, 38)
"""Not to be made there: locks too, by which sessions that hold the same file could talk."""

_UNIX = 1
_PAIRS = tuple(kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800))
"""Streams and packets, blocking or not. Datagrams could be sent to any socket with a path."""

Code = list[tuple[int, int, int, int]]
"""BPF instructions: (code, jump if true, jump if false, constant)."""


def supported() -> str:
    """Return why no filter can be made for this machine, or an empty text."""
    if kernel.MACHINE not in _ARCHITECTURES:
        return f"no table of system calls for {kernel.MACHINE}"
    try:
        kernel.prctl(21, 0)
    except OSError as error:
        return f"PR_GET_SECCOMP: {error.strerror}"
    return ""


def program(
    machine: str, *, writes: bool = True, lent: bool = False, own_pid: int | None = None
) -> bytes:
    """Return the filter as ``struct sock_filter`` records.

    Args:
        machine: x86_64 or aarch64.
        writes: Whether modes and times of files may be changed.
        lent: Whether files of the user are held, open for reading: nothing else may be done to
            them, so modes and times may not be changed either.
        own_pid: The one process that signals may be sent to; None when the PID namespace bounds
            them.
    """
    rules: dict[int, Code] = {}

    def add(table: str, code: Code) -> None:
        for item in table.split():
            number = item.split(":")[1 if machine == "x86_64" else 2]
            if number != "-":
                rules[int(number)] = code

    refused = _returns(_EPERM)
    add(_ALLOWED, _returns(_ALLOW))
    add(_CHANGES, _returns(_ALLOW) if writes and not lent else refused)
    add(_SOCKETS, _returns(_ERRNO | errno.EACCES))
    add(_REFUSED, refused)
    numbers = _numbers(_BY_ARGUMENT, machine)
    rules[numbers["clone"]] = _clone()
    rules[numbers["clone3"]] = _returns(_ERRNO | errno.ENOSYS)  # glibc then uses clone
    rules[numbers["prctl"]] = _only(0, _PRCTL)
    rules[numbers["ioctl"]] = _only(1, _LENT_IOCTL) if lent else _never(1, _IOCTL)
    rules[numbers["fcntl"]] = _never(1, _LENT_FCNTL if lent else _FCNTL)
    for name in ("prlimit64", "sched_setaffinity"):
        rules[numbers[name]] = _only(0, (0,))
    rules[numbers["socketpair"]] = _only(0, (_UNIX,), _only(1, _PAIRS))
    for name in ("kill", "tgkill"):
        rules[numbers[name]] = _returns(_ALLOW) if own_pid is None else _only(0, (own_pid,))
    code: Code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_tree(_spans(rules)),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(code: bytes) -> None:
    """Enforce the program on this process and its children. Needs no_new_privs; one thread."""
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(head)
    kernel.prctl(kernel.SECCOMP, 2, ctypes.addressof(pointer))


def _numbers(table: str, machine: str) -> dict[str, int]:
    rows = (item.split(":") for item in table.split())
    return {row[0]: int(row[1 if machine == "x86_64" else 2]) for row in rows}


def _returns(verdict: int) -> Code:
    return [(_RETURN, 0, 0, verdict)]


def _only(argument: int, values: tuple[int, ...], then: Code | None = None) -> Code:
    """Allow the call, or judge on, if the argument is one of the values; EPERM otherwise."""
    return _judged(argument, values, then or _returns(_ALLOW), _EPERM)


def _never(argument: int, values: tuple[int, ...]) -> Code:
    return _judged(argument, values, _returns(_EPERM), _ALLOW)


def _judged(argument: int, values: tuple[int, ...], found: Code, other: int) -> Code:
    # The low word: the kernel reads these arguments as 32 bits. Both machines are little-endian.
    code: Code = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        code.append((_EQUAL, left, 0, value))
    return [*code, (_RETURN, 0, 0, other), *found]


def _clone() -> Code:
    """Allow threads; never processes, siblings or namespaces."""
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_ANY_BIT, 0, 1, _NAMESPACES | _CLONE_PARENT),
        (_RETURN, 0, 0, _EPERM),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]


def _spans(rules: dict[int, Code]) -> list[tuple[int, Code]]:
    """Return (first number, what to do from there on), in order, beginning at 0."""
    unknown = _returns(_ERRNO | errno.ENOSYS)
    spans: list[tuple[int, Code]] = []
    for number in range(max(rules) + 2):
        code = rules.get(number, unknown)
        if not spans or spans[-1][1] != code:
            spans.append((number, code))
    return spans


def _tree(spans: list[tuple[int, Code]]) -> Code:
    """Return a binary search over the spans: some ten steps for any call, where a chain takes 200.

    The kernel also runs the program once for each number when it is installed.
    """
    if len(spans) == 1:
        return spans[0][1]
    middle = len(spans) // 2
    low, high = _tree(spans[:middle]), _tree(spans[middle:])
    if len(low) < 256:
        return [(_AT_LEAST, len(low), 0, spans[middle][0]), *low, *high]
    return [(_AT_LEAST, 0, 1, spans[middle][0]), (_JUMP, 0, 0, len(low)), *low, *high]
