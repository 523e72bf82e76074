"""The system calls that a sandbox refuses: those that take memory or leave data unseen.

Namespaces of one's own would bring file systems without limits; memfd_create, System V's shared
memory and io_uring hold memory that belongs to no process; keys outlive the sandbox. Rights of
files don't change, though it looks so: device files are the machine's own, and root's are root's.
"""

import platform
import struct

# machine → its number in the kernel's audit, clone, clone3, and the calls that are refused
REFUSED = {
    "x86_64": (0xC000003E, 56, 435, {
        "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "pivot_root": 155, "mount": 165,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "perf_event_open": 298, "setns": 308, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
    }),
    "aarch64": (0xC00000B7, 220, 435, {
        "mount": 40, "pivot_root": 41, "unshare": 97, "msgget": 186, "semget": 190, "shmget": 194,
        "shmat": 196, "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241,
        "setns": 268, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
    }),
}
IGNORED = {  # chmod, chown and their kin
    "x86_64": (90, 91, 92, 93, 94, 260, 268, 452), "aarch64": (52, 53, 54, 55, 452),
}
REFUSED_EVERYWHERE = {"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430,
                      "mount_setattr": 442, "memfd_secret": 447}
LOAD, EQUAL, AT_LEAST, HAS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # [bytes] into what a filter sees
# Go on; say that it is done; EPERM; ENOSYS.
ALLOW, IGNORE, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050000, 0x00050001, 0x00050026
NEW_USER, OTHER_ABI = 0x10000000, 0x40000000  # a flag of clone; x86-64's numbers of 32-bit calls


def filter():
    """The filter for this machine, as `bwrap --seccomp` reads it; empty for an unknown machine."""
    if platform.machine() not in REFUSED:
        return b""
    machine, clone, clone3, refused = REFUSED[platform.machine()]
    steps = [
        (LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, UNKNOWN),
        (LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, OTHER_ABI), (RETURN, 0, 0, UNKNOWN),
        (EQUAL, 0, 1, clone3), (RETURN, 0, 0, UNKNOWN),  # libc then uses clone
    ]
    for number in [*refused.values(), *REFUSED_EVERYWHERE.values()]:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    for number in IGNORED[platform.machine()]:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, IGNORE)]
    steps += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT), (HAS, 0, 1, NEW_USER),
              (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
