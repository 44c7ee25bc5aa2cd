// LOG(INFO) << ...; one line to stderr with time, level and place. Control characters of untrusted text are escaped.
// Levels: INFO, WARNING, ERROR. LOG never ends the process (see check.h).
#pragma once

#include <sstream>

namespace grouper::base {

enum class LogLevel { INFO, WARNING, ERROR };

// Lines below this level are not printed. Default INFO. Thread-safe.
void SetMinLogLevel(LogLevel level);

// Called around each line, so that a progress bar can step aside (metrics/progress.h). nullptr: none.
void SetLogHook(void (*before_line)(), void (*after_line)());

class LogLine {
 public:
  LogLine(LogLevel level, const char* file, int line) : level_(level), file_(file), line_(line) {}
  ~LogLine();
  std::ostream& stream() { return message_; }

 private:
  LogLevel level_;
  const char* file_;
  int line_;
  std::ostringstream message_;
};

}  // namespace grouper::base

#define LOG(level) \
  ::grouper::base::LogLine(::grouper::base::LogLevel::level, __FILE__, __LINE__).stream()
