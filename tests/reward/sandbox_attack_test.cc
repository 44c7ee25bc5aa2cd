// What a hostile program tries, one row each, and what must hold afterwards: it earns what it should, the service is unharmed, and nothing of it
// is left on the host. Where bubblewrap cannot run, the rule must refuse; then these tests skip and SandboxRefusal covers that.
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "gtest/gtest.h"
#include "reward/code/sandbox.h"
#include "tests/reward/rule_world.h"

namespace grouper {
namespace {

struct Attack {
  const char* name;
  const char* language;  // python, cpp
  const char* source;
  // "0": it must not earn. "1": an attack that is foiled while the program goes on and prints 42. Any: "?"
  const char* score;
  const char* reason;  // a part of the reason
};

// Each program is asked to print 42.
const Attack kAttacks[] = {
    // --- processes, time, memory, disk
    {"ForkBomb", "python", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n", "0", "time"},
    {"ForkBombInCpp", "cpp", "#include <unistd.h>\nint main() { while (true) fork(); }\n", "0", "time"},
    {"ThreadBomb", "python", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()\n", "0", ""},
    {"HeapBomb", "python", "x = []\nwhile True: x.append(bytearray(10 << 20))\n", "0", "memory"},
    {"HeapBombInCpp", "cpp", "#include <vector>\n#include <cstring>\nint main() { std::vector<char*> v; while (true) { v.push_back(new char[1 << 22]); memset(v.back(), 1, 1 << 22); } }\n", "0", "memory"},
    {"MmapBomb", "python", "import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 16 << 20); m.write(b'x' * (16 << 20)); x.append(m)\n", "0", ""},
    {"MemoryOfManyProcesses", "python", "import os, time\nfor i in range(8):\n    if os.fork() == 0: break\nx = bytearray(b'x' * (60 << 20))\ntime.sleep(9)\n", "0", "memory"},
    {"SharedMemoryFlood", "python", "with open('/dev/shm/x', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))\n", "0", ""},
    {"DiskFlood", "python", "i = 0\nwhile True:\n    i += 1\n    with open('/tmp/%d' % i, 'wb') as f: f.write(b'x' * (4 << 20))\n", "0", ""},
    {"InodeFlood", "python", "i = 0\nwhile True:\n    i += 1\n    open('/tmp/%d' % i, 'wb').close()\n", "0", ""},
    {"HugeSparseFile", "python", "with open('/tmp/x', 'wb') as f: f.truncate(1 << 40)\n", "0", ""},
    {"HugeFile", "python", "with open('/tmp/x', 'wb') as f:\n    for i in range(1000): f.write(b'x' * (1 << 20))\n", "0", ""},
    {"DescriptorFlood", "python", "x = []\nwhile True: x.append(open('/dev/null'))\n", "0", "run-time error"},
    {"EndlessStdout", "python", "while True: print('x' * 100000)\n", "0", "output"},
    {"EndlessStderr", "python", "import sys\nwhile True: sys.stderr.write('x' * 100000)\n", "0", "output"},
    {"EndlessBoth", "cpp", "#include <cstdio>\nint main() { while (true) { puts(\"x\"); fputs(\"y\", stderr); } }\n", "0", "output"},
    {"EndlessOutputWithoutNewline", "cpp", "#include <unistd.h>\nint main() { char b[65536] = {65}; while (true) write(1, b, sizeof b); }\n", "0", "output"},
    {"RightAnswerThenFlood", "python", "print(42, flush=True)\nwhile True: print('x' * 100000)\n", "0", "output"},
    {"BusyLoop", "python", "while True: pass\n", "0", "time"},
    {"SleepsPastTheLimit", "python", "import time\nprint(42, flush=True)\ntime.sleep(1000)\n", "0", "time"},
    {"IgnoresSigterm", "python", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass\n", "0", "time"},
    {"CpuInChildren", "python", "import os\nwhile True:\n    p = os.fork()\n    if p == 0:\n        for i in range(3000000): pass\n        os._exit(0)\n    os.waitpid(p, 0)\n", "0", "time"},
    {"SetsidDoubleFork", "python", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\nprint(42)\n", "1", ""},
    {"ChildHoldsThePipeOpen", "python", "import os, time\nprint(42, flush=True)\nif os.fork() == 0: time.sleep(1000)\n", "1", ""},
    {"CoreDump", "python", "import os, resource\ntry: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))\nexcept (ValueError, OSError): pass\nos.abort()\n", "0", "signal 6"},
    {"RaisesItsOwnLimits", "python", "import resource\nfor r in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n    try: resource.setrlimit(r, (-1, -1)); print('raised')\n    except (ValueError, OSError): pass\nprint(42)\n", "1", ""},
    // --- other processes
    {"KillsEverybody", "python", "import os, signal\nos.kill(-1, signal.SIGKILL)\nprint('alive')\n", "0", ""},
    {"KillsTheParent", "python", "import os, signal\nfor p in (os.getppid(), 1):\n    try: os.kill(p, signal.SIGKILL)\n    except OSError: pass\nprint(42)\n", "?", ""},
    {"KillsTheHost", "python", "import os, signal\ntry: os.kill(HOST_PID, signal.SIGKILL)\nexcept OSError: pass\nprint(42)\n", "1", ""},
    {"Ptrace", "cpp", "#include <sys/ptrace.h>\n#include <cstdio>\nint main() { puts(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 ? \"traced\" : \"42\"); }\n", "1", ""},
    {"ReadsTheParentsMemory", "python", "try: open('/proc/1/mem', 'rb').read(1); print('read')\nexcept OSError: print(42)\n", "1", ""},
    {"ReadsTheParentsEnvironment", "python", "import glob\nfor p in glob.glob('/proc/*/environ'):\n    try:\n        if b'GROUPER_SECRET' in open(p, 'rb').read(): print('leak')\n    except OSError: pass\nprint(42)\n", "1", ""},
    {"ReadsItsOwnEnvironment", "python", "import os\nprint(42 if not any('GROUPER' in k or 'SECRET' in k for k in os.environ) else os.environ)\n", "1", ""},
    {"SeesHostProcesses", "python", "import os\nprint(42 if len([p for p in os.listdir('/proc') if p.isdigit()]) <= 3 else 'hosts')\n", "1", ""},
    {"UsesInheritedDescriptors", "python", "import os\nopen_fds = [int(f) for f in os.listdir('/proc/self/fd')]\nprint(42 if all(f <= 3 for f in open_fds) else open_fds)\n", "1", ""},
    // --- files of the host
    {"ReadsShadow", "python", "print(open('/etc/shadow').read())\n", "0", "run-time error"},
    {"ReadsPasswd", "python", "print(open('/etc/passwd').read())\n", "0", "run-time error"},
    {"ReadsTheHome", "python", "import os\nprint(42 if not os.path.exists('/root') and not os.path.exists('/home') else 'home')\n", "1", ""},
    {"ReadsTheHostsTmp", "python", "import os\nprint(42 if not os.path.exists('HOST_FILE') else open('HOST_FILE').read())\n", "1", ""},
    {"ReadsTheSourceTree", "python", "import os\nprint(42 if not os.path.exists('SOURCE_DIR') else 'tree')\n", "1", ""},
    {"WritesOutside", "python", "n = 0\nfor p in ('/x', '/usr/x', '/usr/bin/x', '/code/x', '/etc/x', '/dev/x', '/var/tmp/x', '/proc/x', '/sys/x'):\n    try: open(p, 'w').close(); n += 1\n    except OSError: pass\nprint(42 + n)\n", "1", ""},
    {"WritesOverTheInterpreter", "python", "import os, sys\ntry: open(sys.executable, 'r+b'); print('opened')\nexcept OSError: print(42)\n", "1", ""},
    {"WritesOverItself", "python", "try: open('/code/main.py', 'w'); print('opened')\nexcept OSError: print(42)\n", "1", ""},
    {"SymlinkToTheHost", "python", "import os\nos.symlink('/etc/shadow', '/tmp/a')\nos.symlink('/proc/1/root/etc/shadow', '/tmp/b')\nn = 0\nfor p in ('/tmp/a', '/tmp/b'):\n    try: open(p).read(); n += 1\n    except OSError: pass\nprint(42 + n)\n", "1", ""},
    {"SymlinkInPlaceOfOutput", "python", "import os\nos.symlink('HOST_FILE', '/tmp/output')\nos.mkfifo('/tmp/result')\nprint(42)\n", "1", ""},
    {"LeavesFiles", "python", "for d in ('/tmp', '/dev/shm'):\n    open(d + '/GROUPER_LEFT', 'w').write('x')\nprint(42)\n", "1", ""},
    {"ReadsTheExpectedOutput", "python", "import os\nfound = []\nfor root, dirs, files in os.walk('/'):\n    dirs[:] = [d for d in dirs if os.path.join(root, d) not in ('/proc', '/usr', '/sys', '/dev')]\n    found += [os.path.join(root, f) for f in files]\nprint(42 if [f for f in found if not f.startswith('/etc/')] == ['/code/main.py'] else found)\n", "1", ""},
    {"ReadsTheExpectedOutputInArguments", "python", "import glob\nall = b''.join(open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline'))\nprint(42 if b'expected' not in all and b'SECRET' not in all else 'seen')\n", "1", ""},
    // --- network and kernel
    {"Tcp", "python", "import socket\ntry: socket.create_connection(('1.1.1.1', 80), 1); print('up')\nexcept OSError: print(42)\n", "1", ""},
    {"TcpToTheHostsLoopback", "python", "import socket\ntry: socket.socket(socket.AF_INET, socket.SOCK_STREAM); print('socket')\nexcept OSError: print(42)\n", "1", ""},
    {"Udp", "python", "import socket\ntry: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)); print('sent')\nexcept OSError: print(42)\n", "1", ""},
    {"Dns", "python", "import socket\ntry: socket.gethostbyname('example.com'); print('resolved')\nexcept OSError: print(42)\n", "1", ""},
    {"Netlink", "python", "import socket\ntry: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('netlink')\nexcept OSError: print(42)\n", "1", ""},
    {"AbstractUnixSocket", "python", "import socket\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect('\\0/tmp/.X11-unix/X0'); print('connected')\nexcept OSError: print(42)\n", "1", ""},
    {"NewNamespaces", "cpp", "#include <sched.h>\n#include <cstdio>\nint main() { puts(unshare(CLONE_NEWUSER) == 0 || unshare(CLONE_NEWNS) == 0 ? \"new\" : \"42\"); }\n", "1", ""},
    {"CloneNewUser", "cpp", "#include <sched.h>\n#include <csignal>\n#include <cstdio>\n#include <sys/syscall.h>\n#include <unistd.h>\nint main() { long r = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); if (r == 0) _exit(0); puts(r > 0 ? \"new\" : \"42\"); }\n", "1", ""},
    {"Mount", "cpp", "#include <sys/mount.h>\n#include <cstdio>\nint main() { puts(mount(\"none\", \"/tmp\", \"tmpfs\", 0, \"\") == 0 ? \"mounted\" : \"42\"); }\n", "1", ""},
    {"DangerousSystemCalls", "cpp", "#include <cerrno>\n#include <cstdio>\n#include <initializer_list>\n#include <unistd.h>\nint main() { int bad = 0; for (long n : {321L, 425L, 250L, 298L, 323L, 310L, 311L, 248L, 272L, 308L, 155L, 161L, 175L, 246L, 169L, 319L, 29L, 435L, 438L, 442L, 462L}) { errno = 0; if (syscall(n, 0, 0, 0, 0, 0, 0) != -1 || (errno != EPERM && errno != ENOSYS)) ++bad; } std::printf(\"%d\\n\", 42 + bad); }\n", "1", ""},
    {"Tiocsti", "cpp", "#include <sys/ioctl.h>\n#include <cerrno>\n#include <cstdio>\nint main() { char c = 'x'; errno = 0; int r = ioctl(0, TIOCSTI, &c); puts(r == -1 && errno == EPERM ? \"42\" : \"pushed\"); }\n", "1", ""},
    {"SetuidBinaries", "python", "import os\ntry: os.setuid(0); print('root')\nexcept OSError: print(42)\n", "1", ""},
    {"Sudo", "python", "import subprocess\nr = subprocess.run(['/bin/su', '-c', 'id'], input='', capture_output=True, text=True)\nprint(42 if 'uid=0' not in r.stdout else r.stdout)\n", "1", ""},
    // --- forged verdicts
    {"ExitsWithZero", "python", "import sys\nsys.exit(0)\n", "0", "wrong"},
    {"OsExit", "python", "import os\nos._exit(0)\n", "0", "wrong"},
    {"FakeTestReport", "python", "print('===== 5 passed in 0.01s =====')\nprint('all tests passed')\n", "0", "wrong"},
    {"PrefixOfTheOutput", "python", "print('4', end='')\n", "0", "wrong"},
    {"LastLineOfALongerOutput", "python", "for i in range(43): print(i)\n", "0", "wrong"},
    {"RightAnswerThenCrash", "python", "print(42, flush=True)\nraise SystemExit(3)\n", "0", "run-time error"},
    {"SystemExitSubclass", "python", "class E(SystemExit): pass\nprint(42, flush=True)\nraise E(1)\n", "0", "run-time error"},
    {"TenMegabytesOfException", "python", "raise Exception('x' * 10000000)\n", "0", ""},
    {"AnsiEscapesAndBadUtf8", "python", "import sys\nsys.stdout.buffer.write(b'\\x1b[2J\\xff\\xfe42\\x00')\n", "0", "wrong"},
    // --- the compiler
    {"IncludesDevZero", "cpp", "#include \"/dev/zero\"\nint main() {}\n", "0", "compile error"},
    {"IncludesShadow", "cpp", "#include \"/etc/shadow\"\nint main() {}\n", "0", "compile error"},
    {"TemplateBomb", "cpp", "template <int N> struct T { typename T<N + 1>::type x; };\nint main() { T<0> t; }\n", "0", "compile error"},
    {"GigabyteArray", "cpp", "char x[1 << 30] = {1};\nint main() { __builtin_printf(\"%d\", 41 + x[0]); }\n", "0", ""},
    {"AssemblerIncludes", "cpp", "asm(\".incbin \\\"/etc/shadow\\\"\");\nint main() {}\n", "0", "compile error"},
};

bool SandboxWorks() {
  static const bool works = code::Sandbox::Create().ok();
  return works;
}

const char kSecret[] = "GROUPER_SECRET_SENTINEL";

class SandboxAttack : public ::testing::TestWithParam<Attack> {
 protected:
  static RuleWorld& World() {
    setenv(kSecret, kSecret, 1);
    static RuleWorld& world = *new RuleWorld("rules { code { cpu_seconds: 1 wall_seconds: 4 memory_mb: 256 } }");
    return world;
  }
};

int ProcessesNamed(const std::string& needle) {
  int count = 0;
  DIR* const proc = opendir("/proc");
  while (const dirent* entry = readdir(proc)) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    std::ifstream in(absl::StrCat("/proc/", entry->d_name, "/cmdline"));
    std::ostringstream line;
    line << in.rdbuf();  // which does not throw where the process has ended meanwhile
    count += absl::StrContains(line.str(), needle);
  }
  closedir(proc);
  return count;
}

TEST_P(SandboxAttack, IsContained) {
  if (!SandboxWorks()) GTEST_SKIP() << "no sandbox here: " << code::Sandbox::Create().status();
  const Attack& attack = GetParam();
  const std::string host_file = absl::StrCat(testing::TempDir(), "/grouper_host_file_", getpid());
  std::ofstream(host_file) << "of the host";
  const std::string source = absl::StrReplaceAll(
      attack.source, {{"HOST_PID", absl::StrCat(getpid())}, {"HOST_FILE", host_file}, {"SOURCE_DIR", GROUPER_SOURCE_DIR}});
  const std::string row = R"({"tests": [{"input": "", "output": "42\n"}]})";
  const absl::Time begin = absl::Now();
  const std::string score = World().Score(absl::StrCat("```", attack.language, "\n", source, "```"), row);
  const std::string reason = World().last().reason();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60)) << attack.name;
  if (attack.score[0] == '?') {
    EXPECT_TRUE(score == "0" || score == "1") << score << ": " << reason;
  } else {
    EXPECT_EQ(score, attack.score) << reason;
  }
  EXPECT_TRUE(absl::StrContains(reason, attack.reason)) << reason;
  EXPECT_FALSE(absl::StrContains(reason, kSecret)) << reason;

  // Unharmed: the next honest program is judged as ever, and nothing of this one is left.
  EXPECT_EQ(World().Score("```python\nprint(6 * 7)\n```", row), "1") << World().last().reason();
  std::ifstream in(host_file);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>()), "of the host");
  unlink(host_file.c_str());
  struct stat info;
  for (const char* left : {"/tmp/GROUPER_LEFT", "/dev/shm/GROUPER_LEFT"}) EXPECT_NE(stat(left, &info), 0) << left;
  for (int tries = 0; tries < 20 && ProcessesNamed("/code/main.py") > 0; ++tries) usleep(10000);
}

INSTANTIATE_TEST_SUITE_P(List, SandboxAttack, ::testing::ValuesIn(kAttacks),
                         [](const ::testing::TestParamInfo<Attack>& info) { return std::string(info.param.name); });

TEST(Sandbox, LeavesNoProcess) {
  auto sandbox = code::Sandbox::Create();
  if (!sandbox.ok()) GTEST_SKIP() << sandbox.status();
  code::SandboxJob job;
  const std::string marker = absl::StrCat("marker_", getpid(), "_left");
  job.command = {"/bin/sh", "-c", absl::StrCat("(setsid sh -c 'sleep 1000; : ", marker, "' &) ; : ", marker, "; echo done")};
  const auto result = sandbox->Run(job);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, "done\n");
  int left = 1;
  for (int tries = 0; tries < 10 && (left = ProcessesNamed(marker)) > 0; ++tries) usleep(10000);
  EXPECT_EQ(left, 0);
}

TEST(Sandbox, TellsTheProcessorTimeOfWhatItKilled) {
  auto sandbox = code::Sandbox::Create();
  if (!sandbox.ok()) GTEST_SKIP() << sandbox.status();
  code::SandboxJob job;
  job.command = {"/bin/sh", "-c", "while :; do :; done"};
  job.limits.cpu_seconds = 0.5;
  const auto result = sandbox->Run(job);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->end, code::SandboxResult::End::kCpu);
  EXPECT_GE(result->cpu_seconds, 0.5);
  EXPECT_LT(result->cpu_seconds, 5);
}

TEST(Sandbox, ReportsHowAProgramEnded) {
  auto sandbox = code::Sandbox::Create();
  if (!sandbox.ok()) GTEST_SKIP() << sandbox.status();
  using End = code::SandboxResult::End;
  struct Case {
    const char* script;
    End end;
    int code;
  };
  for (const Case& c : {Case{"exit 0", End::kExited, 0}, Case{"exit 7", End::kExited, 7}, Case{"kill -9 $$", End::kSignalled, SIGKILL},
                        Case{"kill -11 $$", End::kSignalled, SIGSEGV}, Case{"while :; do :; done", End::kCpu, 0}, Case{"sleep 100", End::kWall, 0},
                        Case{"cat /dev/zero", End::kOutput, 0}}) {
    code::SandboxJob job;
    job.command = {"/bin/sh", "-c", c.script};
    job.limits.cpu_seconds = 0.5;
    job.limits.wall_seconds = 3;
    const auto result = sandbox->Run(job);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(static_cast<int>(result->end), static_cast<int>(c.end)) << c.script << " " << result->errors;
    if (c.end == End::kExited || c.end == End::kSignalled) {
      EXPECT_EQ(result->code, c.code) << c.script;
    }
  }
}

TEST(Sandbox, GivesInputAndTakesOutputOfMegabytes) {
  auto sandbox = code::Sandbox::Create();
  if (!sandbox.ok()) GTEST_SKIP() << sandbox.status();
  const std::string input(3 << 20, 'x');
  code::SandboxJob job;
  job.command = {"/bin/cat"};
  job.input = input;
  job.limits.output_kb = 4096;
  auto result = sandbox->Run(job);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, input);
  job.command = {"/bin/true"};  // which reads nothing
  result = sandbox->Run(job);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->code, 0);
}

// Never unconfined: without bubblewrap, or with one that cannot or does not confine, there is no rule at all.
TEST(SandboxRefusal, WithoutAWorkingBubblewrapTheRuleIsRefused) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/grouper_bwrap_", getpid());
  mkdir(directory.c_str(), 0700);
  const auto script = [&](const char* name, const char* text) {
    const std::string path = absl::StrCat(directory, "/", name);
    std::ofstream(path) << text;
    chmod(path.c_str(), 0755);
    return path;
  };
  chmod(directory.c_str(), 0755);
  const std::pair<std::string, const char*> cases[] = {
      {"/no/such/bwrap", "bubblewrap is not installed"},
      {script("fails", "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"), "No permissions to create new namespace"},
      {script("unconfined", "#!/bin/bash\nwhile [ \"$1\" != -- ]; do [ \"$1\" = --json-status-fd ] && fd=$2; shift; done\nshift\n\"$@\"\n"
                            "eval \"echo '{ \\\"exit-code\\\": 0 }' >&$fd\"\n"), "does not confine"},
  };
  for (const auto& [path, reason] : cases) {
    setenv("GROUPER_BUBBLEWRAP", path.c_str(), 1);
    const auto rules = MakeRules("rules { code {} }");
    EXPECT_EQ(rules.status().code(), absl::StatusCode::kFailedPrecondition) << path;
    EXPECT_TRUE(absl::StrContains(rules.status().message(), reason)) << path << ": " << rules.status();
    EXPECT_TRUE(absl::StrContains(rules.status().message(), "reward.rules[0].code.sandbox")) << rules.status();
    EXPECT_TRUE(absl::StrContains(rules.status().message(), "never run outside")) << rules.status();
  }
  unsetenv("GROUPER_BUBBLEWRAP");
}

}  // namespace
}  // namespace grouper
