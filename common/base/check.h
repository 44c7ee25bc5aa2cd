// CHECK: a programmer's mistake ends the process with file, line and the condition.
// Never for bad input: whatever comes from a file, a recipe, a peer or a prompt gets an absl::Status (status.h).
// The names are Abseil's, whose own header is not in Debian 12's package.
#pragma once

#include <sstream>
#include <string>

namespace grouper::base {

// Collects the streamed message and aborts in its destructor.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

struct CheckVoidify {
  void operator&(std::ostream&) {}
};

}  // namespace grouper::base

#define CHECK(condition)                \
  (condition) ? (void)0                 \
              : ::grouper::base::CheckVoidify() & \
                    ::grouper::base::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define GROUPER_CHECK_OP(a, op, b) CHECK((a)op(b)) << " (" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) GROUPER_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) GROUPER_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) GROUPER_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) GROUPER_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) GROUPER_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) GROUPER_CHECK_OP(a, >=, b)
