#include "reward/code/seccomp_filter.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <vector>

namespace grouper::code {

#if defined(__x86_64__)
namespace {

constexpr uint32_t kLastOldCall = 334;         // rseq, Linux 4.18
constexpr uint32_t kX32Bit = 0x40000000;       // the other ABI of this architecture
constexpr uint32_t kNamespaceFlags = 0x7E020000;  // CLONE_NEW*

constexpr uint32_t kDenied[] = {
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns, SYS_name_to_handle_at, SYS_open_by_handle_at,
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module, SYS_delete_module,
    SYS_swapon, SYS_swapoff, SYS_reboot, SYS_sethostname, SYS_setdomainname, SYS_iopl, SYS_ioperm, SYS_acct, SYS_quotactl, SYS_syslog,
    SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime, SYS_personality, SYS_vhangup, SYS_modify_ldt,
    SYS_mbind, SYS_migrate_pages, SYS_move_pages, SYS_set_mempolicy, SYS_remap_file_pages, SYS_fanotify_init,
    SYS_memfd_create, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_semget, SYS_semop, SYS_semctl, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl,
    SYS_mq_open, SYS_io_setup, SYS_vmsplice, SYS_uselib, SYS_ustat, SYS_sysfs, SYS__sysctl, SYS_lookup_dcookie, SYS_nfsservctl,
};
constexpr uint32_t kAllowedNew[] = {424 /* pidfd_send_signal */, 434 /* pidfd_open */, 436 /* close_range */, 437 /* openat2 */,
                                    439 /* faccessat2 */,        441 /* epoll_pwait2 */, 449 /* futex_waitv */};

class Program {
 public:
  void Load(size_t offset) { code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset))); }
  void And(uint32_t mask) { code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask)); }
  void Return(uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }
  // Skips the next `skip` statements when the accumulator compares so.
  void SkipUnlessEqual(uint32_t value, uint8_t skip) { code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)); }
  void SkipIfEqual(uint32_t value, uint8_t skip) { code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, skip, 0)); }
  void SkipUnlessAtLeast(uint32_t value, uint8_t skip) { code_.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, 0, skip)); }
  std::string Bytes() const {
    return std::string(reinterpret_cast<const char*>(code_.data()), code_.size() * sizeof(sock_filter));
  }

 private:
  std::vector<sock_filter> code_;
};

}  // namespace

std::string SeccompFilter() {
  constexpr uint32_t kDeny = SECCOMP_RET_ERRNO | EPERM, kAbsent = SECCOMP_RET_ERRNO | ENOSYS;
  constexpr size_t kNumber = offsetof(seccomp_data, nr), kArgument0 = offsetof(seccomp_data, args[0]), kArgument1 = offsetof(seccomp_data, args[1]);
  Program p;
  p.Load(offsetof(seccomp_data, arch));
  p.SkipIfEqual(AUDIT_ARCH_X86_64, 1);
  p.Return(SECCOMP_RET_KILL_PROCESS);
  p.Load(kNumber);
  p.SkipUnlessAtLeast(kX32Bit, 1);
  p.Return(kAbsent);
  for (const uint32_t call : kDenied) {
    p.SkipUnlessEqual(call, 1);
    p.Return(kDeny);
  }
  for (const uint32_t call : kAllowedNew) {
    p.SkipUnlessEqual(call, 1);
    p.Return(SECCOMP_RET_ALLOW);
  }
  p.SkipUnlessAtLeast(kLastOldCall + 1, 1);
  p.Return(kAbsent);
  p.SkipUnlessEqual(SYS_clone, 5);
  p.Load(kArgument0);
  p.And(kNamespaceFlags);
  p.SkipIfEqual(0, 1);
  p.Return(kDeny);
  p.Return(SECCOMP_RET_ALLOW);
  for (const uint32_t call : {SYS_socket, SYS_socketpair}) {
    p.SkipUnlessEqual(call, 4);
    p.Load(kArgument0);
    p.SkipIfEqual(AF_UNIX, 1);
    p.Return(kDeny);
    p.Return(SECCOMP_RET_ALLOW);
  }
  p.SkipUnlessEqual(SYS_ioctl, 5);
  p.Load(kArgument1);
  p.SkipIfEqual(TIOCSTI, 1);
  p.SkipUnlessEqual(TIOCLINUX, 1);
  p.Return(kDeny);
  p.Return(SECCOMP_RET_ALLOW);
  p.Return(SECCOMP_RET_ALLOW);
  return p.Bytes();
}
#else
std::string SeccompFilter() { return ""; }
#endif

}  // namespace grouper::code
