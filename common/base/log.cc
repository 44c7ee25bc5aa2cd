#include "common/base/log.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>

#include <sys/time.h>

namespace grouper::base {
namespace {

std::atomic<int> min_level{static_cast<int>(LogLevel::INFO)};
std::atomic<void (*)()> hook_before{nullptr};
std::atomic<void (*)()> hook_after{nullptr};

std::string EscapeControl(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (unsigned char c : text) {
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\x%02x", c);
      out += buffer;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

}  // namespace

void SetMinLogLevel(LogLevel level) { min_level = static_cast<int>(level); }

void SetLogHook(void (*before_line)(), void (*after_line)()) {
  hook_before = before_line;
  hook_after = after_line;
}

LogLine::~LogLine() {
  if (static_cast<int>(level_) < min_level) return;
  timeval now;
  gettimeofday(&now, nullptr);
  tm parts;
  localtime_r(&now.tv_sec, &parts);
  const char* slash = std::strrchr(file_, '/');
  const std::string text = EscapeControl(message_.str());
  if (auto hook = hook_before.load()) hook();
  std::fprintf(stderr, "%c %02d:%02d:%02d.%03d %s:%d] %s\n", "IWE"[static_cast<int>(level_)], parts.tm_hour,
               parts.tm_min, parts.tm_sec, static_cast<int>(now.tv_usec / 1000), slash ? slash + 1 : file_, line_,
               text.c_str());
  if (auto hook = hook_after.load()) hook();
}

}  // namespace grouper::base
