// The system calls that a program in the sandbox may make, as a classic BPF program for `bwrap --seccomp`.
//
// Calls of Linux 4.18 and before (number <= 334) are allowed but for a list: other namespaces and mounts, tracing and other processes'
// memory, kernel modules, keys, bpf, perf events, userfaultfd, clocks, System V and POSIX queues and shared memory, memfd. Of later ones a
// few harmless ones are allowed (close_range, openat2, ...); the rest, io_uring and clone3 among them, do not exist (ENOSYS: the C library
// falls back). clone may not make namespaces, sockets are AF_UNIX alone, TIOCSTI and TIOCLINUX are refused. Denied calls give EPERM.
#pragma once

#include <string>

namespace grouper::code {

// The program's bytes (struct sock_filter), or empty where the machine is not x86-64.
std::string SeccompFilter();

}  // namespace grouper::code
